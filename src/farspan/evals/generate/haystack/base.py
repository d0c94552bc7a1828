"""What a haystack is: an endless, seeded stream of short units of text.

Unit i depends only on the seed and i, so a longer haystack starts with the shorter one. Units neither start nor end
with whitespace; `joiner` stands between them, `head` and `tail` around all of them. Haystacks know no tokenizer.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from farspan.errors import FarspanError
from farspan.evals.generate.rng import derive_seed


class HaystackError(FarspanError):
    """A haystack that cannot give the units asked of it."""


class Haystack(ABC):
    """A seeded stream of units.

    Attributes
    ----------
    joiner : text between two units
    head, tail : text before the first and after the last unit
    anchor : how a unit ends, for counting; None takes the end of a sample unit
    size : number of units there are, None for endless
    recurring : whether units, or their parts, come again from one seed to the next, so that counting each of them once
        pays
    """

    joiner: str = "\n"
    head: str = ""
    tail: str = ""
    anchor: str | None = None
    size: int | None = None
    recurring: bool = False

    @abstractmethod
    def units(self, seed: int, n: int) -> list[str]:
        """The first `n` units of the stream of `seed`."""

    def seam(self, unit: str) -> int:
        """Where a unit falls into two parts that recur apart from each other, such as a number and a word; 0 if not."""
        return 0

    @property
    @abstractmethod
    def kind(self) -> str:
        """A name shared by haystacks whose units are made alike; calibration is done once a kind. "" for never."""


class CorpusHaystack(Haystack):
    """A haystack that reads one corpus; the seed picks where reading starts.

    The corpus is itself an endless stream of units, made in chunks of `CHUNK` units that are counted once and kept.
    """

    CHUNK: ClassVar[int] = 4096

    starts: int = CHUNK
    """Reading starts at one of the first `starts` units."""

    @abstractmethod
    def chunk(self, number: int) -> list[str]:
        """Units `number * CHUNK` to `(number + 1) * CHUNK` of the corpus."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever any unit of the corpus changes; names the stored counts."""

    @property
    def kind(self) -> str:
        return self.fingerprint

    def offset(self, seed: int) -> int:
        """The unit of the corpus at which the stream of `seed` starts."""
        return derive_seed("offset", seed) % self.starts

    def units(self, seed: int, n: int) -> list[str]:
        start = self.offset(seed)
        first, last = start // self.CHUNK, (start + n - 1) // self.CHUNK
        found = [unit for number in range(first, last + 1) for unit in self.chunk(number)]
        return found[start - first * self.CHUNK :][:n]


class ListHaystack(Haystack):
    """A finite list of given units, the same for every seed.

    Parameters
    ----------
    seam : text behind whose first occurrence a unit falls into two parts that recur; "" for units counted whole
    """

    def __init__(
        self,
        units: Sequence[str],
        joiner: str = "\n",
        *,
        head: str = "",
        tail: str = "",
        kind: str = "",
        seam: str = "",
    ) -> None:
        self._units = list(units)
        self.joiner, self.head, self.tail = joiner, head, tail
        self.recurring, self._seam = bool(seam), seam
        self.size = len(self._units)
        self._kind = kind

    def units(self, seed: int, n: int) -> list[str]:
        return self._units[:n]

    def seam(self, unit: str) -> int:
        return unit.find(self._seam) + len(self._seam)

    @property
    def kind(self) -> str:
        return self._kind


def fingerprint_of(*parts: object) -> str:
    """Hex digest of the parts' strings."""
    return hashlib.sha256("\x1f".join(str(part) for part in parts).encode("utf-8")).hexdigest()[:32]
