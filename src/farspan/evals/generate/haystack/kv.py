"""One JSON object of random keys and values, each a UUID.

Source: arXiv 2411.05000, section 3.1 (128 random bits, no version bits set).
"""

from __future__ import annotations

from random import Random

from farspan.evals.generate.haystack.base import Haystack


class KVHaystack(Haystack):
    """Pairs `"key": "value"` inside braces; n pairs are exactly 80 n characters."""

    joiner = ", "
    head = "{"
    tail = "}"
    anchor = '"'

    def pairs(self, seed: int, n: int) -> list[tuple[str, str]]:
        """The first `n` (key, value) pairs of a seed."""
        rng = Random(seed)
        return [(draw_uuid(rng), draw_uuid(rng)) for _ in range(n)]

    def units(self, seed: int, n: int) -> list[str]:
        return [pair_text(key, value) for key, value in self.pairs(seed, n)]

    @property
    def kind(self) -> str:
        return "kv"


def draw_uuid(rng: Random) -> str:
    """128 random bits in UUID form."""
    digits = f"{rng.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def pair_text(key: str, value: str) -> str:
    """One unit of the haystack."""
    return f'"{key}": "{value}"'
