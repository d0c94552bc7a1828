"""How cost grows with length: a fitted polynomial, and jumps that no polynomial explains. Numbers in, numbers out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from farspan.errors import FarspanError


class ShapeError(FarspanError):
    """Points that no curve can be fitted to."""


class Complexity(NamedTuple):
    """Cost of length L as `constant + linear * L + quadratic * L ** 2`, none of the three negative."""

    constant: float
    linear: float
    quadratic: float

    def at(self, length: float) -> float:
        """The cost that the curve gives for a length."""
        return self.constant + self.linear * length + self.quadratic * length**2


class Cliff(NamedTuple):
    """A jump between neighbouring lengths: the cost grew by `growth`, where at most `expected` was to be expected."""

    start: int
    stop: int
    growth: float
    expected: float


def fit_complexity(points: Sequence[tuple[int, float]]) -> Complexity:
    """Fit a + bL + cL^2 to costs, by non-negative least squares on relative errors.

    Relative errors weigh short and long contexts alike; a plain fit would follow the longest alone.
    Source: arXiv 2507.12442, section 4 (costs against length).

    Parameters
    ----------
    points : length in tokens and cost, both positive; at least three different lengths

    Raises
    ------
    ShapeError : fewer than three lengths, or a value that is not positive.
    """
    if len({length for length, _ in points}) < 3:
        raise ShapeError(f"a curve over lengths needs three of them, not {len({length for length, _ in points})}")
    lengths = np.array([length for length, _ in points], dtype=float)
    costs = np.array([cost for _, cost in points], dtype=float)
    if (lengths <= 0).any() or (costs <= 0).any():
        raise ShapeError("a curve over lengths needs positive lengths and costs")
    # Columns of similar size keep the normal equations of the solver well conditioned.
    scale = lengths.max()
    columns = np.stack([np.ones_like(lengths), lengths / scale, (lengths / scale) ** 2], axis=1)
    weights, _ = nnls(columns / costs[:, None], np.ones_like(costs))
    return Complexity(float(weights[0]), float(weights[1] / scale), float(weights[2] / scale**2))


def detect_cliffs(points: Sequence[tuple[int, float]], *, power: float = 2.0, factor: float = 1.5) -> list[Cliff]:
    """Find neighbouring lengths between which cost grows faster than a power of the length.

    Source: arXiv 2507.12442, section 4 (a model that triples its cost between 24,576 and 32,768 tokens).

    Parameters
    ----------
    points : length in tokens and cost, both positive; any order
    power : the steepest growth that is no cliff: 2 for reading a prompt, 1 for one more token
    factor : how much more than that a jump must be

    Returns
    -------
    list of Cliff, by ascending length
    """
    cliffs = []
    ordered = sorted(points)
    for (shorter, before), (longer, after) in itertools.pairwise(ordered):
        growth, expected = after / before, (longer / shorter) ** power
        if growth > factor * expected:
            cliffs.append(Cliff(shorter, longer, growth, expected))
    return cliffs
