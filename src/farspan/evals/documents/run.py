"""A run of a document benchmark: questions asked block by block, answers kept as they come, tables at the end.

Every answer is a line of a file in the run's folder as soon as it is there; the same run goes on behind the last one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from farspan.errors import FarspanError
from farspan.evals.asking import Heard
from farspan.evals.documents.asking import Asked, Fitter, Voice
from farspan.evals.documents.base import Dataset, DocumentBenchmark, Reading, Row, Scored, Table, grouped, mean_percent
from farspan.evals.schema import LongSample

BLOCK = 16
LARGEST_BLOCK = 64

Key = tuple[str, str, int]


@dataclass(frozen=True)
class DocumentRun:
    """What a run found: every scored answer, and the tables over them."""

    benchmark: DocumentBenchmark
    reading: Reading
    scored: tuple[Scored, ...]
    unanswered: int = 0

    @property
    def table(self) -> Table:
        """The published averages, then what must be read beside them: cut documents, languages, lengths, trouble."""
        table = self.benchmark.table(self.scored, self.reading)
        return Table([*table.rows, *self._beside()], [*table.notes, *self._trouble()])

    def _beside(self) -> list[Row]:
        whole = [one for one in self.scored if not one.truncated]
        rows = [Row("all", "every question", _rounded(self.scored), len(self.scored))]
        if len(whole) < len(self.scored):
            rows.append(Row("all", "documents not cut", _rounded(whole), len(whole)))
        for key in ("language", "length_level"):
            groups = _by_language(self.scored) if key == "language" else grouped(self.scored, key)
            if len(groups) > 1:
                rows += [Row(key.replace("_", " "), name, _rounded(part), len(part)) for name, part in groups.items()]
        return rows

    def _trouble(self) -> list[str]:
        n = len(self.scored)
        notes = []
        cut = sum(one.truncated for one in self.scored)
        if cut:
            notes.append(f"{cut} of {n} documents were cut to the window")
        counts = Counter(problem for one in self.scored for problem in one.problems)
        notes += [f"{count} of {n} answers: {problem.replace('_', ' ')}" for problem, count in counts.most_common()]
        if self.unanswered:
            notes.append(f"{self.unanswered} questions got no answer and are in no average")
        return notes

    def save(self, path: Path) -> None:
        """Tables and notes as JSON."""
        table = self.table
        record = {
            "benchmark": self.benchmark.name,
            "reading": self.reading,
            "n": len(self.scored),
            "unanswered": self.unanswered,
            "rows": [row.__dict__ for row in table.rows],
            "notes": table.notes,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def run_documents(
    fitter: Fitter,
    voice: Voice,
    datasets: Sequence[Dataset],
    *,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    runs: int | None = None,
    out: str | Path | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> DocumentRun:
    """Ask and score.

    Parameters
    ----------
    limit : questions of each set, the first ones
    runs : answers a question; the benchmark's own where left out
    out : folder for `predictions.jsonl`, from which an earlier run goes on
    progress : told the set's name and the questions done in it

    Raises
    ------
    MissingDataError, DataFileError : of the data.
    FarspanError : the folder holds another run.
    """
    kept = _Predictions(None if out is None else Path(out) / "predictions.jsonl", fitter)
    scored: list[Scored] = []
    unanswered = 0
    for run in range(1, (runs or fitter.benchmark.runs) + 1):
        for dataset in datasets:
            done = 0
            for block in blocks(islice(fitter.benchmark.load(dataset, data_dir), limit)):
                open_ones = [sample for sample in block if (dataset.name, sample.id, run) not in kept]
                for sample, prediction, truncated in _answers(fitter, voice, open_ones):
                    if prediction is not None:
                        kept.add((dataset.name, sample.id, run), prediction, truncated)
                for sample in block:
                    found = kept.get((dataset.name, sample.id, run))
                    if found is None:
                        unanswered += 1
                        continue
                    # the document is not needed any more, and there may be very many
                    bare = sample.model_copy(update={"context": ""})
                    scored.append(fitter.benchmark.scored(bare, found[0], fitter.reading, truncated=found[1], run=run))
                done += len(block)
                if progress is not None:
                    progress(dataset.name, done)
    return DocumentRun(fitter.benchmark, fitter.reading, tuple(scored), unanswered)


def score_predictions(
    benchmark: DocumentBenchmark, dataset: Dataset, rows: Iterator[dict[str, object]], reading: Reading
) -> list[Scored]:
    """Score predictions that were made elsewhere, in the published form.

    Raises
    ------
    BenchmarkError : rows of another form.
    """
    return [
        benchmark.scored(sample, prediction, reading) for sample, prediction in benchmark.predictions(dataset, rows)
    ]


def blocks(samples: Iterator[LongSample]) -> Iterator[list[LongSample]]:
    """Samples in blocks that end where a document ends, so that questions on one document stay together."""
    block: list[LongSample] = []
    for sample in samples:
        fresh = not block or sample.shared_context_key != block[-1].shared_context_key
        if block and ((fresh and len(block) >= BLOCK) or len(block) >= LARGEST_BLOCK):
            yield block
            block = []
        block.append(sample)
    if block:
        yield block


def _answers(
    fitter: Fitter, voice: Voice, samples: Sequence[LongSample]
) -> Iterator[tuple[LongSample, str | None, bool]]:
    """Each sample with its prediction, None where there is no reply, and whether its document was cut."""
    asked = [fitter.asked(sample) for sample in samples]
    heard = voice.ask(asked) if asked else []
    second = [
        fitter.asked(one.sample, follow)
        for one, reply in zip(asked, heard, strict=True)
        if not reply.error
        and (follow := fitter.benchmark.followed_by(one.sample, reply.text, fitter.reading)) is not None
    ]
    later: dict[str, Heard] = {}
    if second:
        later = {one.sample.id: reply for one, reply in zip(second, voice.ask(second), strict=True)}
    for one, reply in zip(asked, heard, strict=True):
        yield one.sample, _prediction(fitter, one, reply, later.get(one.sample.id)), one.truncated


def _prediction(fitter: Fitter, asked: Asked, first: Heard, second: Heard | None) -> str | None:
    if first.error or (second is not None and second.error):
        return None
    return first.text if second is None else fitter.benchmark.joined(asked.sample, first.text, second.text)


class _Predictions:
    """Answers by set, question and run, kept in a file."""

    def __init__(self, path: Path | None, fitter: Fitter) -> None:
        self.path = path
        self.head: dict[str, object] = {
            "benchmark": fitter.benchmark.name,
            "reading": fitter.reading,
            "window": fitter.window,
        }
        self._found: dict[Key, tuple[str, bool]] = {}
        if path is not None and path.is_file():
            self._read(path)

    def __contains__(self, key: Key) -> bool:
        return key in self._found

    def get(self, key: Key) -> tuple[str, bool] | None:
        return self._found.get(key)

    def add(self, key: Key, prediction: str, truncated: bool) -> None:
        self._found[key] = (prediction, truncated)
        if self.path is None:
            return
        lines = [] if self.path.is_file() else [json.dumps(self.head)]
        row = {"dataset": key[0], "id": key[1], "run": key[2], "prediction": prediction, "truncated": truncated}
        lines.append(json.dumps(row, ensure_ascii=False))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8", newline="\n") as stream:
            stream.write("\n".join(lines) + "\n")

    def _read(self, path: Path) -> None:
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            # The line that a killed run was writing.
            path.write_bytes(whole)
        rows = [json.loads(line) for line in whole.splitlines()]
        if rows and rows[0] != self.head:
            raise FarspanError(f"{path} belongs to another run ({rows[0]}); use another --out folder")
        for row in rows[1:]:
            self._found[row["dataset"], row["id"], row["run"]] = (row["prediction"], row["truncated"])


def _rounded(scored: Sequence[Scored]) -> float | None:
    mean = mean_percent(scored)
    return None if mean is None else round(mean, 2)


def _by_language(scored: Sequence[Scored]) -> dict[str, list[Scored]]:
    groups: dict[str, list[Scored]] = {}
    for one in scored:
        groups.setdefault(one.sample.language, []).append(one)
    return groups
