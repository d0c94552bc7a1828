"""Slopes, layouts and costs: numbers that follow from sizes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from farspan.models.lightning import (
    LightningError,
    compute_optimal,
    decay_slopes,
    hybrid_flops,
    hybrid_layer_types,
)


def test_slopes_of_eight_heads_are_powers_of_a_half() -> None:
    assert decay_slopes(8).tolist() == [2.0**-n for n in range(1, 9)]


def test_other_head_counts_take_every_second_slope_of_the_next_power() -> None:
    assert decay_slopes(6).tolist() == [*decay_slopes(4).tolist(), *decay_slopes(8).tolist()[:4:2]]


@given(heads=st.integers(1, 80), layers=st.integers(1, 90))
def test_deeper_layers_forget_less_and_all_forget(heads: int, layers: int) -> None:
    slopes = torch.stack([decay_slopes(heads, layer, layers) for layer in range(layers)])
    assert slopes.shape == (layers, heads)
    assert (slopes > 0).all()
    assert (slopes.diff(dim=0) < 0).all()


def test_the_last_layer_keeps_a_decay_that_half_precision_would_lose() -> None:
    slopes = decay_slopes(64, 79, 80)
    torch.testing.assert_close(slopes / decay_slopes(64), torch.full((64,), 1e-5), rtol=1e-3, atol=0)


def test_every_eighth_layer_is_softmax() -> None:
    types = hybrid_layer_types(80)
    assert [index for index, kind in enumerate(types) if kind == "full_attention"] == list(range(7, 80, 8))
    assert set(hybrid_layer_types(4, 1)) == {"full_attention"}


@pytest.mark.parametrize(
    "call",
    [
        lambda: decay_slopes(0),
        lambda: decay_slopes(4, 4, 4),
        lambda: decay_slopes(4, 0),
        lambda: hybrid_layer_types(4, 0),
        lambda: hybrid_flops(0, 8, 1, 1),
        lambda: compute_optimal(0, "hybrid"),
        lambda: compute_optimal(1, "mamba"),
    ],
)
def test_nonsense_is_refused(call: object) -> None:
    with pytest.raises(LightningError):
        call()  # type: ignore[operator]


def test_costs_follow_the_published_formulas() -> None:
    n, hidden, heads, layers = 2**20, 6144, 64, 80
    base = 72 * n * layers * hidden**2
    assert hybrid_flops(n, hidden, heads, layers, 1) == pytest.approx(base * (1 + n / (6 * hidden)))
    assert hybrid_flops(n, hidden, heads, layers, None) == pytest.approx(base * (1 + 1 / (2 * heads)))
    expected = base * (1 + n / (48 * hidden) + 7 / (16 * heads))
    assert hybrid_flops(n, hidden, heads, layers) == pytest.approx(expected)


def test_the_hybrid_wins_at_every_published_size() -> None:
    for compute in (0.1, 1.0, 100.0, 1e4):
        assert compute_optimal(compute, "hybrid").loss < compute_optimal(compute, "softmax").loss
    at_one = compute_optimal(1, "softmax")
    assert (at_one.loss, at_one.parameters, at_one.tokens) == (3.7087, 1.82e8, 2.56e10)
