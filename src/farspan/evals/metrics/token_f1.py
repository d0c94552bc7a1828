"""F1 of words that an answer shares with a reference, in the variants that published tables use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from farspan.evals.metrics.chinese import normalized_zh_tokens
from farspan.evals.metrics.normalize import normalize_squad

_CLOSED = frozenset(("yes", "no", "noanswer"))


class Overlap(NamedTuple):
    """F1, precision and recall, all 0 where nothing is shared."""

    f1: float
    precision: float
    recall: float


NOTHING = Overlap(0.0, 0.0, 0.0)


def overlap(prediction: Sequence[Hashable], reference: Sequence[Hashable]) -> Overlap:
    """Overlap of two bags of words; a word counts as often as it is in both."""
    shared = (Counter(prediction) & Counter(reference)).total()
    if not shared:
        return NOTHING
    precision, recall = shared / len(prediction), shared / len(reference)
    return Overlap(2 * precision * recall / (precision + recall), precision, recall)


def f1_tokens(prediction: Sequence[Hashable], reference: Sequence[Hashable]) -> float:
    """F1 of two bags of words."""
    return overlap(prediction, reference).f1


def f1_set(prediction: Iterable[Hashable], reference: Iterable[Hashable]) -> float:
    """F1 of two sets."""
    given, right = set(prediction), set(reference)
    hits = len(given & right)
    return 2 * hits / (len(given) + len(right)) if hits else 0.0


def qa_f1(prediction: str, reference: str) -> float:
    """F1 of the words of two normalised English texts.

    Source: arXiv 2308.14508, section 3.3.
    """
    return f1_tokens(normalize_squad(prediction).split(), normalize_squad(reference).split())


def qa_f1_zh(prediction: str, reference: str) -> float:
    """F1 of the words of two Chinese texts."""
    return f1_tokens(normalized_zh_tokens(prediction), normalized_zh_tokens(reference))


def f1_helmet(prediction: str, reference: str) -> Overlap:
    """As `qa_f1`, but 0 where exactly one side is "yes", "no" or "noanswer" and the two differ.

    Source: arXiv 2410.02694.
    """
    given, right = normalize_squad(prediction), normalize_squad(reference)
    if given != right and (given in _CLOSED or right in _CLOSED):
        return NOTHING
    return overlap(given.split(), right.split())
