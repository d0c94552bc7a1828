"""Dynamic NTK: frequencies that follow the sequence, and a cache that follows the frequencies."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, DeepseekV3Config, DynamicCache, PreTrainedModel, StaticCache

from farspan.errors import LeverNotApplicable
from farspan.positions import DynamicNTK, applied, get_rope, plan_rope, rope_frequencies
from farspan.positions.apply import inv_freq_name, rotary_modules
from tests.positions.conftest import GROUPED, WINDOW, config_of, ids_of, logits_of, model_of
from tests.positions.test_rerotate import one_layer

LEVER = DynamicNTK(factor=4, step=1)


def frequencies_now(model: PreTrainedModel) -> torch.Tensor:
    ((_, _, rotary),) = rotary_modules(model, model.config)
    installed: torch.Tensor = getattr(rotary, inv_freq_name(get_rope(model.config).layer_type)).clone()
    return installed


def test_beyond_the_window_the_formula_of_transformers_holds() -> None:
    model = model_of("llama")
    with LEVER(model):
        for length in (WINDOW + 1, 2 * WINDOW, 5 * WINDOW):
            logits_of(model, ids_of(length))
            wanted, _ = rope_frequencies({"rope_type": "dynamic", "factor": 4.0}, 16, WINDOW, length)
            assert torch.equal(frequencies_now(model), wanted)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "stablelm", "glm"])
def test_within_the_window_the_model_is_unchanged_whatever_came_before(architecture: str) -> None:
    model, short, long = model_of(architecture), ids_of(WINDOW), ids_of(3 * WINDOW)
    unchanged = logits_of(model, short)
    with LEVER(model):
        assert torch.equal(logits_of(model, short), unchanged)
        first = logits_of(model, long)
        longer = logits_of(model, ids_of(4 * WINDOW))
        assert torch.equal(logits_of(model, short), unchanged)
        assert torch.equal(logits_of(model, long), first)
        assert not torch.allclose(longer[:, : 3 * WINDOW], first, atol=1e-3)


def test_growth_goes_in_steps_up_to_the_target() -> None:
    config = config_of("llama")
    rope, stepped = get_rope(config), DynamicNTK(factor=4, step=100)
    at = {length: LEVER.frequencies(rope, length) for length in (100, 200, 256, 300)}
    assert torch.equal(stepped.frequencies(rope, 65), at[100])
    assert torch.equal(stepped.frequencies(rope, 100), at[100])
    assert torch.equal(stepped.frequencies(rope, 101), at[200])
    assert torch.equal(stepped.frequencies(rope, 201), at[256])
    assert torch.equal(stepped.frequencies(rope, 300), at[300])


def test_the_vector_is_computed_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    computed, plain = [], DynamicNTK._at
    model = model_of("llama")
    with DynamicNTK(factor=4, step=16)(model):
        monkeypatch.setattr(DynamicNTK, "_at", lambda *given: computed.append(given[-1]) or plain(*given))
        for length in range(WINDOW - 2, WINDOW + 21):
            logits_of(model, ids_of(length))
    assert computed == [WINDOW + 16, WINDOW + 32]


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3", "stablelm", "glm", "phi3"])
def test_decoding_across_the_window_equals_reading_again_in_one_layer(architecture: str) -> None:
    model = one_layer(architecture)
    ids = ids_of(WINDOW + 6, batch=2)
    with LEVER(model), torch.no_grad():
        cache = DynamicCache(config=model.config)
        model(input_ids=ids[:, : WINDOW - 3], past_key_values=cache)
        for position in range(WINDOW - 3, WINDOW + 6):
            step = model(input_ids=ids[:, position : position + 1], past_key_values=cache).logits[:, -1]
            again = model(input_ids=ids[:, : position + 1], use_cache=False).logits[:, -1]
            torch.testing.assert_close(step, again, rtol=0, atol=1e-4)


def test_left_padded_rows_keep_their_own_positions() -> None:
    model = one_layer("llama")
    ids = ids_of(WINDOW + 4, batch=2)
    mask = torch.ones_like(ids)
    mask[1, :20] = 0
    with LEVER(model):
        out = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
        with torch.no_grad():
            places = (torch.cat([mask, torch.ones(2, 6, dtype=torch.long)], 1).cumsum(-1) - 1).clamp(min=0)
            whole = model(
                input_ids=out[:, :-1],
                attention_mask=torch.cat([mask, torch.ones(2, 5, dtype=torch.long)], 1),
                position_ids=places[:, :-1],
                use_cache=False,
            ).logits
    assert torch.equal(whole[:, -1].argmax(-1), out[:, -1])


def test_copied_and_cropped_caches_remember_their_frequencies() -> None:
    model, ids = one_layer("llama"), ids_of(3 * WINDOW)
    with LEVER(model), torch.no_grad():
        cache = DynamicCache(config=model.config)
        model(input_ids=ids[:, : 2 * WINDOW], past_key_values=cache)
        copied = copy.deepcopy(cache)
        model(input_ids=ids[:, 2 * WINDOW :], past_key_values=cache)
        cache.crop(-WINDOW)
        logits_of(model, ids_of(10))
        for held in (copied, cache):
            step = model(input_ids=ids[:, 2 * WINDOW : 2 * WINDOW + 1], past_key_values=held).logits[:, -1]
            again = model(input_ids=ids[:, : 2 * WINDOW + 1], use_cache=False).logits[:, -1]
            torch.testing.assert_close(step, again, rtol=0, atol=1e-4)


def test_embeddings_and_positions_say_the_length_too() -> None:
    model = model_of("llama")
    with LEVER(model), torch.no_grad():
        model(inputs_embeds=model.get_input_embeddings()(ids_of(2 * WINDOW)), use_cache=False)
        by_embeddings = frequencies_now(model)
        model(input_ids=ids_of(10), position_ids=torch.arange(2 * WINDOW - 10, 2 * WINDOW)[None], use_cache=False)
        assert torch.equal(frequencies_now(model), by_embeddings)


def test_baked_and_exported_it_is_frozen_at_the_target() -> None:
    config = config_of("llama")
    spec = LEVER.plan(config)
    wanted, _ = rope_frequencies({"rope_type": "dynamic", "factor": 4.0}, 16, WINDOW, 4 * WINDOW)
    assert torch.equal(spec.inv_freq, wanted.double())
    assert spec.native is not None
    assert spec.native["rope_type"] == "default"
    baked = model_of("llama")
    LEVER.bake(baked)
    model, ids = model_of("llama"), ids_of(4 * WINDOW)
    with applied(model, spec):
        assert torch.equal(logits_of(model, ids), logits_of(baked, ids))
    with LEVER(model):
        torch.testing.assert_close(logits_of(model, ids), logits_of(baked, ids), rtol=0, atol=1e-4)


def test_gradients_flow_while_it_is_on() -> None:
    model = model_of("llama").train()
    with LEVER(model):
        ids = ids_of(2 * WINDOW)
        model(input_ids=ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_cannot_follow_is_refused() -> None:
    model = model_of("llama")
    model_with_latent_keys = AutoModelForCausalLM.from_config(
        DeepseekV3Config(
            **(GROUPED | {"num_key_value_heads": 4}),
            moe_intermediate_size=8,
            n_routed_experts=4,
            n_group=1,
            topk_group=1,
            num_experts_per_tok=1,
            first_k_dense_replace=2,
            kv_lora_rank=8,
            q_lora_rank=8,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=8,
        )
    )
    with pytest.raises(LeverNotApplicable, match="use ntk"):
        LEVER(model_with_latent_keys)
    with LEVER(model), torch.no_grad():
        cache = StaticCache(config=model.config, max_cache_len=2 * WINDOW)
        model(input_ids=ids_of(WINDOW), past_key_values=cache)
        with pytest.raises(LeverNotApplicable, match="StaticLayer"):
            model(input_ids=ids_of(1), past_key_values=cache)
    assert plan_rope(config_of("llama"), "dynamic", 2 * WINDOW).method == "dynamic-ntk"
