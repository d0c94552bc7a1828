"""NTK by the critical dimension: published factors, the law's fixed point, small heads."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig

from farspan.errors import LeverNotApplicable
from farspan.positions import NTKCritical, critical_dim, ntk_lambda
from farspan.positions.ntk_critical import Rounding
from farspan.positions.rope import default_inv_freq
from farspan.systems import critical_rope_dimension

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


def config_with(theta: float, head_dim: int, window: int) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        head_dim=head_dim,
        max_position_embeddings=window,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )


@pytest.mark.parametrize("model", [LLADA, LLAMA3, DREAM, (10_000.0, 64, 512)])
@pytest.mark.parametrize("rounding", ["ceil", "none"])
def test_the_lever_is_the_law_as_a_new_base(model: tuple[float, int, int], rounding: Rounding) -> None:
    theta, head_dim, window = model
    spec = NTKCritical(factor=4, rounding=rounding).plan(config_with(*model))
    base = theta * ntk_lambda(*model, 4 * window, rounding)
    assert spec.native == {"rope_type": "default", "rope_theta": base}
    assert spec.attention_factor == 1
    torch.testing.assert_close(spec.inv_freq, default_inv_freq(base, head_dim))


@pytest.mark.parametrize("model", [(10_000.0, 8, 64), (10_000.0, 16, 64), (200_000.0, 16, 64)])
def test_heads_of_few_pairs_are_stretched_all_the_same(model: tuple[float, int, int]) -> None:
    theta, _, window = model
    assert ntk_lambda(*model, window, "none") < 0.1
    share = math.log(window / (2 * math.pi)) / math.log(theta)
    for factor in (1.5, 2, 4, 8):
        native = NTKCritical(factor=factor, rounding="none").plan(config_with(*model)).native
        assert native is not None
        assert native["rope_theta"] == pytest.approx(theta * factor ** (1 / share))


@given(
    theta=st.floats(1e3, 1e7),
    pairs=st.integers(2, 64),
    window=st.integers(16, 8192),
    one=st.floats(1.01, 32),
    other=st.floats(1.01, 32),
    rounding=st.sampled_from(["ceil", "none"]),
)
def test_a_longer_target_never_gives_a_smaller_base(
    theta: float, pairs: int, window: int, one: float, other: float, rounding: Rounding
) -> None:
    config = config_with(theta, 2 * pairs, window)
    near, far = (
        NTKCritical(factor=factor, rounding=rounding).plan(config).native["rope_theta"]  # type: ignore[index]
        for factor in sorted((one, other))
    )
    assert theta <= near <= far


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
