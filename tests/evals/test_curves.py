from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from farspan.evals.curves import isotonic_from_sums, longest_passing, passes
from farspan.evals.effective import (
    EffectiveLengthError,
    clopper_pearson,
    contour_effective_length,
    crossing,
    grid_length,
    isotonic_decreasing,
    wilson,
)

LENGTHS = [1024, 2048, 4096, 8192]
SCORES = st.lists(st.floats(0, 1), min_size=4, max_size=4)


@given(st.integers(1, 200), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_intervals_agree_with_scipy(n: int, data: st.DataObject, conf: float) -> None:
    k = data.draw(st.integers(0, n))
    for name, found in (("wilson", wilson(k, n, conf)), ("exact", clopper_pearson(k, n, conf))):
        expected = binomtest(k, n).proportion_ci(conf, method=name)
        assert found == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_one_sided_bounds_are_open_at_the_other_end() -> None:
    lower, one = wilson(45, 50, 0.95, "lower")
    zero, upper = wilson(45, 50, 0.95, "upper")
    assert (zero, one) == (0.0, 1.0)
    low, high = wilson(45, 50, 0.90)
    assert (lower, upper) == pytest.approx((low, high))


def test_all_correct_cells_need_nine_or_seventeen() -> None:
    def first(threshold: float) -> int:
        return next(n for n in range(1, 50) if wilson(n, n, 0.95, "lower")[0] >= threshold)

    assert (first(0.75), first(0.856)) == (9, 17)


@pytest.mark.parametrize(("k", "n", "conf"), [(1, 0, 0.95), (-1, 5, 0.95), (6, 5, 0.95), (1, 5, 1.0)])
def test_impossible_counts_are_refused(k: int, n: int, conf: float) -> None:
    with pytest.raises(EffectiveLengthError):
        wilson(k, n, conf)
    with pytest.raises(EffectiveLengthError):
        clopper_pearson(k, n, conf)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 50)), min_size=1, max_size=9))
def test_the_fit_is_the_best_non_increasing_one(points: list[tuple[float, int]]) -> None:
    y, w = np.array([p[0] for p in points]), np.array([float(p[1]) for p in points])
    fit = isotonic_decreasing(y, w)
    assert (np.diff(fit) <= 1e-12).all()
    assert float((fit * w).sum()) == pytest.approx(float((y * w).sum()))
    # The fit is a projection: moving towards any other non-increasing curve does not come nearer.
    for other in (np.full_like(y, y.mean()), np.minimum.accumulate(y), np.sort(y)[::-1]):
        assert float((w * (y - fit) * (other - fit)).sum()) <= 1e-9


def test_the_fit_beats_every_curve_of_a_grid() -> None:
    y = np.array([0.4, 0.9, 0.2, 0.5])
    best = min(
        float(((y - np.array(curve[::-1])) ** 2).sum())
        for curve in combinations_with_replacement(np.linspace(0, 1, 21), 4)
    )
    assert float(((y - isotonic_decreasing(y)) ** 2).sum()) <= best + 1e-12


def test_rows_are_fitted_each_for_itself() -> None:
    rows = np.random.default_rng(0).random((50, 6))
    weights = np.array([5.0, 40, 10, 10, 2, 8])
    fitted = isotonic_from_sums(rows * weights, np.broadcast_to(weights, rows.shape))
    for row, fit in zip(rows, fitted, strict=True):
        assert fit == pytest.approx(isotonic_decreasing(row, weights))


@given(SCORES, st.floats(0.01, 0.99), st.sampled_from(["log2", "linear"]))
def test_a_crossing_lies_where_the_curve_meets_the_threshold(scores: list[float], threshold: float, scale: str) -> None:
    value, side = crossing(LENGTHS, scores, threshold, scale)  # type: ignore[arg-type]
    below = [score < threshold - 1e-12 for score in scores]
    if not any(below):
        assert (value, side) == (8192, "right")
    elif below[0]:
        assert (value, side) == (0, "left")
    else:
        j = below.index(True)
        assert side == "none"
        assert LENGTHS[j - 1] * (1 - 1e-9) <= value <= LENGTHS[j] * (1 + 1e-9)
        x = np.log2([value, *LENGTHS]) if scale == "log2" else np.array([value, *LENGTHS], float)
        assert np.interp(x[0], x[1:], scores) == pytest.approx(threshold, abs=1e-6)


@given(SCORES, st.floats(0, 1))
def test_the_grid_value_takes_no_length_behind_a_failure(scores: list[float], threshold: float) -> None:
    value = grid_length(LENGTHS, scores, threshold)
    passing = [score >= threshold - 1e-12 for score in scores]
    expected = LENGTHS[: passing.index(False)] if False in passing else LENGTHS
    assert value == (expected[-1] if expected else 0)


def test_strict_grids_exceed_the_threshold() -> None:
    assert grid_length(LENGTHS, [0.9, 0.856, 0.8, 0.1], 0.856) == 2048
    assert grid_length(LENGTHS, [0.9, 0.856, 0.8, 0.1], 0.856, strict=True) == 1024


def test_a_mean_equal_to_the_threshold_passes_in_spite_of_rounding() -> None:
    for n in range(1, 400):
        k = round(0.856 * n)
        threshold = k / n
        mean = np.array([sum([1.0] * k + [0.0] * (n - k)) / n * n / n])
        assert passes(mean, threshold).all()


def test_longest_passing_works_by_rows() -> None:
    passing = np.array([[True, True, False], [False, True, True], [True, True, True]])
    assert longest_passing(np.array([1.0, 2.0, 4.0]), passing).tolist() == [2.0, 0.0, 4.0]


def test_a_contour_takes_the_worst_row() -> None:
    contour = contour_effective_length([1000, 2000, 4000], [[1.0, 0.8, 0.7], [1.0, 1.0, 0.8], [0.5, 1, 1]], 0.75)
    assert contour.per_row == pytest.approx((3000, 4000, 0))
    assert contour.censoring == ("none", "right", "left")
    assert contour.min_over_rows == 0


def test_curves_that_are_none_are_refused() -> None:
    for lengths, scores in (([], []), ([1, 2], [0.5]), ([2, 1], [0.5, 0.5]), ([1, 1], [0.5, 0.5])):
        with pytest.raises(EffectiveLengthError):
            crossing(lengths, scores, 0.5)
    with pytest.raises(EffectiveLengthError, match="at least one row"):
        contour_effective_length([1, 2], [], 0.5)
