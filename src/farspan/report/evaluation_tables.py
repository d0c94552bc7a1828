"""The numbers of evaluations side by side, as plain tables: for the CSV files and under the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from farspan.evals.comparison import TaskComparison, compare
from farspan.evals.effective import EffectiveLength
from farspan.evals.evaluation import Evaluation, TaskResult
from farspan.evals.published import landmarks
from farspan.report.tables import Table, Value


@dataclass(frozen=True)
class EvaluationRun:
    """One evaluation under the name it has on the page."""

    label: str
    evaluation: Evaluation

    def task(self, name: str) -> TaskResult | None:
        """The result of a task, if it has replies."""
        return next((task for task in self.evaluation.tasks if task.name == name and task.heard), None)


def task_titles(runs: Sequence[EvaluationRun]) -> dict[str, str]:
    """Tasks with replies in any run, by name."""
    return {task.name: task.title for run in runs for task in run.evaluation.tasks if task.heard}


def lengths_of(runs: Sequence[EvaluationRun]) -> list[int]:
    """Every length with replies, ascending."""
    return sorted({length for run in runs for task in run.evaluation.tasks for length in task.lengths})


def pairs(runs: Sequence[EvaluationRun]) -> list[tuple[EvaluationRun, EvaluationRun]]:
    """The first run with each other one; all pairs of three."""
    return list(combinations(runs, 2)) if len(runs) <= 3 else [(runs[0], other) for other in runs[1:]]


def comparisons(runs: Sequence[EvaluationRun]) -> list[tuple[EvaluationRun, EvaluationRun, list[TaskComparison]]]:
    """Every pair that can be compared question by question."""
    found = [(a, b, compare(a.evaluation, b.evaluation)) for a, b in pairs(runs)]
    return [(a, b, tasks) for a, b, tasks in found if tasks]


def all_tables(runs: Sequence[EvaluationRun]) -> list[Table]:
    """Every table of the page."""
    return [
        skills(runs),
        effective_lengths(runs),
        scores_by_length(runs),
        scores_by_depth(runs),
        differences(runs),
        published(runs),
        accounts(runs),
    ]


def skills(runs: Sequence[EvaluationRun]) -> Table:
    """Effective length of every skill."""
    rows = [(run.label, skill, *_reach(found)) for run in runs for skill, found in run.evaluation.skills().items()]
    return Table("effective_lengths_by_skill", ("run", "skill", *REACH), tuple(rows))


def effective_lengths(runs: Sequence[EvaluationRun]) -> Table:
    """Effective length of every task."""
    rows = [
        (run.label, task.name, *_reach(task.effective)) for run in runs for task in run.evaluation.tasks if task.heard
    ]
    return Table("effective_lengths", ("run", "task", *REACH), tuple(rows))


REACH = (
    *("effective_tokens", "lo_tokens", "hi_tokens", "censoring", "certified_tokens", "threshold"),
    *("n_per_length_min", "n_per_length_max"),
)


def _reach(found: EffectiveLength) -> tuple[Value, ...]:
    n = found.n_per_length
    return (found.value, found.lo, found.hi, found.censoring, found.certified, found.threshold, min(n), max(n))


def scores_by_length(runs: Sequence[EvaluationRun]) -> Table:
    """Mean score of every task and length, with what became of its questions."""
    rows: list[tuple[Value, ...]] = []
    for run in runs:
        for task in run.evaluation.tasks:
            for cell in task.by_length():
                mine = [answer for answer in task.heard if answer.length == cell.length]
                cut, empty = sum(answer.truncated for answer in mine), sum(answer.empty for answer in mine)
                rows.append((run.label, task.name, cell.length, cell.mean, cell.lo, cell.hi, cell.n, cut, empty))
    columns = ("run", "task", "length_tokens", "mean_score", "lo", "hi", "n", "truncated", "empty")
    return Table("scores_by_length", columns, tuple(rows))


def scores_by_depth(runs: Sequence[EvaluationRun]) -> Table:
    """Mean score of every task, length and depth."""
    rows = [
        (run.label, task.name, cell.length, cell.depth, cell.mean, cell.lo, cell.hi, cell.n)
        for run in runs
        for task in run.evaluation.tasks
        for cell in task.by_depth()
    ]
    columns = ("run", "task", "length_tokens", "depth_percent", "mean_score", "lo", "hi", "n")
    return Table("scores_by_depth", columns, tuple(rows))


def differences(runs: Sequence[EvaluationRun]) -> Table:
    """Scores of each pair of runs, question by question; without a length, the ratio of their effective lengths."""
    rows: list[tuple[Value, ...]] = []
    for a, b, tasks in comparisons(runs):
        for task in tasks:
            who = (a.label, b.label, task.name)
            rows += [(*who, one.length, one.mean, one.lo, one.hi, one.n, one.clear) for one in task.differences]
            if (ratio := task.effective) is not None:
                ends = (ratio.ratio, ratio.lo, ratio.hi, ratio.n_shared, ratio.clear)
                rows.append((*who, None, *ends))
    columns = ("first", "second", "task", "length_tokens", "difference_or_ratio", "lo", "hi", "n", "clear")
    return Table("comparison", columns, tuple(rows))


def published(runs: Sequence[EvaluationRun]) -> Table:
    """Published scores of named models beside those of the runs, percent."""
    rows: list[tuple[Value, ...]] = []
    for mark in landmarks([run.evaluation.tasks for run in runs]):
        where = (mark.family, mark.group, mark.length)
        rows += [(*where, run.label, own, "own") for run, own in zip(runs, mark.own, strict=True) if own is not None]
        rows += [(*where, model, score, "published") for model, score in mark.published]
    return Table("published", ("family", "tasks", "length_tokens", "model", "percent", "kind"), tuple(rows))


def accounts(runs: Sequence[EvaluationRun]) -> Table:
    """What became of the questions of every task."""
    rows: list[tuple[Value, ...]] = []
    for run in runs:
        for task in run.evaluation.tasks:
            count = task.account
            tokens = tuple(sum(getattr(answer, name) for answer in task.heard) for name in TOKENS)
            kinds = (count.answered, count.truncated, count.empty, count.too_long, count.failed)
            rows.append((run.label, task.name, count.asked, *kinds, count.wrong_truncated, *tokens))
    kinds_named = ("answered", "truncated", "empty", "too_long", "failed", "wrong_and_truncated")
    return Table("accounts", ("run", "task", "asked", *kinds_named, *TOKENS), tuple(rows))


TOKENS = ("input_tokens", "output_tokens", "reasoning_tokens")
