"""METEOR of words and their stems: what is shared, in how few runs. No thesaurus is asked.

Source: W05-0909 (METEOR), with the parameters of its common implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nltk.stem.porter import PorterStemmer

ALPHA, BETA, GAMMA = 0.9, 3.0, 0.5

_Numbered = list[tuple[int, str]]


@cache
def _stemmer() -> PorterStemmer:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()


def meteor_exact_stem(reference: str, hypothesis: str) -> float:
    """METEOR in [0, 1] of two texts cut at white space, whatever their case: equal words first, then equal stems.

    Each word of either side is matched once, beginning from the end.
    """
    right, given = reference.lower().split(), hypothesis.lower().split()
    left_given, left_right = list(enumerate(given)), list(enumerate(right))
    matches = _matched(left_given, left_right, lambda word: word)
    matches += _matched(left_given, left_right, _stemmer().stem)
    if not matches:
        return 0.0
    precision, recall = len(matches) / len(given), len(matches) / len(right)
    mean: float = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
    penalty: float = GAMMA * (_runs(sorted(matches)) / len(matches)) ** BETA
    return (1 - penalty) * mean


def _matched(given: _Numbered, right: _Numbered, form: Callable[[str], str]) -> list[tuple[int, int]]:
    """Pairs of places with words of equal form, taken out of both lists."""
    places: dict[str, list[int]] = {}
    for place, word in right:
        places.setdefault(form(word), []).append(place)
    pairs = []
    for place, word in reversed(given):
        if free := places.get(form(word)):
            pairs.append((place, free.pop()))
    taken_given, taken_right = {own for own, _ in pairs}, {other for _, other in pairs}
    given[:] = [entry for entry in given if entry[0] not in taken_given]
    right[:] = [entry for entry in right if entry[0] not in taken_right]
    return pairs


def _runs(matches: Sequence[tuple[int, int]]) -> int:
    """Runs of matches that follow each other on both sides."""
    return 1 + sum((own + 1, other + 1) != following for (own, other), following in pairwise(matches))
