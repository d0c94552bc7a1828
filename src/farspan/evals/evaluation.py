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
from farspan.evals.core import Probe
from farspan.evals.effective import EffectiveLength, ScoreRecord, effective_length, wilson

INTERVAL = 1.96
FEW_CONTEXTS = 3
FEW = 10
"""Up to one answer in so many may be wrong and cut off without a word about it."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True)


class Answer(_Data):
    """One question as it was asked and answered.

    cluster : questions on the same context share it
    score : 0 where there was no reply; then `error` says why, and the question counts nowhere
    truncated : generation ended at the token limit
    reasoning_tokens : of `output_tokens`, those spent before the answer
    prompt_chars : characters sent
    expected_tokens : tokens the prompt has by the tokenizer that lengths are counted with; 0 where that is a guess
    too_long : the prompt was refused for its length
    figures : the other figures of the family
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
    reasoning_tokens: int = 0
    prompt_chars: int = 0
    expected_tokens: int = 0
    error: str = ""
    too_long: bool = False
    figures: dict[str, float] = {}

    @property
    def open(self) -> bool:
        """Whether it is worth asking again."""
        return bool(self.error) and not self.too_long

    @property
    def empty(self) -> bool:
        """Whether a reply came and held nothing."""
        return not self.error and not self.output.strip()


class Account(_Data):
    """What became of the questions of a run or a part of it; the kinds add up to `asked`.

    answered : replies with text that ended by themselves
    truncated : replies with text that ended at the token limit
    empty : replies without text
    too_long : prompts refused for their length
    failed : no reply after all attempts
    wrong_truncated : of the truncated ones, those that do not score full: more tokens might have
    """

    asked: int
    answered: int
    truncated: int
    empty: int
    too_long: int
    failed: int
    wrong_truncated: int


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
    """All answers of one probe, and the threshold its effective length is read at.

    family, task : where it comes from
    skill : what it takes, a few words; tasks of one skill are read together
    """

    name: str
    title: str
    threshold: float
    answers: tuple[Answer, ...]
    family: str = ""
    task: str = ""
    skill: str = ""

    @property
    def heard(self) -> tuple[Answer, ...]:
        """The questions that got a reply."""
        return tuple(answer for answer in self.answers if not answer.error)

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
            for answer in self.heard
        ]

    @property
    def lengths(self) -> list[int]:
        """Lengths with at least one reply, ascending."""
        return sorted({answer.length for answer in self.heard})

    @property
    def account(self) -> Account:
        """What became of its questions."""
        return account_of(self.answers)

    @cached_property
    def effective(self) -> EffectiveLength:
        """Effective length in tokens with its bootstrap interval; questions on one context are resampled together."""
        return effective_length(self.records, self.threshold, cluster=True)

    @property
    def contexts(self) -> int:
        """Contexts behind the scores at the length that has fewest of them."""
        clusters: dict[int, set[str]] = {}
        for answer in self.heard:
            clusters.setdefault(answer.length, set()).add(answer.cluster)
        return min(map(len, clusters.values()), default=0)

    def by_length(self) -> list[ScoreCell]:
        """Scores pooled over depths, ascending in length."""
        return [_cell(length, None, self._scores(length)) for length in self.lengths]

    def by_depth(self) -> list[ScoreCell]:
        """Scores by length and depth, where answers have a depth."""
        places = sorted({(a.length, a.depth) for a in self.heard if a.depth is not None})
        return [_cell(length, depth, self._scores(length, depth)) for length, depth in places]

    def _scores(self, length: int, depth: float | None = None) -> list[float]:
        return [a.score for a in self.heard if a.length == length and depth in (None, a.depth)]


class Evaluation(_Data):
    """Results of all probes; the first one is the headline.

    tokenizer : id of what lengths are counted with
    source : `local`, or the address that was asked
    """

    tasks: tuple[TaskResult, ...] = ()
    text_loss: tuple[LossBin, ...] = ()
    lengths: tuple[int, ...]
    seed: int
    model: str
    recipe: str
    prefix_mode: str
    tokenizer: str
    source: str = "local"

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

    @property
    def account(self) -> Account:
        """What became of all questions."""
        return account_of([answer for task in self.tasks for answer in task.answers])

    def skills(self) -> dict[str, EffectiveLength]:
        """Effective length of each skill: the mean over its tasks, at the lengths where all of them have replies."""
        found: dict[str, EffectiveLength] = {}
        for skill in dict.fromkeys(task.skill for task in self.tasks if task.skill):
            mine = [task for task in self.tasks if task.skill == skill and task.lengths]
            shared = set.intersection(*(set(task.lengths) for task in mine)) if mine else set()
            records = [
                record._replace(task=task.name, cluster=f"{task.name}/{record.cluster}")
                for task in mine
                for record in task.records
                if record.length in shared
            ]
            if records:
                found[skill] = effective_length(records, mine[0].threshold, cluster=True)
        return found

    def problems(self) -> list[str]:
        """What a reader must know before believing the scores: empty, cut or missing answers."""
        found = []
        for task in self.tasks:
            count = task.account
            if count.empty == len(task.answers):
                found.append(f"{task.title}: all {count.empty} answers are empty")
            elif count.empty:
                found.append(f"{task.title}: {count.empty} of {count.asked} answers are empty")
            if count.wrong_truncated > count.asked / FEW:
                found.append(
                    f"{task.title}: {count.wrong_truncated} of {count.asked} answers are wrong and end at the token "
                    "limit; they may be cut off rather than wrong"
                )
            if count.too_long:
                lengths = sorted({answer.length for answer in task.answers if answer.too_long})
                named = ", ".join(f"{length:,}" for length in lengths)
                found.append(f"{task.title}: {count.too_long} prompts were refused as too long, at {named} tokens")
            if count.failed:
                found.append(f"{task.title}: {count.failed} of {count.asked} questions got no reply and count nowhere")
            if task.heard and task.contexts < FEW_CONTEXTS:
                found.append(
                    f"{task.title}: {task.contexts} context{'s' * (task.contexts != 1)} a length, too few for the "
                    "interval of its effective length to be believed; ask more questions"
                )
        return found


def result_of(probe: Probe, threshold: float, answers: Sequence[Answer]) -> TaskResult:
    """The result of a probe."""
    return TaskResult(
        name=probe.name,
        title=probe.title,
        threshold=threshold,
        answers=tuple(answers),
        family=probe.family,
        task=probe.task,
        skill=probe.skill,
    )


def account_of(answers: Sequence[Answer]) -> Account:
    """What became of questions."""
    kinds = dict.fromkeys(("answered", "truncated", "empty", "too_long", "failed"), 0)
    for answer in answers:
        kind = "too_long" if answer.too_long else "failed" if answer.error else "empty" if answer.empty else ""
        kinds[kind or ("truncated" if answer.truncated else "answered")] += 1
    wrong = sum(answer.truncated and not answer.error and answer.score < 1 for answer in answers)
    return Account(asked=len(answers), wrong_truncated=wrong, **kinds)


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
