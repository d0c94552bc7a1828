"""Installing vectors in models: what an architecture cannot express is found out, nothing is left half changed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Gemma3Config,
    Gemma4TextConfig,
    MixtralConfig,
    PreTrainedModel,
)

from farspan.errors import LeverNotApplicable
from farspan.positions import applied, apply_rope, get_rope, plan_rope, rope_frequencies
from farspan.positions.apply import inv_freq_name, rotary_modules
from tests.positions.conftest import GROUPED, WINDOW, config_of, ids_of, logits_of, model_of


def test_applying_the_present_state_changes_nothing() -> None:
    for architecture in ("llama", "gemma3", "phi3", "stablelm"):
        model, ids = model_of(architecture), ids_of(2 * WINDOW)
        before = logits_of(model, ids)
        apply_rope(model, get_rope(model.config))
        assert torch.equal(logits_of(model, ids), before)


def test_applying_equals_building_from_the_new_configuration() -> None:
    model, ids = model_of("qwen3"), ids_of(3 * WINDOW)
    spec = plan_rope(model.config, "yarn", 4 * WINDOW)
    weights = model.state_dict()
    apply_rope(model, spec)
    built = AutoModelForCausalLM.from_config(model.config).eval()
    built.load_state_dict(weights)
    assert torch.equal(logits_of(model, ids), logits_of(built, ids))


def test_frequencies_are_float32_in_a_half_precision_model() -> None:
    model = model_of("llama").to(torch.bfloat16)
    with applied(model, plan_rope(model.config, "yarn", 4 * WINDOW)):
        ((_, _, rotary),) = rotary_modules(model, model.config)
        assert rotary.inv_freq.dtype == torch.float32
        positions = torch.tensor([[1_000_000]])
        cos, _ = rotary(torch.zeros(1, 1, 1, dtype=torch.float32), positions)
        wanted = (rotary.inv_freq.double() * 1_000_000).cos() * rotary.attention_scaling
        # The angle itself is rounded to float32: 0.06 radians at the fastest pair.
        torch.testing.assert_close(cos[0, 0, : wanted.shape[0]].double(), wanted, rtol=0, atol=0.1)


def test_pairs_at_rest_do_not_see_distance() -> None:
    model = model_of("llama")
    spec = plan_rope(model.config, "truncated", 4 * WINDOW)
    at_rest = (spec.inv_freq == 0).nonzero().flatten()
    assert at_rest.numel() >= 2
    with applied(model, spec):
        ((_, _, rotary),) = rotary_modules(model, model.config)
        positions = torch.randint(0, 1_000_000, (1, 64), generator=torch.Generator().manual_seed(0))
        cos, sin = rotary(torch.zeros(1, 1, 1), positions)
    query, key = torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(1))
    half = 8
    for pair in at_rest.tolist():
        first, second = [pair, pair + half], [pair + half, pair]
        sign = torch.tensor([-1.0, 1.0])
        turned = [
            vector[:, first] * cos[0][:, first] + sign * vector[:, second] * sin[0][:, first] for vector in (query, key)
        ]
        torch.testing.assert_close(turned[0] @ turned[1].T, query[:, first] @ key[:, first].T, rtol=0, atol=1e-6)


def test_the_text_model_of_several_modalities_is_stretched() -> None:
    torch.manual_seed(0)
    config = Gemma3Config(
        text_config=config_of("gemma3").to_dict(),
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        mm_tokens_per_image=4,
    )
    model: PreTrainedModel = AutoModelForImageTextToText.from_config(config).eval()
    ids = ids_of(3 * WINDOW)
    before = logits_of(model, ids)
    spec = plan_rope(model.config, "linear", 4 * WINDOW)
    with applied(model, spec):
        assert model.config.text_config.max_position_embeddings == 4 * WINDOW
        assert not torch.allclose(logits_of(model, ids), before, atol=1e-3)
    assert torch.equal(logits_of(model, ids), before)


def test_an_empty_head_dim_is_filled_for_the_time() -> None:
    model = AutoModelForCausalLM.from_config(MixtralConfig(**GROUPED, num_local_experts=2)).eval()
    assert model.config.head_dim is None
    for method in ("yarn", "power"):
        with applied(model, plan_rope(model.config, method, 4 * WINDOW)):
            assert torch.isfinite(logits_of(model, ids_of(2 * WINDOW))).all()
    assert model.config.head_dim is None


def test_layers_of_different_head_dimensions_are_read_and_refused() -> None:
    torch.manual_seed(0)
    config = Gemma4TextConfig(
        **GROUPED,
        head_dim=16,
        global_head_dim=32,
        sliding_window=32,
        layer_types=["sliding_attention", "full_attention"],
        hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=97,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    rope, spec = get_rope(config), plan_rope(config, "linear", 4 * WINDOW)
    assert not rope.stretched
    assert rope.rotary_dim == rope.head_dim == 32
    assert int((rope.inv_freq == 0).sum()) == 12
    before = model.config.to_dict()
    with pytest.raises(LeverNotApplicable, match="'gemma4_text' cannot express method 'linear'"), applied(model, spec):
        pass
    assert model.config.to_dict() == before


def test_a_rotary_that_ignores_its_configuration_is_found_out() -> None:
    model = model_of("llama")
    ((parent, name, rotary),) = rotary_modules(model, model.config)
    before = model.config.to_dict()

    class Stubborn(type(rotary)):  # type: ignore[misc]
        def __init__(self, config: object) -> None:
            super().__init__(config)
            self.inv_freq.copy_(torch.ones(8))

    setattr(parent, name, Stubborn(model.config))
    spec = plan_rope(model.config, "yarn", 4 * WINDOW)
    with pytest.raises(LeverNotApplicable, match="Stubborn does not follow rope_parameters"), applied(model, spec):
        pass
    assert model.config.to_dict() == before
    assert isinstance(getattr(parent, name), Stubborn)
    delattr(parent, name)
    with pytest.raises(LeverNotApplicable, match="no rotary module"), applied(model, spec):
        pass


def test_carried_keys_survive() -> None:
    config = config_of("llama")
    config.rope_parameters["mrope_section"] = [2, 3, 3]
    for method in ("yarn", "power"):
        model = AutoModelForCausalLM.from_config(config)
        with applied(model, plan_rope(config, method, 4 * WINDOW)):
            assert model.config.rope_parameters["mrope_section"] == [2, 3, 3]


def test_an_attention_factor_of_ones_own_reaches_the_rotary() -> None:
    model = model_of("llama")
    spec = replace(plan_rope(model.config, "power", 4 * WINDOW), attention_factor=1.3)
    with applied(model, spec):
        ((_, _, rotary),) = rotary_modules(model, model.config)
        assert rotary.attention_scaling == 1.3


def test_names_of_buffers() -> None:
    assert inv_freq_name(None) == "inv_freq"
    assert hasattr(model_of("gemma3").model.rotary_emb, inv_freq_name("full_attention"))


def test_constant_factors_equal_linear_interpolation() -> None:
    model, ids = model_of("stablelm"), ids_of(3 * WINDOW)
    with applied(model, plan_rope(model.config, "longrope", 4 * WINDOW, factors=[4.0] * 4, attention_factor=1.0)):
        constant = logits_of(model, ids)
    with applied(model, plan_rope(model.config, "linear", 4 * WINDOW)):
        assert torch.equal(logits_of(model, ids), constant)
    with applied(model, plan_rope(model.config, "linear", 4 * WINDOW), "native"):
        torch.testing.assert_close(logits_of(model, ids), constant, rtol=0, atol=1e-5)
    assert rope_frequencies({"rope_type": "linear", "factor": 4.0}, 8, 64)[0][0] == 0.25
