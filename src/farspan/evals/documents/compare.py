"""Two runs of one benchmark compared answer by answer: the same question, the same order, another model or recipe.

Questions on one document are resampled together. Only what both runs answered is compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from farspan.evals.documents.base import BenchmarkError, Dataset, DocumentBenchmark, Reading
from farspan.evals.documents.run import DocumentRun, Predictions, with_cut
from farspan.evals.documents.scored import Scored

DRAWS = 2000
PREDICTIONS = "predictions.jsonl"


@dataclass(frozen=True)
class PairedDifference:
    """Mean score of one run minus that of another, in percent, with its 95 % interval.

    n : answers both have
    documents : documents behind them; below two there is no interval, and both ends are not a number
    """

    name: str
    mean: float
    lo: float
    hi: float
    n: int
    documents: int

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.lo > 0 or self.hi < 0

    def __str__(self) -> str:
        if self.documents < 2:
            return f"{self.name}: {self.mean:+.2f} over {self.n} answers on one document, which is no interval"
        told = "" if self.clear else ", which does not exclude 0"
        return (
            f"{self.name}: {self.mean:+.2f}, 95 % interval {self.lo:+.2f} to {self.hi:+.2f} over {self.n} answers on "
            f"{self.documents} documents{told}"
        )


def compared(after: Sequence[Scored], before: Sequence[Scored], *, seed: int = 0) -> list[PairedDifference]:
    """Differences by set, and over all sets where there are several.

    Raises
    ------
    BenchmarkError : the runs have no answer in common.
    """
    known = {(one.sample.task, one.sample.id, one.run): one for one in before}
    pairs: dict[str, list[tuple[str, float]]] = {}
    for one in after:
        other = known.get((one.sample.task, one.sample.id, one.run))
        if other is not None:
            key = one.sample.shared_context_key or one.sample.id
            pairs.setdefault(one.sample.task, []).append((key, one.score - other.score))
    if not pairs:
        raise BenchmarkError("the two runs have no answer to the same question; compare runs of the same sets")
    found = [_difference(name, part, seed) for name, part in pairs.items()]
    if len(pairs) > 1:
        found.append(_difference("all sets", [pair for part in pairs.values() for pair in part], seed))
    return found


def kept_run(
    made: DocumentBenchmark,
    reading: Reading,
    datasets: Sequence[Dataset],
    folder: str | Path,
    *,
    data_dir: str | Path | None = None,
    limit: int | None = None,
) -> DocumentRun:
    """An earlier run's answers, scored in a reading; nothing is asked.

    Parameters
    ----------
    folder : what the run was given as --out, or the benchmark's folder in it

    Raises
    ------
    BenchmarkError : there are no answers of this benchmark.
    """
    path = next((p for p in (Path(folder) / made.name / PREDICTIONS, Path(folder) / PREDICTIONS) if p.is_file()), None)
    head = _head(path) if path is not None else {}
    if path is None or head.get("benchmark") != made.name:
        raise BenchmarkError(f"{folder} is no folder of a run of {made.name}: it has no {PREDICTIONS} of it")
    kept = Predictions(path, head)
    scored = []
    for dataset in datasets:
        for sample in islice(made.load(dataset, data_dir), limit):
            for run in range(1, kept.runs + 1):
                answer = kept.get((dataset.name, sample.id, run))
                if answer is not None:
                    one = with_cut(made.scored(sample, answer[0], reading, run=run), answer[1])
                    scored.append(replace(one, sample=sample.model_copy(update={"context": ""})))
    return DocumentRun(made, reading, tuple(scored), settings=head)


def _head(path: Path) -> Mapping[str, object]:
    with path.open(encoding="utf-8") as stream:
        try:
            head = json.loads(stream.readline())
        except ValueError:
            return {}
    return head if isinstance(head, dict) else {}


def _difference(name: str, pairs: Sequence[tuple[str, float]], seed: int) -> PairedDifference:
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for key, value in pairs:
        sums[key] = sums.get(key, 0.0) + value
        counts[key] = counts.get(key, 0) + 1
    mean = 100.0 * sum(sums.values()) / len(pairs)
    if len(sums) < 2:
        return PairedDifference(name, mean, float("nan"), float("nan"), len(pairs), len(sums))
    total, weight = np.asarray(list(sums.values())), np.asarray([counts[key] for key in sums], dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (DRAWS, len(sums)))
    lo, hi = np.quantile(100.0 * total[drawn].sum(1) / weight[drawn].sum(1), (0.025, 0.975))
    return PairedDifference(name, mean, float(lo), float(hi), len(pairs), len(sums))
