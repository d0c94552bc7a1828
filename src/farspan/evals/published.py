"""Published scores of named models, as landmarks beside one's own.

One JSON file a family in `published_scores/`: where the numbers come from, how near their text is to ours, groups of
tasks whose mean was published, and rows of group, model, length and score. How near (`text`) is one of `equal` (the
construction is reproduced), `similar` and `other` (our own wording), and `official` (comparable only where the official
text was read).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from statistics import fmean
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from farspan.evals.evaluation import TaskResult

NEAR = 0.03
"""Lengths that differ by less than this part of them are the same."""


class PublishedScore(NamedTuple):
    """A published score in percent of a model on a group of tasks, at a length in tokens."""

    group: str
    model: str
    length: int
    score: float


class PublishedTable(BaseModel):
    """What was published of one family; see the module."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    source: str
    text: Literal["equal", "similar", "other", "official"]
    groups: dict[str, tuple[str, ...]]
    scores: tuple[PublishedScore, ...]


class Landmark(NamedTuple):
    """Published scores of a group at a length beside those of runs (percent; None where a run lacks tasks of it)."""

    family: str
    group: str
    length: int
    own: tuple[float | None, ...]
    published: tuple[tuple[str, float], ...]


@cache
def published_tables() -> dict[str, PublishedTable]:
    """The tables there are, by family."""
    folder = files("farspan.evals").joinpath("published_scores")
    found = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".json"))
    tables = [PublishedTable.model_validate_json(folder.joinpath(name).read_text(encoding="utf-8")) for name in found]
    return {table.family: table for table in tables}


def landmarks(runs: Sequence[Sequence[TaskResult]]) -> list[Landmark]:
    """Published scores of every group and length that at least one run has all tasks of.

    Parameters
    ----------
    runs : the tasks of each run
    """
    found = []
    for table in published_tables().values():
        for group, tasks in table.groups.items():
            rows = [row for row in table.scores if row.group == group]
            for length in sorted({row.length for row in rows}):
                own = tuple(_own(run, table.family, tasks, length) for run in runs)
                if any(value is not None for value in own):
                    there = tuple((row.model, row.score) for row in rows if row.length == length)
                    found.append(Landmark(table.family, group, length, own, there))
    return found


def _own(run: Sequence[TaskResult], family: str, tasks: Sequence[str], length: int) -> float | None:
    """Mean in percent of a run over the tasks; a name with a bar takes whichever of its tasks there is."""
    means = []
    for names in tasks:
        mine = [task for task in run if task.family == family and task.task in names.split("|")]
        cells = [cell for task in mine for cell in task.by_length() if abs(cell.length - length) <= NEAR * length]
        if not cells:
            return None
        means.append(100 * cells[0].mean)
    return fmean(means)
