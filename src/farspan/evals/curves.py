"""Proportions and curves: intervals, the non-increasing fit, and where a curve falls below a threshold.

Pure numbers on arrays; no records, no resampling, nothing random.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from farspan.errors import FarspanError

FloatArray = npt.NDArray[np.float64]
Censoring = Literal["none", "left", "right"]
Scale = Literal["log2", "linear"]

CENSORING: dict[int, Censoring] = {-1: "left", 0: "none", 1: "right"}

_ROUNDING = 1e-12
"""A mean of k out of n that equals the threshold may miss it by the rounding of a product."""


class EffectiveLengthError(FarspanError):
    """Records from which no effective length can be computed or compared."""


class ContourLength(BaseModel):
    """Effective length read from the contour of a (row x length) grid; rows are depths or settings."""

    model_config = ConfigDict(frozen=True)

    per_row: tuple[float, ...]
    censoring: tuple[Censoring, ...]
    min_over_rows: float


# -- one proportion ------------------------------------------------------------------------------------------------


def wilson(k: float, n: int, conf: float = 0.95, side: Literal["two", "lower", "upper"] = "two") -> tuple[float, float]:
    """Wilson score interval of a proportion of k out of n; one-sided bounds have 0 or 1 at the other end.

    Raises
    ------
    EffectiveLengthError : k outside 0..n, n not positive, or conf outside (0, 1).
    """
    _check_counts(k, n, conf)
    # scipy takes a second to load, and listing tasks must not wait for it
    from scipy.stats import norm

    z = float(norm.ppf((1 + conf) / 2 if side == "two" else conf))
    p = k / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    lower = 0.0 if k == 0 or side == "upper" else max(center - half, 0.0)
    upper = 1.0 if k == n or side == "lower" else min(center + half, 1.0)
    return lower, upper


def clopper_pearson(k: int, n: int, conf: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a proportion of k out of n."""
    _check_counts(k, n, conf)
    tail = (1 - conf) / 2
    from scipy.stats import beta

    lower = 0.0 if k == 0 else float(beta.ppf(tail, k, n - k + 1))
    upper = 1.0 if k == n else float(beta.ppf(1 - tail, k + 1, n - k))
    return lower, upper


def _check_counts(k: float, n: int, conf: float) -> None:
    if n < 1 or not 0 <= k <= n or not 0 < conf < 1:
        raise EffectiveLengthError(f"an interval needs 0 <= k <= n, n >= 1 and 0 < conf < 1, got k={k}, n={n}, {conf=}")


# -- curves --------------------------------------------------------------------------------------------------------


def isotonic_decreasing(y: Sequence[float] | FloatArray, w: Sequence[float] | FloatArray | None = None) -> FloatArray:
    """Weighted least-squares non-increasing fit; works on each row of a matrix [..., lengths]."""
    values = np.asarray(y, dtype=np.float64)
    weights = np.ones_like(values) if w is None else np.broadcast_to(np.asarray(w, dtype=np.float64), values.shape)
    return isotonic_from_sums(values * weights, weights)


def isotonic_from_sums(sums: FloatArray, weights: FloatArray) -> FloatArray:
    """The fit from weighted sums: at i the least over a <= i of the greatest over b >= i of the mean of a..b."""
    m = sums.shape[-1]
    fit = np.full_like(sums, np.inf)
    for a in range(m):
        mean = np.cumsum(sums[..., a:], axis=-1) / np.cumsum(weights[..., a:], axis=-1)
        best = np.maximum.accumulate(mean[..., ::-1], axis=-1)[..., ::-1]
        np.minimum(fit[..., a:], best, out=fit[..., a:])
    return fit


def crossings(lengths: FloatArray, y: FloatArray, threshold: float, scale: Scale) -> tuple[FloatArray, FloatArray]:
    """First downward crossing of each row [rows, lengths]; and -1, 0, 1 for left-censored, none, right-censored."""
    f = np.log2(lengths) if scale == "log2" else lengths
    below = ~passes(y, threshold)
    first = np.argmax(below, axis=1)
    never = ~below.any(axis=1)
    rows = np.arange(len(y))
    right = np.minimum(np.maximum(first, 1), len(f) - 1)
    before = np.maximum(right - 1, 0)
    high, low = y[rows, before], y[rows, right]
    with np.errstate(all="ignore"):
        at = f[before] + (high - threshold) / (high - low) * (f[right] - f[before])
        values = np.exp2(at) if scale == "log2" else at
    left = ~never & (first == 0)
    values = np.where(never, lengths[-1], np.where(left, 0.0, values))
    return values, np.where(never, 1.0, np.where(left, -1.0, 0.0))


def longest_passing(lengths: FloatArray, passing: npt.NDArray[np.bool_]) -> FloatArray:
    """Longest length up to which every one passes, per row [rows, lengths]; 0 for none."""
    count = np.argmin(np.concatenate([passing, np.zeros((len(passing), 1), dtype=bool)], axis=1), axis=1)
    return np.where(count > 0, lengths[np.maximum(count, 1) - 1], 0.0)


def passes(scores: FloatArray, threshold: float) -> npt.NDArray[np.bool_]:
    """Which scores reach the threshold, up to rounding."""
    return scores >= threshold - _ROUNDING


def crossing(
    lengths: Sequence[int], scores: Sequence[float], threshold: float, scale: Scale = "log2"
) -> tuple[float, Censoring]:
    """Where a curve first falls below the threshold, interpolated; 0 or the longest length where censored."""
    _check_curve(lengths, scores)
    values, sides = crossings(np.asarray(lengths, float), np.asarray([scores], float), threshold, scale)
    return float(values[0]), CENSORING[int(sides[0])]


def grid_length(lengths: Sequence[int], scores: Sequence[float], threshold: float, *, strict: bool = False) -> float:
    """Longest length that, with all shorter ones, reaches the threshold (with `strict` exceeds it); 0 for none."""
    _check_curve(lengths, scores)
    row = np.asarray([scores], float)
    passing = row > threshold + _ROUNDING if strict else passes(row, threshold)
    return float(longest_passing(np.asarray(lengths, float), passing)[0])


def _check_curve(lengths: Sequence[int], scores: Sequence[float]) -> None:
    if not lengths or len(lengths) != len(scores) or any(a >= b for a, b in pairwise(lengths)):
        raise EffectiveLengthError("a curve needs ascending lengths and one score for each of them")


def contour_effective_length(
    lengths: Sequence[int], rows: Sequence[Sequence[float]], threshold: float = 0.75, scale: Scale = "linear"
) -> ContourLength:
    """Crossing of every row of a score grid [rows, lengths], and the least of them.

    Source: arXiv 2411.05000, section 4.5.
    """
    found = [crossing(lengths, row, threshold, scale) for row in rows]
    if not found:
        raise EffectiveLengthError("a contour needs at least one row of scores")
    values = tuple(value for value, _ in found)
    return ContourLength(per_row=values, censoring=tuple(side for _, side in found), min_over_rows=min(values))
