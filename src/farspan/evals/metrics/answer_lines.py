"""Answers given as lines behind a tag: sets, orders and rankings of short strings, compared item by item.

These are the rules of LongBench Pro's published scores. They are strict: a blank line or a list marker is an item like
any other, and a longer list lowers what is read as an order. `tidy_lines` is what a fixed reading drops first.

Source: arXiv 2601.02872, section 3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

TAGS = ("[Answer]", "[答案]")

_MARKER = re.compile(r"^(?:[-*•]|\(?\d{1,3}[.)、])\s+")


class ScoreResult(NamedTuple):
    """A score in [0, 1], and whether there was anything to score; a failure scores 0 and is counted."""

    success: bool
    score: float


FAILED = ScoreResult(False, 0.0)


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


def normalize_prediction(prediction: str) -> list[str]:
    """Lines behind the last answer tag, or of everything without one: lower case, white space collapsed.

    The English tag goes before the Chinese one wherever they stand. Blank lines inside stay as empty items.
    """
    area = prediction
    for tag in TAGS:
        if tag in prediction:
            area = prediction.rpartition(tag)[2]
            break
    return [_folded(line) for line in area.strip().split("\n")]


def tidy_lines(lines: Sequence[str]) -> list[str]:
    """Lines without blank ones and without list markers such as "1." or "-"."""
    stripped = (_MARKER.sub("", line).strip() for line in lines)
    return [line for line in stripped if line]


def accuracy(answers: Sequence[str], lines: Sequence[str]) -> float:
    """1 if the first line is the first answer."""
    return float(answers[0] == lines[0])


def f1_score(answers: Sequence[str], lines: Sequence[str]) -> float:
    """F1 of the two sets."""
    right, given = set(answers), set(lines)
    hits = len(right & given)
    return 2 * hits / (len(right) + len(given)) if hits else 0.0


def sub_em(answers: Sequence[str], lines: Sequence[str]) -> float:
    """Share of the answers that are a line; an answer given twice counts twice."""
    given = set(lines)
    return sum(answer in given for answer in answers) / len(answers)


def ndcg(answers: Sequence[str], lines: Sequence[str]) -> float:
    """Normalised discounted cumulative gain at as many ranks as there are answers; the first answer is worth most.

    Of equal strings the last one says where it ranks and what it is worth.
    """
    worth = {answer: len(answers) - index for index, answer in enumerate(answers)}
    score = {line: len(lines) - index for index, line in enumerate(lines)}
    ranked = sorted(score, key=lambda line: -score[line])[: len(answers)]
    gained = _discounted([worth.get(line, 0) for line in ranked])
    return gained / _discounted(sorted(worth.values(), reverse=True)[: len(answers)])


def _discounted(gains: Sequence[float]) -> float:
    return math.fsum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains))


def pairwise_accuracy(answers: Sequence[str], lines: Sequence[str]) -> float:
    """Pairs of answers in the right order, over all pairs of lines: further lines lower it."""
    if len(answers) < 2 or len(lines) < 2:
        return 0.0
    place = {line: index for index, line in enumerate(lines)}
    kept = ((a, b) for a, b in combinations(answers, 2) if a in place and b in place)
    return sum(place[a] < place[b] for a, b in kept) / (len(lines) * (len(lines) - 1) / 2)


METRICS: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {
    "Accuracy": accuracy,
    "F1_Score": f1_score,
    "SubEM": sub_em,
    "NDCG": ndcg,
    "Pairwise_Accuracy": pairwise_accuracy,
}


def score_metric(name: str, answers: Sequence[str], prediction: str, *, tidy: bool = False) -> ScoreResult:
    """A prediction's score by the metric of this name.

    An empty prediction fails, and so does a value outside [0, 1], which an answer that holds an item twice can give.

    tidy : drop blank lines and list markers first
    """
    if not prediction:
        return FAILED
    lines = normalize_prediction(prediction)
    if tidy:
        lines = tidy_lines(lines) or [""]
    value = METRICS[name]([_folded(answer) for answer in answers], lines)
    return ScoreResult(True, value) if 0.0 <= value <= 1.0 else FAILED
