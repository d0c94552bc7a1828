"""Distributions of rotary angles and their disturbance."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.errors import LeverNotApplicable
from farspan.positions import angle_histogram, disturbance, disturbance_of
from farspan.positions.angles import default_bins, released_histogram
from farspan.positions.rope import default_inv_freq


def counted(frequency: float, length: int, bins: int) -> list[float]:
    """The definition, position by position."""
    counts = [0] * bins
    for position in range(length):
        angle = math.fmod(position * frequency, 2 * math.pi)
        counts[min(int(bins * angle / (2 * math.pi)), bins - 1)] += 1
    return [count / length for count in counts]


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-6, 1), st.integers(1, 700), st.integers(2, 90))
def test_a_histogram_counts_positions(frequency: float, length: int, bins: int) -> None:
    found = angle_histogram(torch.tensor([frequency], dtype=torch.float64), length, bins)[0]
    # An angle on the edge of a bin may fall to either side, once at most in so few positions.
    assert float((found - torch.tensor(counted(frequency, length, bins))).abs().sum()) <= 2 / length + 1e-12
    assert float(found.sum()) == pytest.approx(1, abs=1e-12)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    inv_freq = default_inv_freq(10_000, 16)
    whole = [angle_histogram(inv_freq, 1000, 36, weighting) for weighting in ("uniform", "relative")]
    released = released_histogram(inv_freq, 1000, 36)
    monkeypatch.setattr("farspan.positions.angles.CHUNK", 100)
    for before, weighting in zip(whole, ("uniform", "relative"), strict=True):
        torch.testing.assert_close(angle_histogram(inv_freq, 1000, 36, weighting), before)
    assert torch.equal(released_histogram(inv_freq, 1000, 36), released)


def test_distances_are_weighted_as_often_as_they_occur() -> None:
    inv_freq, length, bins = default_inv_freq(100, 8), 50, 12
    weighted = angle_histogram(inv_freq, length, bins, "relative")
    by_pairs = torch.zeros(4, bins, dtype=torch.float64)
    for query in range(length):
        for key in range(query + 1):
            index = ((query - key) * inv_freq % (2 * math.pi) * bins / (2 * math.pi)).long()
            by_pairs[torch.arange(4), index] += 1
    torch.testing.assert_close(weighted, by_pairs / by_pairs.sum(-1, keepdim=True))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 60), st.floats(1e-8, 1e-2))
def test_disturbance_is_zero_for_equals_and_hardly_below(seed: int, bins: int, epsilon: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    one, other = torch.rand(2, 5, bins, generator=generator, dtype=torch.float64) ** 4
    one, other = one / one.sum(-1, keepdim=True), other / other.sum(-1, keepdim=True)
    assert float(disturbance(one, one, epsilon).abs().max()) == 0
    assert float(disturbance(one, other, epsilon).min()) > -bins * epsilon


def test_disturbance_of_unseen_angles_is_large() -> None:
    inv_freq = default_inv_freq(10_000, 128)
    assert disturbance_of(inv_freq, inv_freq, 4096, 4096) == 0
    kept = disturbance_of(inv_freq, inv_freq, 4096, 8192)
    divided = disturbance_of(inv_freq / 2, inv_freq, 4096, 8192)
    assert kept > 5 * divided > 0
    assert disturbance_of(inv_freq / 2, inv_freq, 4096, 8192, weighting="relative") < kept


def test_bins_follow_the_window() -> None:
    assert [default_bins(length) for length in (16, 512, 4096, 131072)] == [8, 64, 360, 360]


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bad_epsilon_is_refused(epsilon: float) -> None:
    histogram = torch.full((1, 4), 0.25)
    with pytest.raises(LeverNotApplicable, match="epsilon must be above 0"):
        disturbance(histogram, histogram, epsilon)


@pytest.mark.parametrize(("length", "bins", "word"), [(10, 1, "at least 2 bins"), (0, 8, "at least 1 token")])
def test_bad_sizes_are_refused(length: int, bins: int, word: str) -> None:
    for count in (angle_histogram, released_histogram):
        with pytest.raises(LeverNotApplicable, match=word):
            count(default_inv_freq(10_000, 8), length, bins)
