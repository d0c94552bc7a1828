"""The truncated basis."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from farspan.errors import LeverNotApplicable, RecipeError
from farspan.positions import TruncatedBasis, get_rope, truncated_vector
from farspan.positions.rope import default_inv_freq
from farspan.recipe import build_lever
from tests.positions.conftest import WINDOW, config_of


@pytest.mark.parametrize(
    ("theta", "head_dim", "length", "counts"),
    [
        (1e4, 128, 2048, (41, 14, 9)),
        (1e4, 128, 4096, (46, 14, 4)),
        (5e5, 128, 8192, (35, 11, 18)),
        (1e6, 128, 32768, (40, 10, 14)),
        (1e4, 64, 2048, (21, 7, 4)),
    ],
)
def test_numbers_of_kept_fixed_and_resting_pairs(
    theta: float, head_dim: int, length: int, counts: tuple[int, int, int]
) -> None:
    own = default_inv_freq(theta, head_dim)
    new = truncated_vector(own, length)
    kept, rest = int((new == own).sum()), int((new == 0).sum())
    assert (kept, new.numel() - kept - rest, rest) == counts
    fixed = new[(new != own) & (new != 0)]
    torch.testing.assert_close(fixed, torch.full_like(fixed, 2 * math.pi / (16 * length)))


@given(
    length=st.integers(2, 100_000),
    band=st.floats(1.01, 100),
    divisor=st.floats(1, 100),
    soft=st.booleans(),
    theta=st.floats(1e3, 1e7),
)
def test_pairs_with_a_full_turn_are_kept_and_none_gets_faster(
    length: int, band: float, divisor: float, soft: bool, theta: float
) -> None:
    own = default_inv_freq(theta, 64)
    new = truncated_vector(own, length, band, max(divisor, band), soft)
    turning = own * length >= 2 * math.pi * (1 + 1e-12)
    assert torch.equal(new[turning], own[turning])
    assert bool((new <= own).all())
    assert bool((new >= 0).all())


def test_the_soft_edge_meets_both_sides() -> None:
    cutoff = 2 * math.pi / 1000
    edge = torch.tensor([cutoff * 1.0001, cutoff * 0.9999, cutoff * 0.7, cutoff * 0.5001, cutoff * 0.4999]).double()
    new = truncated_vector(edge, 1000, soft=True)
    assert float(new[1] / edge[1]) == pytest.approx(1, abs=1e-3)
    assert cutoff / 16 < float(new[2]) < float(edge[2])
    assert float(new[3]) == pytest.approx(cutoff / 16, rel=1e-3)
    assert float(new[4]) == pytest.approx(cutoff / 16)


def test_the_window_is_the_default_cutoff() -> None:
    config = config_of("llama")
    own = get_rope(config).inv_freq
    assert torch.equal(TruncatedBasis(factor=4).plan(config).inv_freq, truncated_vector(own, WINDOW))
    halved = TruncatedBasis(factor=4, scale=2, cutoff_length=100).plan(config).inv_freq
    assert torch.equal(halved, truncated_vector(own / 2, 100))


@pytest.mark.parametrize("settings", [{"cutoff_length": 1}, {"band": 1.0}, {"fixed_divisor": 0}, {"scale": 0.5}])
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match=next(iter(settings))):
        build_lever("truncated-basis", {"factor": 4, **settings})
    if "scale" not in settings:
        with pytest.raises(LeverNotApplicable, match="truncated basis needs"):
            truncated_vector(torch.ones(4), **{"cutoff_length": 10, **settings})  # type: ignore[arg-type]
