"""Prose: grammatical sentences without facts, from a language's own word list.

Paragraphs keep a small set of topic nouns, so that the text reads as if it were about something. No sentence holds a
digit, so generated numbers and codes never occur by chance.
"""

from __future__ import annotations

from functools import lru_cache
from random import Random

from farspan.evals.generate.haystack.base import CorpusHaystack, fingerprint_of
from farspan.evals.generate.languages import language_data, load_language
from farspan.evals.generate.rng import derive_seed

_MAKER_VERSION = 1


class ProseHaystack(CorpusHaystack):
    """Sentences of a small grammar.

    Parameters
    ----------
    lang : code of a language with a file in `words/`
    corpus_seed : another seed is another endless corpus, counted anew
    """

    def __init__(self, lang: str = "en", corpus_seed: int = 0) -> None:
        self.lang = lang
        self.corpus_seed = corpus_seed
        self.joiner = load_language(lang).joiner
        self._fingerprint = fingerprint_of("prose", _MAKER_VERSION, lang, corpus_seed, language_data(lang))

    def chunk(self, number: int) -> list[str]:
        return list(_chunk(self.lang, self.corpus_seed, number))

    @property
    def fingerprint(self) -> str:
        return self._fingerprint


@lru_cache(maxsize=8)
def _chunk(lang: str, corpus_seed: int, number: int) -> tuple[str, ...]:
    rng = Random(derive_seed("prose", lang, corpus_seed, number))
    return tuple(load_language(lang).sentences(rng, ProseHaystack.CHUNK))
