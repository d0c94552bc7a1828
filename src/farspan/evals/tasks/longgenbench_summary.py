"""Replies of LongGenBench put together: by place in the prompt, against the baseline, with intervals; published scores.

Questions of one reply are not independent, so intervals resample prompts. In the usual order later questions are longer
ones too; the effect of the place alone is estimated from prompts of `order=latin`, where each question stands at every
place.

Source: arXiv 2410.04199, section 4; the effect of the place is our own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from farspan.evals.curves import isotonic_decreasing
from farspan.evals.metrics.numbered_answers import NumberedAnswersError, aggregate
from farspan.evals.schema import LongSample
from farspan.evals.tasks.longgenbench import LongGenBench

RESAMPLES = 2000
KEPT = 0.85


class Interval(NamedTuple):
    """A mean with its 95 % interval."""

    mean: float
    lo: float
    hi: float


class LongReplies(NamedTuple):
    """What replies to prompts of equal size show.

    by_index : accuracy at each place; slope : change a question, least squares
    delta_points, retention : against the baseline, None without one
    answered : share of the questions with an answer; collapsed : share of prompts that end unanswered
    effective_questions : places from the first on with an accuracy, smoothed to fall, of at least 0.85 of the baseline;
        None without one
    """

    accuracy: Interval
    by_index: tuple[Interval, ...]
    slope: Interval
    delta_points: float | None
    retention: float | None
    answered: float
    collapsed: float
    effective_questions: int | None


def long_replies(
    samples: Sequence[LongSample], outputs: Sequence[str], baseline: float | None = None, *, seed: int = 0
) -> LongReplies:
    """Put replies together.

    Parameters
    ----------
    baseline : accuracy of the same questions asked one at a time (`k=1`, `of=k`)

    Raises
    ------
    NumberedAnswersError : no replies, or prompts with unequal numbers of questions.
    """
    marks = [LongGenBench.marks(sample, output) for sample, output in zip(samples, outputs, strict=True)]
    if not marks or len({len(row) for row in marks}) != 1:
        raise NumberedAnswersError("replies must be to at least one prompt, and to prompts of as many questions; set k")
    table = np.array([[mark is True for mark in row] for row in marks], dtype=np.float64)
    answered = np.array([[mark is not None for mark in row] for row in marks])
    found = aggregate(table.tolist(), baseline)
    drawn = np.random.default_rng(seed).integers(len(table), size=(RESAMPLES, len(table)))
    resampled = table[drawn].mean(1)  # [resamples, places]
    places = np.arange(table.shape[1]) - (table.shape[1] - 1) / 2
    slopes = resampled @ places / max(float((places**2).sum()), 1e-12)
    by_index = tuple(_interval(table[:, place].mean(), resampled[:, place]) for place in range(table.shape[1]))
    effective = None
    if baseline is not None:
        effective = int((isotonic_decreasing(table.mean(0)) >= KEPT * baseline).sum())
    return LongReplies(
        accuracy=_interval(table.mean(), resampled.mean(1)),
        by_index=by_index,
        slope=_interval(float(str(found["slope_per_question"])), slopes),
        delta_points=None if baseline is None else float(str(found["delta_points"])),
        retention=None if baseline is None else float(str(found["retention"])),
        answered=float(answered.mean()),
        collapsed=float((~answered[:, -1]).mean()),
        effective_questions=effective,
    )


def index_effect(samples: Sequence[LongSample], outputs: Sequence[str], *, seed: int = 0) -> tuple[Interval, ...]:
    """How much more, or less, a question is answered rightly at each place than over all places.

    Parameters
    ----------
    samples : prompts of `order=latin`

    Returns
    -------
    By place; intervals resample questions.

    Raises
    ------
    NumberedAnswersError : a question that does not stand at as many places as the others.
    """
    by_question: dict[str, dict[int, float]] = {}
    for sample, output in zip(samples, outputs, strict=True):
        text = sample.text
        spans = sample.evidence_spans
        for place, (span, mark) in enumerate(zip(spans, LongGenBench.marks(sample, output), strict=True)):
            by_question.setdefault(text[span.start_char : span.end_char], {})[place] = float(mark is True)
    places = sorted({place for found in by_question.values() for place in found})
    if not by_question or any(len(found) != len(places) for found in by_question.values()):
        raise NumberedAnswersError("the effect of the place needs all turns of a pool: order=latin and k prompts")
    table = np.array([[found[place] for place in places] for found in by_question.values()])
    centred = table - table.mean(1, keepdims=True)
    drawn = np.random.default_rng(seed).integers(len(centred), size=(RESAMPLES, len(centred)))
    resampled = centred[drawn].mean(1)
    return tuple(_interval(centred[:, place].mean(), resampled[:, place]) for place in range(len(places)))


def _interval(mean: float, resampled: NDArray[np.float64]) -> Interval:
    lo, hi = np.percentile(resampled, [2.5, 97.5])
    return Interval(float(mean), float(lo), float(hi))


PUBLISHED: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "gsm8k": {
        "GPT-3.5-Turbo": (75.1, 55.3),
        "GPT-4o": (91.1, 75.6),
        "Gemini-1.5-Flash": (86.2, 85.0),
        "Claude-3-Haiku": (76.6, 55.3),
        "Llama-3-8B-Instruct": (79.6, 32.5),
        "Llama-3-70B-Instruct": (93.0, 83.2),
        "Qwen2-7B-Instruct": (82.3, 63.9),
        "Qwen2-72B-Instruct": (91.1, 85.7),
        "ChatGLM4-9B": (79.6, 68.8),
        "DeepSeek-v2-Chat": (92.2, 86.5),
    },
    "mmlu": {
        "GPT-3.5-Turbo": (70.0, 56.3),
        "GPT-4o": (88.7, 79.7),
        "Gemini-1.5-Flash": (79.0, 74.7),
        "Claude-3-Haiku": (75.0, 48.6),
        "Llama-3-8B-Instruct": (68.4, 50.4),
        "Qwen2-72B-Instruct": (82.3, 75.8),
    },
    "csqa": {"GPT-4o": (85.75, 77.88), "Llama-3-8B-Instruct": (73.70, 69.50)},
}
"""Percent by model: questions asked one at a time, as other papers give them, and in one prompt."""
