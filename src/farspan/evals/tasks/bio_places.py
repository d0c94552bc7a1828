"""Where biographies that questions need stand among the others.

Source: arXiv 2506.02921, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np

from farspan.evals.generate.length import IntArray, LengthTargetError
from farspan.evals.tasks.family import KnobError


def allowed_places(sums: IntArray, window: tuple[float, float]) -> list[int]:
    """Indices of prefix sums that lie inside a window, given as shares of the last sum.

    Raises
    ------
    KnobError : none does; names the smallest window that has one.
    """
    shares = sums / max(int(sums[-1]), 1)
    low, high = window
    found = [int(place) for place in np.flatnonzero((shares >= low - 1e-12) & (shares <= high + 1e-12))]
    if not found:
        middle = (low + high) / 2
        nearest = float(shares[int(np.argmin(np.abs(shares - middle)))])
        raise KnobError(
            f"position ({low:g}, {high:g}): no biography starts there; the smallest window that has one is "
            f"({min(low, nearest):.4f}, {max(high, nearest):.4f})"
        )
    return found


def nearest_place(sums: IntArray, allowed: Sequence[int], window: tuple[float, float], depth: float) -> int:
    """The allowed place nearest to a depth, in percent of the window."""
    low, high = window
    aim = (low + (high - low) * depth / 100) * int(sums[-1])
    return min(allowed, key=lambda place: (abs(int(sums[place]) - aim), place))


def draw_places(
    sums: IntArray, window: tuple[float, float], groups: Sequence[tuple[int, float | None, bool]], rng: Random
) -> list[int]:
    """Places for groups of needles; several may share a boundary.

    Parameters
    ----------
    sums : tokens before each boundary, int64 [boundaries]
    groups : for each, the number of needles, the depth of a single one or None, and whether they stand in order
    """
    allowed = allowed_places(sums, window)
    places: list[int] = []
    for count, depth, in_order in groups:
        if depth is not None and count == 1:
            places.append(nearest_place(sums, allowed, window, depth))
            continue
        mine = [allowed[rng.randrange(len(allowed))] for _ in range(count)]
        places += sorted(mine) if in_order else mine
    return places


def set_apart(places: Sequence[int], n: int, allowed: Sequence[int], groups: Sequence[tuple[int, bool]]) -> list[int]:
    """Places made distinct, for needles that take the place of units: each moves to the nearest free allowed one.

    groups : number of needles, and whether they stand in order

    Raises
    ------
    LengthTargetError : fewer places than needles.
    """
    usable = [place for place in allowed if place < n]
    if len(usable) < len(places):
        raise LengthTargetError(f"{len(usable)} biographies are too few, the questions need {len(places)}")
    free = set(usable)
    moved = []
    for place in places:
        chosen = min(free, key=lambda other: (abs(other - place), other))
        free.remove(chosen)
        moved.append(chosen)
    done, ordered = 0, []
    for count, in_order in groups:
        mine = moved[done : done + count]
        ordered += sorted(mine) if in_order else mine
        done += count
    return ordered
