"""What an evaluation found: every answer with its score, and the figures that follow from them.

Data and arithmetic; nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
from pydantic import BaseModel, ConfigDict

from farspan.errors import FarspanError
from farspan.evals.effective import EffectiveLength, ScoreRecord, effective_length, wilson

INTERVAL = 1.96
FEW_CONTEXTS = 3


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True)


class Answer(_Data):
    """One question as it was asked and answered.

    cluster : questions on the same context share it
    truncated : generation ended at the token limit
    """

    id: str
    length: int
    depth: float | None
    cluster: str
    score: float
    output: str
    expected: tuple[str, ...]
    question: str
    preview: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    truncated: bool = False


class ScoreCell(_Data):
    """Mean score at a length (and depth) with its 95 % interval and the number of answers behind it."""

    length: int
    depth: float | None
    n: int
    mean: float
    lo: float
    hi: float


class LossBin(_Data):
    """Mean loss, nats a token, of text at positions [start, end), its 95 % interval, and the number of texts."""

    start: int
    end: int
    loss: float
    lo: float
    hi: float
    n: int


class TaskResult(_Data):
    """All answers of one probe, and the threshold its effective length is read at."""

    name: str
    title: str
    threshold: float
    answers: tuple[Answer, ...]

    @cached_property
    def records(self) -> list[ScoreRecord]:
        """The scores, as `farspan.evals.effective` takes them."""
        return [
            ScoreRecord(
                length=answer.length,
                score=answer.score,
                sample_id=answer.id,
                cluster=answer.cluster,
                depth=answer.depth,
            )
            for answer in self.answers
        ]

    @cached_property
    def effective(self) -> EffectiveLength:
        """Effective length in tokens with its bootstrap interval; questions on one context are resampled together."""
        return effective_length(self.records, self.threshold, cluster=True)

    @property
    def contexts(self) -> int:
        """Contexts behind the scores at the length that has fewest of them."""
        clusters: dict[int, set[str]] = {}
        for answer in self.answers:
            clusters.setdefault(answer.length, set()).add(answer.cluster)
        return min(map(len, clusters.values()), default=0)

    def by_length(self) -> list[ScoreCell]:
        """Scores pooled over depths, ascending in length."""
        return [_cell(length, None, self._scores(length)) for length in sorted({a.length for a in self.answers})]

    def by_depth(self) -> list[ScoreCell]:
        """Scores by length and depth, where answers have a depth."""
        places = sorted({(a.length, a.depth) for a in self.answers if a.depth is not None})
        return [_cell(length, depth, self._scores(length, depth)) for length, depth in places]

    def _scores(self, length: int, depth: float | None = None) -> list[float]:
        return [a.score for a in self.answers if a.length == length and depth in (None, a.depth)]


class Evaluation(_Data):
    """Results of all probes; the first one is the headline."""

    tasks: tuple[TaskResult, ...] = ()
    text_loss: tuple[LossBin, ...] = ()
    lengths: tuple[int, ...]
    seed: int
    model: str
    recipe: str
    prefix_mode: str
    tokenizer: str

    @property
    def headline(self) -> TaskResult:
        """The first probe, whose effective length is `effective_length`."""
        if not self.tasks:
            raise FarspanError("this evaluation has no task with scores, so it has no effective length")
        return self.tasks[0]

    @property
    def effective_length(self) -> EffectiveLength:
        """Effective length of the first probe, tokens, with a 95 % interval."""
        return self.headline.effective

    def task(self, name: str) -> TaskResult:
        """The result of a probe by its name."""
        for result in self.tasks:
            if result.name == name:
                return result
        raise FarspanError(
            f"no result for '{name}'; there are: {', '.join(task.name for task in self.tasks) or 'none'}"
        )

    def problems(self) -> list[str]:
        """What a reader must know before believing the scores: empty, cut or missing answers."""
        found = []
        for task in self.tasks:
            empty = sum(not answer.output.strip() for answer in task.answers)
            if empty == len(task.answers):
                found.append(f"{task.title}: all {empty} answers are empty")
            if task.contexts < FEW_CONTEXTS:
                found.append(
                    f"{task.title}: {task.contexts} context{'s' * (task.contexts != 1)} a length, too few for the "
                    "interval of its effective length to be believed; ask more questions"
                )
        return found


def _cell(length: int, depth: float | None, scores: Sequence[float]) -> ScoreCell:
    n, mean = len(scores), float(np.mean(scores))
    if set(scores) <= {0.0, 1.0}:
        lo, hi = wilson(sum(scores), n)
    else:
        half = INTERVAL * float(np.std(scores, ddof=1)) / n**0.5 if n > 1 else 1.0
        lo, hi = max(0.0, mean - half), min(1.0, mean + half)
    return ScoreCell(length=length, depth=depth, n=n, mean=mean, lo=lo, hi=hi)


def loss_bins(logprobs: Sequence[Sequence[float]], edges: Sequence[int]) -> tuple[LossBin, ...]:
    """Text loss between positions, from log-probabilities of tokens 1 to n-1 of each text.

    A text's mean loss inside a bin is one observation; the interval is over texts.
    """
    bins = []
    for start, end in pairwise(edges):
        losses = [-float(np.mean(row[max(0, start - 1) : end - 1])) for row in logprobs if len(row) >= end - 1]
        if not losses:
            continue
        mean = float(np.mean(losses))
        half = INTERVAL * float(np.std(losses, ddof=1)) / len(losses) ** 0.5 if len(losses) > 1 else 0.0
        bins.append(LossBin(start=start, end=end, loss=mean, lo=mean - half, hi=mean + half, n=len(losses)))
    return tuple(bins)
