"""NTK by the critical dimension: published factors, the law's fixed point, small heads."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.errors import LeverNotApplicable
from farspan.positions import NTKCritical, critical_dim, ntk_lambda, plan_rope
from farspan.positions.rope import default_inv_freq
from farspan.systems import critical_rope_dimension
from tests.positions.conftest import WINDOW, config_of

LLADA = (500_000.0, 128, 4096)
LLAMA3 = (500_000.0, 128, 8192)
DREAM = (1_000_000.0, 128, 2048)


@pytest.mark.parametrize(
    ("model", "dimension", "targets"),
    [
        (LLADA, 64, {8192: 4, 16_384: 14, 24_576: 31, 32_768: 55}),
        (LLAMA3, 70, {16_384: 4, 32_768: 13}),
        (DREAM, 54, {4096: 5, 8192: 25}),
    ],
)
def test_the_published_factors(model: tuple[float, int, int], dimension: int, targets: dict[int, int]) -> None:
    assert critical_dim(*model) == dimension
    for target, factor in targets.items():
        assert ntk_lambda(*model, target) == factor
        assert 0 < factor - ntk_lambda(*model, target, "none") < 1


@given(theta=st.floats(1e3, 1e8), pairs=st.integers(2, 128), window=st.integers(7, 2**20), factor=st.floats(1, 64))
def test_the_slowest_pair_that_turned_makes_one_turn_in_the_target(
    theta: float, pairs: int, window: int, factor: float
) -> None:
    dimension = critical_dim(theta, 2 * pairs, window)
    target = round(window * factor)
    base = theta * ntk_lambda(theta, 2 * pairs, window, target, "none")
    assert 2 * math.pi * base ** (dimension / (2 * pairs)) == pytest.approx(target, rel=1e-9)
    if dimension <= 2 * pairs:
        assert dimension == critical_rope_dimension(2 * pairs, theta, window)


@given(theta=st.floats(1e3, 1e8), pairs=st.integers(2, 128), window=st.integers(7, 2**20), factor=st.floats(1, 64))
def test_rounding_is_upwards_and_to_whole_numbers(theta: float, pairs: int, window: int, factor: float) -> None:
    arguments = (theta, 2 * pairs, window, round(window * factor))
    exact, up = ntk_lambda(*arguments, "none"), ntk_lambda(*arguments)
    assert up == int(up)
    assert exact * (1 - 1e-9) <= up < exact + 1


def test_the_lever_is_a_new_base() -> None:
    config = config_of("llama")
    spec = plan_rope(config, "ntk-critical", 4 * WINDOW)
    theta = 10_000 * ntk_lambda(10_000, 16, WINDOW, 4 * WINDOW)
    assert spec.native == {"rope_type": "default", "rope_theta": theta}
    assert spec.attention_factor == 1
    assert spec.inv_freq.tolist() == pytest.approx(default_inv_freq(theta, 16).tolist())
    exact = NTKCritical(factor=4, rounding="none").plan(config)
    assert bool((exact.inv_freq >= spec.inv_freq - 1e-12).all())


def test_heads_of_few_pairs_are_stretched_all_the_same() -> None:
    config = config_of("stablelm")
    assert ntk_lambda(10_000, 8, WINDOW, 4 * WINDOW) == 1
    spec = NTKCritical(factor=4, rounding="none").plan(config)
    assert spec.native is not None
    share = math.log(WINDOW / (2 * math.pi)) / math.log(10_000)
    assert spec.native["rope_theta"] == pytest.approx(10_000 * 4 ** (1 / share))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1.0, 128, 4096, 8192), "rope_theta above 1"),
        ((1e4, 127, 4096, 8192), "even"),
        ((1e4, 128, 6, 8192), "below one turn"),
        ((1e4, 128, 4096, 6), "below one turn"),
    ],
)
def test_bad_values_are_refused(arguments: tuple[float, int, int, int], words: str) -> None:
    with pytest.raises(LeverNotApplicable, match=words) as caught:
        ntk_lambda(*arguments)
    assert "\n" not in str(caught.value)
