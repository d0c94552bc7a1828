"""The counting behind the aggregation and tracing tasks of RULER, and its summary over lengths.

Pure functions of numbers; texts are made elsewhere.

Source: arXiv 2404.06654, sections 3 and 4.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from random import Random
from typing import TypedDict, TypeVar

from scipy.special import zeta

from farspan.errors import FarspanError

THRESHOLDS = {"llama2-7b-chat@4k": 85.6, "llama2-7b-base@4k": 79.4}

T = TypeVar("T")


class CweCounts(TypedDict):
    """Length of the word list, and the share of it that common words take."""

    total: int
    common_share: float


class RulerSummary(TypedDict):
    """Effective length as text ("<4096", "32768", ">131072") and three means over lengths, in percent."""

    effective_length: str
    avg: float
    wavg_inc: float
    wavg_dec: float


def zeta_counts(num_words: int, vocab_size: int, alpha: float) -> list[int]:
    """How often each rank of a zeta-distributed vocabulary appears in a text of `num_words` words.

    Rank k gets floor(num_words * k^-alpha / zeta(alpha)); low ranks can get 0, and the sum is below `num_words`.

    Raises
    ------
    FarspanError : alpha not above 1, where the distribution does not exist.
    """
    if alpha <= 1:
        raise FarspanError(f"alpha must be above 1, got {alpha}")
    norm = float(zeta(alpha))
    return [math.floor(num_words * rank**-alpha / norm) for rank in range(1, vocab_size + 1)]


def cwe_counts(num_words: int, freq_cw: int, freq_ucw: int, num_cw: int) -> CweCounts:
    """Size of a common-words list of `num_words` distinct words, `num_cw` of them common.

    Parameters
    ----------
    freq_cw, freq_ucw : repetitions of each common and each uncommon word

    Raises
    ------
    FarspanError : fewer words than common words, or common words that are not the more frequent ones.
    """
    if num_words < num_cw:
        raise FarspanError(f"{num_cw} common words do not fit into {num_words} distinct words")
    if freq_cw <= freq_ucw:
        raise FarspanError(f"common words must repeat more often than others, got {freq_cw} and {freq_ucw}")
    common = num_cw * freq_cw
    total = common + (num_words - num_cw) * freq_ucw
    return {"total": total, "common_share": common / total}


def interleave(chains: Sequence[Sequence[T]], rng: Random) -> list[T]:
    """Merge sequences at random, each keeping its inner order.

    Every sequence's next item draws a priority when it becomes available; the smallest priority goes next. A random
    stream of equal seed gives the published order.
    """
    waiting = [(rng.random(), number, 0) for number, chain in enumerate(chains) if chain]
    heapq.heapify(waiting)
    merged: list[T] = []
    while waiting:
        _, number, place = heapq.heappop(waiting)
        merged.append(chains[number][place])
        if place + 1 < len(chains[number]):
            heapq.heappush(waiting, (rng.random(), number, place + 1))
    return merged


def ruler_summary(lengths: Sequence[int], scores: Sequence[float], threshold: float) -> RulerSummary:
    """Effective length and weighted means of the suite's scores.

    Parameters
    ----------
    lengths : tested lengths in tokens, ascending
    scores : the suite's mean score at each length, percent
    threshold : percent; the effective length is the longest one that exceeds it together with all shorter ones

    Returns
    -------
    RulerSummary
        `wavg_inc` weights the lengths 1, 2, 3, ... by rank, `wavg_dec` the other way round.

    Raises
    ------
    FarspanError : no lengths, unequal numbers of lengths and scores, or lengths not ascending.
    """
    if not lengths or len(lengths) != len(scores) or list(lengths) != sorted(set(lengths)):
        raise FarspanError(f"give ascending lengths and one score each, got {list(lengths)} and {len(scores)} scores")
    passed = 0
    while passed < len(scores) and scores[passed] > threshold:
        passed += 1
    if passed == 0:
        effective = f"<{lengths[0]}"
    elif passed == len(lengths):
        effective = f">{lengths[-1]}"
    else:
        effective = str(lengths[passed - 1])
    weights = range(1, len(scores) + 1)
    norm = sum(weights)
    return {
        "effective_length": effective,
        "avg": math.fsum(scores) / len(scores),
        "wavg_inc": math.fsum(w * s for w, s in zip(weights, scores, strict=True)) / norm,
        "wavg_dec": math.fsum(w * s for w, s in zip(reversed(weights), scores, strict=True)) / norm,
    }
