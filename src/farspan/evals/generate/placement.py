"""Where needles go: depths and unit boundaries.

Boundaries are computed on the needle-free haystack. Only integers and one random stream come in; no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from farspan.errors import FarspanError
from farspan.evals.generate.length import IntArray, LengthTargetError, boundary_at
from farspan.evals.generate.rng import sample_indices, shuffled

Depths = float | Sequence[float] | Literal["uniform", "random", "clustered"]

UNIFORM_POINTS = 40


class PlacementError(FarspanError):
    """Depths that make no sense for these needles."""


@dataclass(frozen=True)
class DepthGrid:
    """`k` depths from 0 to 100 percent at equal distances."""

    k: int = 11

    @property
    def depths(self) -> tuple[float, ...]:
        """The grid, ascending."""
        if self.k < 1:
            raise PlacementError(f"a depth grid needs at least one depth, got {self.k}")
        return (50.0,) if self.k == 1 else tuple(100 * i / (self.k - 1) for i in range(self.k))

    def stratum(self, index: int) -> float:
        """The depth of sample `index`: strata in turn, so that every cell gets the same n."""
        return self.depths[index % self.k]


def draw_depths(depths: Depths, count: int, rng: Random) -> list[float]:
    """Depths of `count` needles in percent.

    "uniform" draws without replacement from 40 grid points (from as many more as needed), "random" from the continuum.
    """
    if isinstance(depths, str):
        if depths == "random":
            return [100 * rng.random() for _ in range(count)]
        if depths == "uniform":
            points = max(UNIFORM_POINTS, count)
            return shuffled(rng, [100 * i / (points - 1) for i in sample_indices(rng, points, count)])
        raise PlacementError(f"unknown depths '{depths}'; use numbers, 'uniform', 'random' or 'clustered'")
    if isinstance(depths, int | float):
        return [float(depths)] * count
    if len(depths) != count:
        raise PlacementError(f"{len(depths)} depths given for {count} needles; give one each, or one for all")
    return [float(depth) for depth in depths]


def place_insertions(sums: IntArray, depths: Depths, count: int, rng: Random, in_order: bool) -> list[int]:
    """Boundaries for `count` needles among units with these token sums [units + 1].

    With `in_order` needle j gets the j-th smallest boundary, so that a chain reads forwards.
    """
    n = len(sums) - 1
    if depths == "clustered":
        start = min(rng.randrange(n + 1), max(n + 1 - count, 0))
        return [min(start + j, n) for j in range(count)]
    boundaries = boundary_at(sums, draw_depths(depths, count, rng))
    return sorted(boundaries) if in_order else boundaries


def place_replacements(n: int, depths: Depths, count: int, rng: Random, in_order: bool) -> list[int]:
    """Distinct unit indices for `count` needles that each replace one of `n` units."""
    if count > n:
        raise LengthTargetError(f"{count} needles cannot replace units of a haystack of {n}; use a greater length")
    if depths == "clustered":
        start = rng.randrange(n - count + 1)
        return list(range(start, start + count))
    if depths in ("uniform", "random"):
        chosen = sample_indices(rng, n, count)
        return chosen if in_order else shuffled(rng, chosen)
    taken: set[int] = set()
    places = []
    for depth in draw_depths(depths, count, rng):
        if not 0 <= depth <= 100:
            raise LengthTargetError(f"depth {depth} is outside 0 to 100 percent")
        place = int((n - 1) * depth / 100 + 0.5)
        while place in taken:
            place = (place + 1) % n
        taken.add(place)
        places.append(place)
    return sorted(places) if in_order else places
