"""Reading rotary positions from configurations, and expressing vectors as longrope factors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BloomConfig, FalconConfig, GPT2Config, LlamaConfig, MixtralConfig, OPTConfig

from farspan.errors import LeverNotApplicable
from farspan.positions import get_rope, rope_frequencies, to_longrope_factors
from farspan.positions.apply import inv_freq_name, rotary_modules
from farspan.positions.rope import default_inv_freq
from farspan.positions.rope import rope_frequencies as same_function
from tests.positions.conftest import CONFIGS, WINDOW, config_of, model_of


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_vector_read_is_the_vector_in_the_model(architecture: str) -> None:
    model = model_of(architecture)
    rope = get_rope(model.config)
    ((_, _, rotary),) = rotary_modules(model, model.config)
    installed = getattr(rotary, inv_freq_name(rope.layer_type))
    assert rope.inv_freq.dtype == torch.float64
    torch.testing.assert_close(rope.inv_freq.float(), installed, rtol=1e-6, atol=0)
    assert (rope.original_length, rope.target_length, rope.method) == (WINDOW, WINDOW, "default")
    assert not rope.stretched


@pytest.mark.parametrize("config", [GPT2Config(), OPTConfig(), BloomConfig(), FalconConfig(alibi=True)])
def test_models_without_rotary_positions_are_refused(config: object) -> None:
    with pytest.raises(LeverNotApplicable, match="has no rotary positions"):
        get_rope(config)  # type: ignore[arg-type]


def test_layer_typed_configurations_give_the_layers_that_see_everything() -> None:
    config = config_of("gemma3")
    assert get_rope(config).layer_type == "full_attention"
    assert get_rope(config).rope_theta == 1_000_000
    assert get_rope(config, "sliding_attention").rope_theta == 10_000
    with pytest.raises(LeverNotApplicable, match="sliding_attention, full_attention"):
        get_rope(config, "chunked_attention")
    with pytest.raises(LeverNotApplicable, match="leave layer_type out"):
        get_rope(config_of("llama"), "full_attention")


def test_stretched_configurations_give_their_effective_vector() -> None:
    parameters = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    rope = get_rope(LlamaConfig(head_dim=128, max_position_embeddings=131_072, rope_parameters=parameters))
    assert rope.stretched
    assert (rope.method, rope.original_length, rope.target_length) == ("llama3", 8192, 131_072)
    wanted, _ = rope_frequencies(parameters, 128, 131_072)
    assert torch.equal(rope.inv_freq, wanted.double())
    assert rope.inv_freq[-1] * 8 == pytest.approx(float(default_inv_freq(500_000, 128)[-1]), rel=1e-6)


def test_an_empty_head_dim_is_worked_out() -> None:
    assert get_rope(MixtralConfig(hidden_size=64, num_attention_heads=4)).head_dim == 16


def test_frequencies_that_transformers_cannot_make_are_refused() -> None:
    with pytest.raises(LeverNotApplicable, match="not known to transformers"):
        rope_frequencies({"rope_type": "spiral"}, 16, 64)
    with pytest.raises(LeverNotApplicable, match="need the key 'factor'"):
        rope_frequencies({"rope_type": "yarn"}, 16, 64)


def test_only_the_rotated_part_of_a_head_has_frequencies() -> None:
    inv_freq, factor = rope_frequencies({"rope_theta": 10_000, "partial_rotary_factor": 0.25}, 64, 128)
    assert inv_freq.shape == (8,)
    assert factor == 1
    torch.testing.assert_close(inv_freq.double(), default_inv_freq(10_000, 16), rtol=1e-6, atol=0)


def test_turns_and_wavelengths() -> None:
    rope = get_rope(config_of("llama"))
    assert float(rope.wavelengths[0]) == pytest.approx(2 * math.pi)
    torch.testing.assert_close(rope.turns(), WINDOW / rope.wavelengths)
    torch.testing.assert_close(rope.turns(2 * WINDOW), 2 * rope.turns())


@settings(max_examples=50, deadline=None)
@given(
    theta=st.floats(100, 1e8),
    ratios=st.lists(st.one_of(st.just(0.0), st.floats(1e-4, 10)), min_size=2, max_size=64),
)
def test_longrope_factors_express_any_vector(theta: float, ratios: list[float]) -> None:
    head_dim = 2 * len(ratios)
    own = default_inv_freq(theta, head_dim)
    wanted = own * torch.tensor(ratios, dtype=torch.float64)
    factors = to_longrope_factors(wanted, theta, head_dim)
    parameters = {
        "rope_type": "longrope",
        "rope_theta": theta,
        "short_factor": factors,
        "long_factor": factors,
        "attention_factor": 1.0,
        "factor": 1.0,
        "original_max_position_embeddings": 64,
    }
    made, _ = same_function(parameters, head_dim, 64)
    torch.testing.assert_close(made.double(), wanted, rtol=1e-5, atol=1e-25)
    assert bool((made[wanted == 0] * 1e7 < 1e-20).all())


@pytest.mark.parametrize(
    ("vector", "message"),
    [([1.0, 0.1], "give 4"), ([1.0, 0.1, -0.1, 0.0], "not negative"), ([1.0, 0.1, math.nan, 0.0], "finite")],
)
def test_vectors_that_do_not_fit_are_refused(vector: list[float], message: str) -> None:
    with pytest.raises(LeverNotApplicable, match=message):
        to_longrope_factors(vector, 10_000, 8)
