"""Summary of needle-threading outcomes as the suite is reported: means by length, and effective lengths in characters.

Lengths are characters throughout, because the same haystack has half as many tokens again under another tokenizer.

Source: arXiv 2411.05000, sections 4.4 and 4.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from farspan.errors import FarspanError
from farspan.evals.curves import contour_effective_length, wilson

REPORTED_ROWS: Mapping[str, Mapping[str, object]] = {
    "multi": {"n_needles": 10},
    "conditional": {"n_needles": 10},
    "thread": {"thread_length": 5},
    "multi_thread": {"thread_length": 5, "n_threads": 5},
}
"""The row of each task's grid that its effective length is read from; single needles take the worst depth."""


class Outcome(NamedTuple):
    """Score of one sample: its task, characters of its context, its knobs, and the score in [0, 1]."""

    task: str
    characters: int
    knobs: Mapping[str, object]
    score: float


@dataclass(frozen=True)
class TaskSummary:
    """One task over lengths.

    mean : unweighted mean of the cells at each length (characters)
    interval : 95 % Wilson interval at each length
    n : samples at each length
    effective : characters up to which the reported row stays at or above the threshold; None without that row
    censored : "left" below the shortest length, "right" beyond the longest, "none" between
    """

    mean: Mapping[int, float]
    interval: Mapping[int, tuple[float, float]]
    n: Mapping[int, int]
    effective: float | None
    censored: str


def summarize(outcomes: Iterable[Outcome], threshold: float = 0.75) -> dict[str, TaskSummary]:
    """Summaries by task.

    Raises
    ------
    FarspanError : no outcomes.
    """
    tasks: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        tasks.setdefault(outcome.task, []).append(outcome)
    if not tasks:
        raise FarspanError("there is nothing to summarise; evaluate at least one sample")
    return {task: _summary(task, found, threshold) for task, found in tasks.items()}


def overall(summaries: Mapping[str, TaskSummary]) -> dict[int, float]:
    """Mean of the tasks at each length all of them have."""
    shared = set.intersection(*(set(summary.mean) for summary in summaries.values()))
    return {length: fmean(summary.mean[length] for summary in summaries.values()) for length in sorted(shared)}


def _summary(task: str, outcomes: Sequence[Outcome], threshold: float) -> TaskSummary:
    lengths = sorted({outcome.characters for outcome in outcomes})
    at = {length: [outcome for outcome in outcomes if outcome.characters == length] for length in lengths}
    rows = _rows(task, outcomes)
    grid = [[_mean_at(row, length) for length in lengths] for row in rows]
    complete = [[score for score in row if score is not None] for row in grid]
    effective, censored = None, "none"
    if complete and all(len(row) == len(lengths) for row in complete):
        contour = contour_effective_length(lengths, complete, threshold)
        worst = contour.per_row.index(contour.min_over_rows)
        effective, censored = contour.min_over_rows, str(contour.censoring[worst])
    return TaskSummary(
        mean={length: fmean(_cells(at[length])) for length in lengths},
        interval={length: wilson(sum(o.score for o in at[length]), len(at[length])) for length in lengths},
        n={length: len(at[length]) for length in lengths},
        effective=effective,
        censored=censored,
    )


def _cells(outcomes: Sequence[Outcome]) -> list[float]:
    scores: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for outcome in outcomes:
        knobs = sorted((name, repr(value)) for name, value in outcome.knobs.items() if name != "haystack_seed")
        scores.setdefault(tuple(knobs), []).append(outcome.score)
    return [fmean(cell) for cell in scores.values()]


def _rows(task: str, outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    if task == "single":
        depths = dict.fromkeys(outcome.knobs.get("depth") for outcome in outcomes)
        return [[outcome for outcome in outcomes if outcome.knobs.get("depth") == depth] for depth in depths]
    wanted = REPORTED_ROWS.get(task, {}).items()
    row = [outcome for outcome in outcomes if all(outcome.knobs.get(name) == value for name, value in wanted)]
    return [row] if row else []


def _mean_at(row: Sequence[Outcome], length: int) -> float | None:
    scores = [outcome.score for outcome in row if outcome.characters == length]
    return fmean(scores) if scores else None
