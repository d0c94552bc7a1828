"""The two faces of a haystack of pairs: one JSON object of identifiers, and prose about roads between places.

A style makes the pairs of a seed, writes a pair as text, reads all pairs back from a context, and words the
questions. Which pairs are linked and asked for is decided elsewhere.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from random import Random
from typing import ClassVar

from farspan.errors import FarspanError
from farspan.evals.generate.haystack.base import Haystack
from farspan.evals.generate.haystack.kv import draw_uuid, pair_text
from farspan.evals.generate.haystack.prose import ProseHaystack
from farspan.evals.generate.rng import derive_seed
from farspan.evals.tasks.family import joined
from farspan.evals.tasks.uuid_threads import Pair, parse_pairs

Wording = tuple[str, str]
"""Question and answer prefix, with the slot {keys}."""


class PairHaystack(Haystack):
    """A haystack whose unit i is, or can become, the pair number i of its seed."""

    wordings: ClassVar[dict[str, Wording]]
    stop: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        self._seed: int | None = None
        self._pairs: list[Pair] = []
        self._stream = Random(0)

    def pairs(self, seed: int, n: int) -> list[Pair]:
        """The first `n` pairs of a seed; all keys and values are distinct."""
        if seed != self._seed:
            self._seed, self._pairs, self._stream = seed, [], Random(seed)
        while len(self._pairs) < n:
            self._pairs.append(self.draw(self._stream, len(self._pairs), seed))
        return self._pairs[:n]

    @abstractmethod
    def draw(self, rng: Random, place: int, seed: int) -> Pair:
        """Pair number `place`."""

    @abstractmethod
    def write(self, pair: Pair) -> str:
        """The pair as a unit of text."""

    @abstractmethod
    def read(self, context: str) -> list[Pair]:
        """All pairs of a context, in order."""

    @abstractmethod
    def name(self, keys: Sequence[str]) -> str:
        """Keys as a question lists them."""

    @abstractmethod
    def named(self, question: str) -> list[str]:
        """The keys (or the character) a question lists."""

    def ask(self, form: str, keys: Sequence[str]) -> Wording:
        """Question and answer prefix of one form for these keys."""
        question, prefix = self.wordings[form]
        listed = self.name(keys)
        return f"Question: {question.format(keys=listed)}\n", f"Answer: {prefix.format(keys=listed)}"


class JsonPairs(PairHaystack):
    """One JSON object on one line, 80 characters a pair.

    Source: arXiv 2411.05000, section 3.
    """

    joiner = ", "
    head = "{"
    tail = "}"
    stop = ("\n",)
    wordings: ClassVar[dict[str, Wording]] = {
        "single": ("what is the value of the key {keys}?", '"'),
        "multi": ("what are the values of the keys {keys}?", '"'),
        "conditional": ("what are the values of all keys that contain the character {keys}?", '"'),
        "thread": ("start at the key {keys}, use each value as the next key, and give the last value.", '"'),
        "threads": (
            "start at each of the keys {keys}, use each value as the next key, and give the last value of each.",
            '"',
        ),
        "longest": (
            "several pairs can share a key. Start at the key {keys}, use each value as the next key, follow every "
            "branch, and give the last value of the longest one.",
            '"',
        ),
        "leaves": (
            "several pairs can share a key. Start at the key {keys}, use each value as the next key, follow every "
            "branch, and give the last value of each.",
            '"',
        ),
    }

    @property
    def kind(self) -> str:
        return "uuid-pairs"

    def units(self, seed: int, n: int) -> list[str]:
        return [self.write(pair) for pair in self.pairs(seed, n)]

    def draw(self, rng: Random, place: int, seed: int) -> Pair:
        return draw_uuid(rng), draw_uuid(rng)

    def write(self, pair: Pair) -> str:
        return pair_text(*pair)

    def read(self, context: str) -> list[Pair]:
        return parse_pairs(context)

    def name(self, keys: Sequence[str]) -> str:
        return joined([f'"{key}"' for key in keys])

    def named(self, question: str) -> list[str]:
        return re.findall(r'"([^"]+)"', question)


class RoadProse(PairHaystack):
    """Prose in which some sentences tell where a road leads; places have invented two-word names.

    Parameters
    ----------
    adjectives, nouns : the words of names
    share : share of the sentences that are roads to begin with
    """

    joiner = " "
    stop = ("\n", ".")
    wordings: ClassVar[dict[str, Wording]] = {
        "single": ("where does the road from {keys} lead?", "The road from {keys} leads to"),
        "multi": ("where do the roads from {keys} lead?", "The roads from {keys} lead to"),
        "conditional": (
            "where do all the roads lead that start at a place with the character {keys} in its name?",
            "These roads lead to",
        ),
        "thread": ("follow the roads from {keys}. Where do they end?", "The roads from {keys} end at"),
        "threads": ("follow the roads from each of {keys}. Where do they end?", "The roads from {keys} end at"),
        "longest": (
            "several roads can leave one place. Follow all roads from {keys}. Where does the longest way end?",
            "The longest way from {keys} ends at",
        ),
        "leaves": (
            "several roads can leave one place. Follow all roads from {keys}. Where do the ways end?",
            "The ways from {keys} end at",
        ),
    }
    NAME: ClassVar[re.Pattern[str]] = re.compile(r"[A-Z]\S* [A-Z][^\s.,?!;:\"')]*")
    SENTENCE: ClassVar[re.Pattern[str]] = re.compile(r"The road from (\S+ \S+) leads to (\S+ \S+)\.(?=\s|$)")

    def __init__(self, adjectives: Sequence[str], nouns: Sequence[str], share: float) -> None:
        super().__init__()
        self.adjectives, self.nouns, self.share = tuple(adjectives), tuple(nouns), share
        self._prose = ProseHaystack("en")
        self._taken: set[int] = set()

    @property
    def kind(self) -> str:
        return f"road-prose-{self.share}"

    def units(self, seed: int, n: int) -> list[str]:
        fillers = self._prose.units(seed, n)
        chosen = Random(derive_seed("roads", seed))
        roads = [chosen.random() < self.share for _ in range(n)]
        pairs = self.pairs(seed, n)
        return [self.write(pair) if road else filler for pair, road, filler in zip(pairs, roads, fillers, strict=True)]

    def draw(self, rng: Random, place: int, seed: int) -> Pair:
        if place == 0:
            self._taken = set()
        names = len(self.adjectives) * len(self.nouns)
        if 2 * (place + 1) > names:
            raise FarspanError(f"prose has names for {names // 2} sentences, not more; use style='json' at this length")
        return self._place_name(rng, names), self._place_name(rng, names)

    def _place_name(self, rng: Random, names: int) -> str:
        number = rng.randrange(names)
        while number in self._taken:
            number = rng.randrange(names)
        self._taken.add(number)
        first, second = divmod(number, len(self.nouns))
        return f"{self.adjectives[first].capitalize()} {self.nouns[second].capitalize()}"

    def write(self, pair: Pair) -> str:
        return f"The road from {pair[0]} leads to {pair[1]}."

    def read(self, context: str) -> list[Pair]:
        return [(start, end) for start, end in self.SENTENCE.findall(context)]

    def name(self, keys: Sequence[str]) -> str:
        return joined([f'"{key}"' if len(key) == 1 else key for key in keys])

    def named(self, question: str) -> list[str]:
        return re.findall(r'"(.)"', question) or self.NAME.findall(question.split(": ", 1)[1])
