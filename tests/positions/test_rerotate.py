"""Turning cached keys to other frequencies."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Cache, DynamicCache, PreTrainedModel, StaticCache

from farspan.errors import LeverNotApplicable
from farspan.positions import applied, get_rope, plan_rope, rerotate_cache_
from farspan.positions.apply import rotary_modules
from farspan.positions.rerotate import pairs_interleaved, rotate_keys
from farspan.positions.rope import default_inv_freq
from tests.positions.conftest import CONFIGS, WINDOW, config_of, ids_of, model_of


def one_layer(architecture: str) -> PreTrainedModel:
    config = config_of(architecture)
    config.num_hidden_layers = 1
    if getattr(config, "layer_types", None):
        config.layer_types = ["full_attention"]
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return model


def prefilled(model: PreTrainedModel, ids: torch.Tensor) -> Cache:
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=ids, past_key_values=cache)
    return cache


@pytest.mark.parametrize("architecture", CONFIGS)
def test_decoding_after_the_switch_equals_reading_again(architecture: str) -> None:
    model = one_layer(architecture)
    ids = ids_of(WINDOW + 1, batch=2)
    old, spec = get_rope(model.config), plan_rope(model.config, "ntk", 4 * WINDOW)
    ((_, _, rotary),) = rotary_modules(model, model.config)
    cache = prefilled(model, ids[:, :-1])
    rerotate_cache_(
        cache,
        torch.arange(WINDOW),
        old.inv_freq,
        spec.inv_freq,
        interleaved=pairs_interleaved(rotary, spec.rotary_dim),
    )
    with applied(model, spec), torch.no_grad():
        again = model(input_ids=ids, use_cache=False).logits[:, -1]
        decoded = model(input_ids=ids[:, -1:], past_key_values=cache).logits[:, -1]
    torch.testing.assert_close(decoded, again, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_turning_back_and_forth_returns_the_keys(dtype: torch.dtype) -> None:
    model = one_layer("llama").to(dtype)
    cache = prefilled(model, ids_of(WINDOW))
    before = cache.layers[0].keys.clone()
    old, new = get_rope(model.config).inv_freq, plan_rope(model.config, "yarn", 4 * WINDOW).inv_freq
    for _ in range(4):
        rerotate_cache_(cache, torch.arange(WINDOW), old, new)
        assert not torch.allclose(cache.layers[0].keys, before, atol=1e-2)
        rerotate_cache_(cache, torch.arange(WINDOW), new, old)
    error = (cache.layers[0].keys.float() - before.float()).abs()
    # Each turn rounds to the type of the keys: half a unit in the last place, eight times.
    assert error.max() <= 8 * torch.finfo(dtype).eps * before.float().abs().max()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.integers(0, 2**31))
def test_only_differences_of_positions_reach_the_scores(offset: int, interleaved: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    query, key = torch.randn(2, 1, 1, 1, 12, generator=generator, dtype=torch.float64)
    inv_freq = default_inv_freq(10_000, 8)

    def score(at: int, to: int) -> float:
        turned = [
            rotate_keys(vector, torch.tensor([position]), inv_freq, interleaved)
            for vector, position in ((query, at), (key, to))
        ]
        return float((turned[0] * turned[1]).sum())

    assert score(offset + 7, offset + 3) == pytest.approx(score(7, 3), abs=1e-5)


def test_channels_that_do_not_rotate_pass_through() -> None:
    keys = torch.randn(2, 3, 5, 16)
    turned = rotate_keys(keys, torch.arange(5), default_inv_freq(10_000, 8))
    assert torch.equal(turned[..., 8:], keys[..., 8:])
    assert torch.equal(turned[:, :, 0], keys[:, :, 0])
    torch.testing.assert_close(turned.norm(dim=-1), keys.norm(dim=-1))


def test_rows_may_have_positions_of_their_own() -> None:
    keys, inv_freq = torch.randn(2, 3, 5, 16), default_inv_freq(10_000, 16)
    positions = torch.tensor([[0, 1, 2, 3, 4], [0, 0, 0, 1, 2]])
    both = rotate_keys(keys, positions, inv_freq)
    for row in range(2):
        assert torch.equal(both[row], rotate_keys(keys[row : row + 1], positions[row], inv_freq)[0])


def test_sliding_layers_hold_the_last_positions_and_chosen_layers_alone_turn() -> None:
    model = model_of("gemma3")
    cache = prefilled(model, ids_of(WINDOW))
    before = copy.deepcopy(cache)
    sliding, whole = cache.layers
    assert sliding.keys.shape[-2] < WINDOW
    old = get_rope(model.config, "sliding_attention").inv_freq
    rerotate_cache_(cache, torch.arange(WINDOW), old, old / 2, layers=[0])
    assert torch.equal(whole.keys, before.layers[1].keys)
    held = sliding.keys.shape[-2]
    wanted = rotate_keys(before.layers[0].keys, torch.arange(WINDOW)[-held:], -old / 2)
    torch.testing.assert_close(sliding.keys, wanted)


def test_caches_that_cannot_be_turned_are_refused_untouched() -> None:
    model = model_of("llama")
    inv_freq = get_rope(model.config).inv_freq
    static = StaticCache(config=model.config, max_cache_len=WINDOW)
    with pytest.raises(LeverNotApplicable, match="StaticLayer"):
        rerotate_cache_(static, torch.arange(4), inv_freq, inv_freq / 2)
    with pytest.raises(LeverNotApplicable, match="offloaded"):
        rerotate_cache_(DynamicCache(config=model.config, offloading=True), torch.arange(4), inv_freq, inv_freq / 2)


def test_pairing_of_channels_is_found_out() -> None:
    for architecture, interleaved in (("llama", False), ("stablelm", False), ("glm", True), ("gemma3", False)):
        model = model_of(architecture)
        ((_, _, rotary),) = rotary_modules(model, model.config)
        assert pairs_interleaved(rotary, get_rope(model.config).rotary_dim) is interleaved
    with pytest.raises(LeverNotApplicable, match="cannot be found out"):
        pairs_interleaved(torch.nn.Identity(), 8)
