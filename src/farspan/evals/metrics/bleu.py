"""Sentence BLEU without smoothing, over whitespace tokens and at most as many n-gram orders as the reference has words.

Unsmoothed: one order without a hit makes the score (nearly) zero, which is what published tables of short answers use.
"""

from __future__ import annotations

import math
import sys
from collections import Counter

MAX_ORDER = 4


def bleu(ref: str, output: str) -> float:
    """Sentence BLEU of an output against one reference, in [0, 1].

    The orders are 1 to min(words of the reference, 4) with equal weights. No common word gives 0. An order without a
    hit counts as the smallest positive float, so the result is then of the order of 1e-78 or below, not exactly 0.
    An empty reference or output gives 0.

    Source: arXiv 2308.10882, section 4.
    """
    reference, hypothesis = ref.split(), output.split()
    orders = min(len(reference), MAX_ORDER)
    if not orders or not hypothesis:
        return 0.0
    logs = []
    for order in range(1, orders + 1):
        ours, theirs = _ngrams(hypothesis, order), _ngrams(reference, order)
        hits = sum(min(count, theirs[gram]) for gram, count in ours.items())
        if order == 1 and not hits:
            return 0.0
        logs.append(math.log(hits / sum(ours.values()) if hits else sys.float_info.min))
    brevity = min(0.0, 1.0 - len(reference) / len(hypothesis))
    return math.exp(brevity) * math.exp(math.fsum(log / orders for log in logs))


def bleu_1_4(reference: str, hypothesis: str) -> tuple[float, float]:
    """Share of single words and of runs of four words that are in the reference, each with the brevity penalty.

    The second is not the usual BLEU-4, which is the mean of four orders. An order without a hit counts as the smallest
    positive float; no common word at all gives 0 in both.

    Source: arXiv 2311.04939, section 4.
    """
    right, given = reference.split(), hypothesis.split()
    if not set(right) & set(given):
        return 0.0, 0.0
    penalty = math.exp(min(0.0, 1.0 - len(right) / len(given)))
    shares = []
    for order in (1, MAX_ORDER):
        ours, theirs = _ngrams(given, order), _ngrams(right, order)
        hits = (ours & theirs).total()
        shares.append(penalty * math.exp(math.log(hits / ours.total() if hits else sys.float_info.min)))
    return shares[0], shares[1]


def _ngrams(words: list[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))
