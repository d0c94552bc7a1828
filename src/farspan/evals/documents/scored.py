"""Scored answers and the rows of tables over them: means, their errors, groups.

Arithmetic alone; what is averaged how is the benchmarks' business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from farspan.evals.schema import LongSample


@dataclass(frozen=True)
class Scored:
    """One prediction and its scores.

    figures : in [0, 1] by name, `score` being the main one
    problems : kinds of trouble with the prediction or its metric, counted in tables: `empty`, `metric_error`, ...
    truncated : something was cut out of the prompt
    n_full, n_kept : tokens before and after, None where nothing counted them
    cut_span : characters of the document that were cut out, None where nothing was or the rule cuts tokens
    run : number of the answer, from 1, where a question is asked several times
    """

    sample: LongSample
    prediction: str
    figures: Mapping[str, float]
    problems: tuple[str, ...] = ()
    truncated: bool = False
    run: int = 1
    n_full: int | None = None
    n_kept: int | None = None
    cut_span: tuple[int, int] | None = None

    @property
    def score(self) -> float:
        """The main score, in [0, 1]."""
        return self.figures["score"]


@dataclass(frozen=True)
class Judgement:
    """What a judge said of one answer: the figures of `DocumentBenchmark.judged`."""

    sample: LongSample
    figures: Mapping[str, float]
    run: int = 1

    @property
    def verdicts(self) -> float:
        """How many verdicts its score is a mean of, 0 where there is none."""
        return self.figures.get("verdicts", 0.0) if "score" in self.figures else 0.0


@dataclass(frozen=True)
class Row:
    """A line of a table: a value in percent over `n` samples, None where there are none.

    stderr : standard error of the value, questions on one document taken together; None where it is not known
    """

    group: str
    name: str
    value: float | None
    n: int
    stderr: float | None = None


@dataclass
class Table:
    """What a benchmark publishes about a run: rows in order, and notes that must be read with them."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def value(self, group: str, name: str) -> float | None:
        """The value of a row."""
        return next((row.value for row in self.rows if (row.group, row.name) == (group, name)), None)


def mean_percent(scored: Sequence[Scored], figure: str = "score") -> float | None:
    """Mean of a figure in percent, None over no samples; 0 for a sample whose metric failed."""
    return 100.0 * sum(one.figures.get(figure, 0.0) for one in scored) / len(scored) if scored else None


def mean_row(group: str, name: str, scored: Sequence[Scored], digits: int = 2) -> Row:
    """The mean score as a row, with its standard error; questions on one document are no independent draws."""
    mean = mean_percent(scored)
    if mean is None:
        return Row(group, name, None, 0)
    rests: dict[str, float] = {}
    for one in scored:
        key = one.sample.shared_context_key or one.sample.id
        rests[key] = rests.get(key, 0.0) + 100.0 * one.score - mean
    error = None
    if len(rests) > 1:
        error = (sum(rest * rest for rest in rests.values()) * len(rests) / (len(rests) - 1)) ** 0.5 / len(scored)
    return Row(group, name, round(mean, digits), len(scored), error)


def judge_row(name: str, judgements: Sequence[Judgement]) -> Row:
    """The mean of a judge's verdicts as a row over the answers that have any."""
    read = [one for one in judgements if one.verdicts]
    if not read:
        return Row("judge", name, None, 0)
    share = sum(one.figures["score"] * one.verdicts for one in read) / sum(one.verdicts for one in read)
    spread = mean_row("judge", name, [Scored(one.sample, "", one.figures, run=one.run) for one in read])
    return Row("judge", name, round(100.0 * share, 2), len(read), spread.stderr)


def grouped(scored: Sequence[Scored], key: str) -> dict[str, list[Scored]]:
    """Predictions by an entry of their samples' metadata, in order of appearance; those without it are left out."""
    groups: dict[str, list[Scored]] = {}
    for one in scored:
        value = one.sample.metadata.get(key)
        if value not in (None, ""):
            groups.setdefault(str(value), []).append(one)
    return groups
