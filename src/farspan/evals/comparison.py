"""Two evaluations of the same questions, compared question by question.

Only questions that both got a reply to are compared, so a difference is one of the models and not of their samples;
questions on one context are resampled together. Pure arithmetic on what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from farspan.evals.effective import EffectiveLengthComparison, EffectiveLengthError, compare_effective_lengths
from farspan.evals.evaluation import Answer, Evaluation, TaskResult

DRAWS = 2000


class Difference(BaseModel):
    """Mean score of b minus that of a at one length, with its 95 % interval.

    n : questions both answered
    contexts : contexts behind them
    """

    model_config = ConfigDict(frozen=True)

    length: int
    mean: float
    lo: float
    hi: float
    n: int
    contexts: int

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.lo > 0 or self.hi < 0


class TaskComparison(BaseModel):
    """One task of two evaluations.

    effective : ratio of their effective lengths; None where they share too little
    """

    model_config = ConfigDict(frozen=True)

    name: str
    title: str
    differences: tuple[Difference, ...]
    effective: EffectiveLengthComparison | None


def comparable(a: Evaluation, b: Evaluation) -> str:
    """Why two evaluations cannot be paired; empty if they can.

    Lengths in tokens of different tokenizers are different lengths, and other seeds are other questions.
    """
    if a.tokenizer != b.tokenizer:
        return "their lengths are counted with different tokenizers"
    if a.seed != b.seed:
        return f"their questions are of different seeds, {a.seed} and {b.seed}"
    if not {task.name for task in a.tasks} & {task.name for task in b.tasks}:
        return "they have no task in common"
    return ""


def compare(a: Evaluation, b: Evaluation, *, seed: int = 0) -> list[TaskComparison]:
    """What b is to a, task by task; empty if they cannot be paired."""
    if comparable(a, b):
        return []
    others = {task.name: task for task in b.tasks}
    found = []
    for task in a.tasks:
        other = others.get(task.name)
        if other is None:
            continue
        differences = paired_differences(task, other, seed=seed)
        if differences:
            found.append(
                TaskComparison(
                    name=task.name,
                    title=task.title,
                    differences=tuple(differences),
                    effective=_ratio(task, other, [one.length for one in differences], seed),
                )
            )
    return found


def paired_differences(a: TaskResult, b: TaskResult, *, draws: int = DRAWS, seed: int = 0) -> list[Difference]:
    """Score of b minus score of a at each length, over the questions both answered.

    Parameters
    ----------
    draws : bootstrap resamples of the contexts
    """
    known: Mapping[tuple[int, str], Answer] = {(answer.length, answer.id): answer for answer in b.heard}
    rng = np.random.Generator(np.random.PCG64(seed))
    found = []
    for length in a.lengths:
        groups: dict[str, list[float]] = {}
        for answer in a.heard:
            other = known.get((length, answer.id))
            if answer.length == length and other is not None:
                groups.setdefault(answer.cluster, []).append(other.score - answer.score)
        if groups:
            found.append(_difference(length, list(groups.values()), draws, rng))
    return found


def _difference(length: int, groups: Sequence[Sequence[float]], draws: int, rng: np.random.Generator) -> Difference:
    sums, sizes = np.array([sum(group) for group in groups]), np.array([float(len(group)) for group in groups])
    index = rng.integers(0, len(groups), size=(draws, len(groups)))
    lo, hi = np.quantile(sums[index].sum(axis=1) / sizes[index].sum(axis=1), [0.025, 0.975])
    return Difference(
        length=length,
        mean=float(sums.sum() / sizes.sum()),
        lo=float(lo),
        hi=float(hi),
        n=int(sizes.sum()),
        contexts=len(groups),
    )


def _ratio(a: TaskResult, b: TaskResult, lengths: Sequence[int], seed: int) -> EffectiveLengthComparison | None:
    if len(lengths) < 2:
        return None
    shared = set(lengths)
    try:
        return compare_effective_lengths(
            [record for record in a.records if record.length in shared],
            [record for record in b.records if record.length in shared],
            a.threshold,
            cluster=True,
            seed=seed,
        )
    except EffectiveLengthError:
        return None
