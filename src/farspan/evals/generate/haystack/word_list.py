"""Numbered words, or coded words of random letters.

Source: arXiv 2404.06654, section 3 (aggregation tasks). Which words repeat how often is the task's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from farspan.evals.generate.haystack.base import Haystack, HaystackError, fingerprint_of
from farspan.evals.generate.languages import load_language
from farspan.evals.generate.rng import derive_seed

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class WordListHaystack(Haystack):
    """Words drawn one by one from a list.

    Parameters
    ----------
    words : the list; None takes the nouns of `lang`
    numbered : units are "1. word", "2. word", ...
    """

    joiner = " "

    def __init__(self, words: Sequence[str] | None = None, *, numbered: bool = True, lang: str = "en") -> None:
        self.words = tuple(load_language(lang).nouns if words is None else words)
        if not self.words:
            raise HaystackError("a word list needs at least one word")
        self.numbered = numbered

    def units(self, seed: int, n: int) -> list[str]:
        rng = Random(derive_seed(seed, "words"))
        drawn = [self.words[int(rng.random() * len(self.words))] for _ in range(n)]
        return [f"{i}. {word}" for i, word in enumerate(drawn, 1)] if self.numbered else drawn

    @property
    def kind(self) -> str:
        return fingerprint_of("words", self.numbered, *self.words)


def coded_words(rng: Random, count: int, letters: int = 6) -> list[str]:
    """`count` distinct words of random lower-case letters."""
    if count > 26**letters // 2:
        raise HaystackError(f"{count} distinct words of {letters} letters are too many; use longer words")
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(_LETTERS[int(rng.random() * 26)] for _ in range(letters))] = None
    return list(found)
