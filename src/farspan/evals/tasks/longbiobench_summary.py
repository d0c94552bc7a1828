"""Results of LongBioBench put together: categories, the overall score, the ladder of difficulties, published scores.

Source: arXiv 2506.02921, sections 3.7 and 4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np

from farspan.errors import FarspanError
from farspan.evals.published import published_tables
from farspan.evals.tasks.longbiobench_tasks import SUITE, TASKS

CATEGORIES = ("understanding", "reasoning", "trustworthy")

LADDER = (
    ("standard", "multi_standard"),
    ("standard", "paraphrase"),
    ("paraphrase", "pronoun"),
    ("standard", "calculation"),
    ("calculation", "rank"),
    ("calculation", "multihop"),
    ("calculation", "twodiff"),
)
"""Steps from an easier task to one that adds a difficulty to it."""


class Published(NamedTuple):
    """Published category scores of a model in percent; None where none was published."""

    understanding: float
    reasoning: float | None = None
    trustworthy: float | None = None


def _published() -> dict[int, dict[str, Published]]:
    found: dict[int, dict[str, dict[str, float]]] = {}
    for row in published_tables()["longbiobench"].scores:
        found.setdefault(row.length, {}).setdefault(row.model, {})[row.group] = row.score
    return {
        length: {model: Published(**scores) for model, scores in models.items()} for length, models in found.items()
    }


PUBLISHED: Mapping[int, Mapping[str, Published]] = _published()
"""By length in tokens. Own texts differ, so these are landmarks and not targets."""

RANK_CORRELATION = {
    "standard": 0.92,
    "paraphrase": 0.87,
    "pronoun": 0.86,
    "calculation": 0.83,
    "multihop": 0.78,
    "multi_standard": 0.76,
    "citation": 0.70,
    "idk": 0.57,
    "rank": 0.27,
    "twodiff": 0.21,
}
"""Published Spearman correlation of model rankings by each task with those by a suite of real tasks."""


def overall(understanding: float, reasoning: float, trustworthy: float) -> float:
    """The mean of the three categories."""
    return fmean((understanding, reasoning, trustworthy))


def group_means(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores by task with variants (`rank_2`, `rank_5`) averaged under their common name."""
    groups: dict[str, list[float]] = {}
    for task, score in scores.items():
        if task not in TASKS:
            raise FarspanError(f"'{task}' is no task of longbiobench; there are: {', '.join(TASKS)}")
        groups.setdefault(re.sub(r"_\d+$", "", task), []).append(score)
    return {name: fmean(found) for name, found in groups.items()}


def category_means(scores: Mapping[str, float]) -> dict[str, float]:
    """Means of the categories, and `overall` where all three are complete; one length at a time.

    Parameters
    ----------
    scores : by task, in any unit
    """
    means: dict[str, float] = {}
    for category in CATEGORIES:
        mine = {task: score for task, score in scores.items() if TASKS[task].category == category}
        if mine:
            means[category] = fmean(group_means(mine).values())
    if set(SUITE) <= set(scores):
        means["overall"] = overall(**{category: means[category] for category in CATEGORIES})
    return means


@dataclass(frozen=True)
class Step:
    """One step of the ladder: what a model loses by one more difficulty, with the interval of the loss.

    loss : mean score of the easier task minus that of the harder one, over `n` indices both were asked at
    """

    model: str
    easier: str
    harder: str
    loss: float
    lo: float
    hi: float
    n: int


def ladder_report(
    results: Mapping[str, Mapping[str, Sequence[float]]], *, draws: int = 2000, seed: int = 0, conf: float = 0.95
) -> list[Step]:
    """What each added difficulty costs each model.

    Parameters
    ----------
    results : for each model and task, the scores of samples 0, 1, 2, ...; equal indices are paired
    draws : bootstrap resamples of the indices

    Returns
    -------
    One row for each model and step whose two tasks (or variants of them) both have scores.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    rows = []
    for model, tasks in results.items():
        merged = _merged(tasks)
        for easier, harder in LADDER:
            if easier not in merged or harder not in merged:
                continue
            n = min(len(merged[easier]), len(merged[harder]))
            losses = np.asarray(merged[easier][:n]) - np.asarray(merged[harder][:n])
            means = losses[rng.integers(0, n, size=(draws, n))].mean(axis=1)
            lo, hi = np.quantile(means, [(1 - conf) / 2, (1 + conf) / 2])
            rows.append(Step(model, easier, harder, float(losses.mean()), float(lo), float(hi), n))
    return rows


def _merged(tasks: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Scores by index with variants of a task averaged."""
    groups: dict[str, list[Sequence[float]]] = {}
    for task, scores in tasks.items():
        if scores:
            groups.setdefault(re.sub(r"_\d+$", "", task), []).append(scores)
    return {name: [fmean(column) for column in zip(*found, strict=False)] for name, found in groups.items()}
