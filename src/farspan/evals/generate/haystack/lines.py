"""Register lines: each line has a key and holds one number.

Source: arXiv 2308.10882, section 4 (the task; the wording is ours).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import count, islice, product
from random import Random
from typing import Literal

from farspan.evals.generate.haystack.base import Haystack, HaystackError
from farspan.evals.generate.haystack.kv import draw_uuid
from farspan.evals.generate.languages import load_language
from farspan.evals.generate.rng import derive_seed, mixed

KeyKind = Literal["nl", "lrt", "abc", "uuid"]

VALUE_LIMIT = 50_000
CROWDED = 0.9
"""Share of the values in use at which distinct ones are drawn from twice as many."""


class LinesHaystack(Haystack):
    """Lines `line KEY: REGISTER_CONTENT is <VALUE>` with distinct keys.

    Parameters
    ----------
    key : "nl" adjective-noun pairs, "lrt" 1, 2, 3, ..., "abc" strings of A-F, "uuid"
    lang : language of the "nl" words
    distinct_values : no value twice; long records, which need more than 45,000, go on with greater ones
    """

    joiner = "\n"

    def __init__(self, key: KeyKind = "nl", lang: str = "en", distinct_values: bool = False) -> None:
        self.key = key
        self.lang = lang
        self.distinct_values = distinct_values

    def entries(self, seed: int, n: int) -> list[tuple[str, int]]:
        """The first `n` (key, value) entries of a seed."""
        keys = list(islice(line_keys(self.key, Random(derive_seed(seed, "keys")), self.lang), n))
        rng = Random(derive_seed(seed, "values"))
        if not self.distinct_values:
            return [(key, 1 + int(rng.random() * VALUE_LIMIT)) for key in keys]
        seen: set[int] = set()
        entries = []
        limit = VALUE_LIMIT
        for key in keys:
            if len(seen) >= CROWDED * limit:
                limit *= 2
            value = 1 + int(rng.random() * limit)
            while value in seen:
                value = 1 + int(rng.random() * limit)
            seen.add(value)
            entries.append((key, value))
        return entries

    def units(self, seed: int, n: int) -> list[str]:
        return [line_text(key, value) for key, value in self.entries(seed, n)]

    @property
    def kind(self) -> str:
        return f"lines:{self.key}:{self.lang}"


def line_text(key: str, value: int) -> str:
    """One unit of the haystack."""
    return f"line {key}: REGISTER_CONTENT is <{value}>"


def line_keys(kind: KeyKind, rng: Random, lang: str = "en") -> Iterator[str]:
    """An endless stream of distinct keys, as far as the kind goes.

    Raises
    ------
    HaystackError : more keys than the kind has (46,656 for "abc", adjectives x nouns for "nl").
    """
    if kind == "lrt":
        yield from (str(number) for number in count(1))
    if kind == "uuid":
        while True:
            yield draw_uuid(rng)
    if kind == "abc":
        yield from ("".join(letters) for letters in product("ABCDEF", repeat=6))
        raise HaystackError("keys of kind 'abc' end at 46656 lines; use key 'nl', 'lrt' or 'uuid'")
    yield from distinct_pairs(rng, lang)


def distinct_pairs(rng: Random, lang: str = "en") -> Iterator[str]:
    """Distinct adjective-noun pairs in random order."""
    language = load_language(lang)
    adjectives, nouns = language.adjectives, language.nouns
    total = len(adjectives) * len(nouns)
    seen: set[int] = set()
    while len(seen) < total:
        draw = int(rng.random() * total)
        if draw not in seen:
            seen.add(draw)
            yield f"{adjectives[draw // len(nouns)]}-{nouns[draw % len(nouns)]}"
    raise HaystackError(f"keys of kind 'nl' end at {total} lines; use key 'uuid' or 'lrt'")


@cache
def pair_order(lang: str = "en") -> tuple[str, ...]:
    """All pairs of an adjective and a noun, in one mixed order for all samples, which thus share what was counted."""
    language = load_language(lang)
    pairs = [f"{adjective}-{noun}" for adjective in language.adjectives for noun in language.nouns]
    return tuple(mixed(Random(derive_seed("pairs", lang)), pairs))
