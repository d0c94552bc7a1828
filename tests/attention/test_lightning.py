"""MiniMax models under the lever: the same logits, a cache that works, and the published form restored."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, MiniMaxConfig, MiniMaxForCausalLM

from farspan import Recipe
from farspan.attention.lightning import Lightning, rotary_channels
from farspan.errors import LeverNotApplicable
from farspan.models.lightning import HybridCache, decay_slopes, hybrid_layer_types


def _model(heads: int = 4, softmax_every: int = 4, **settings: object) -> MiniMaxForCausalLM:
    torch.manual_seed(0)
    config = MiniMaxConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=heads,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=4,
        layer_types=hybrid_layer_types(4, softmax_every),
        block_size=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **settings,
    )
    model = MiniMaxForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(4.0)
    return model


@pytest.fixture(scope="module")
def model() -> MiniMaxForCausalLM:
    return _model()


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(3, 97, (2, 37), generator=torch.Generator().manual_seed(0))


def _generate(model: MiniMaxForCausalLM, ids: Tensor, **settings: object) -> Tensor:
    generated: Tensor = model.generate(ids, do_sample=False, max_new_tokens=12, min_new_tokens=12, **settings)
    return generated


@torch.no_grad()
def test_logits_are_those_of_transformers_and_the_model_is_left_as_found(
    model: MiniMaxForCausalLM, ids: Tensor
) -> None:
    before = model(ids).logits
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with Recipe.parse("lightning")(model):
        torch.testing.assert_close(model(ids).logits, before, atol=1e-4, rtol=1e-4)
    assert torch.equal(model(ids).logits, before)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_generation_with_a_cache_is_that_of_transformers_without(
    model: MiniMaxForCausalLM, ids: Tensor, padded: bool
) -> None:
    mask = torch.ones_like(ids)
    mask[0, :9] = 0 if padded else 1
    stock = _generate(model, ids, attention_mask=mask, use_cache=False)
    with Lightning()(model):
        assert torch.equal(_generate(model, ids, attention_mask=mask), stock)
        assert torch.equal(_generate(model, ids, attention_mask=mask, use_cache=False), stock)


@torch.no_grad()
def test_padded_rows_equal_rows_alone(model: MiniMaxForCausalLM, ids: Tensor) -> None:
    mask = torch.ones_like(ids)
    mask[0, :9] = 0
    with Lightning()(model):
        together = model(ids, attention_mask=mask).logits
        alone = model(ids[:1, 9:]).logits
    torch.testing.assert_close(together[:1, 9:], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_cache_knows_its_length_though_the_first_layer_is_linear(model: MiniMaxForCausalLM, ids: Tensor) -> None:
    with Lightning()(model):
        whole = model(ids).logits
        first = model(ids[:, :20], use_cache=True)
        assert first.past_key_values.get_seq_length() == 20
        second = model(ids[:, 20:], past_key_values=first.past_key_values, use_cache=True)
    torch.testing.assert_close(second.logits, whole[:, 20:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_beams_and_looked_up_candidates_work(model: MiniMaxForCausalLM, ids: Tensor) -> None:
    prompt = ids[:1].repeat(1, 2)
    with Lightning()(model):
        plain = _generate(model, prompt)
        looked_up = _generate(model, prompt, prompt_lookup_num_tokens=4, past_key_values=HybridCache(8))
        assert torch.equal(looked_up, plain)
        beams = _generate(model, prompt, num_beams=3)
        assert torch.equal(beams, _generate(model, prompt, num_beams=3, use_cache=False))


@torch.no_grad()
def test_other_head_counts_get_the_published_slopes(ids: Tensor) -> None:
    model = _model(heads=6)
    stock = model(ids).logits
    with Lightning()(model):
        slopes = model.model.layers[1].self_attn.slopes(torch.device("cpu"))
        torch.testing.assert_close(slopes, decay_slopes(6, 1, 4), rtol=0, atol=0)
        assert (model(ids).logits - stock).abs().max() > 1e-3
    with Lightning(published_slopes=False)(model):
        torch.testing.assert_close(model(ids).logits, stock, atol=1e-4, rtol=1e-4)


def _rotated(x: Tensor, channels: int, theta: float) -> Tensor:
    """The published rotation: the first channels in pairs half of them apart, the others untouched. x [B, H, L, D]"""
    half = channels // 2
    angles = torch.arange(x.shape[2])[:, None] * theta ** (-torch.arange(half) * 2 / channels)
    first, second, rest = x[..., :half], x[..., half:channels], x[..., channels:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


@torch.no_grad()
@pytest.mark.parametrize(
    "setting", [{"rotary_dim": 8}, {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.25}}]
)
def test_a_part_of_each_head_is_rotated_where_the_configuration_says_so(
    setting: dict[str, object], ids: Tensor
) -> None:
    model = _model(softmax_every=1, **setting)
    channels = rotary_channels(model.config)
    assert channels == (8 if "rotary_dim" in setting else 4)
    attention = model.model.layers[0].self_attn
    hidden = torch.randn(2, 37, 64, generator=torch.Generator().manual_seed(1))
    heads = (2, 37, -1, 16)
    query, key, value = (
        projection(hidden).view(heads).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    theta = model.config.rope_parameters["rope_theta"]
    expected = torch.nn.functional.scaled_dot_product_attention(
        _rotated(query, channels, theta), _rotated(key, channels, theta), value, is_causal=True, enable_gqa=True
    )
    expected = attention.o_proj(expected.transpose(1, 2).flatten(2))
    before = model(ids).logits
    with Lightning()(model):
        embeddings = model.model.rotary_emb(hidden, torch.arange(37)[None])
        found, _ = attention(hidden_states=hidden, position_embeddings=embeddings, attention_mask=None)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(model(ids).logits, before)


def test_what_it_cannot_serve_is_refused() -> None:
    with pytest.raises(LeverNotApplicable, match="linearize"):
        Lightning().check(LlamaConfig())
    with pytest.raises(LeverNotApplicable, match="attn_type_list"):
        Lightning().check(MiniMaxConfig(num_hidden_layers=2, attn_type_list=[0, 1]))


def test_gradients_flow_as_in_transformers(model: MiniMaxForCausalLM, ids: Tensor) -> None:
    grads = []
    for lever in (Recipe(), Lightning()):
        with lever(model):
            model.zero_grad()
            model(ids, labels=ids).loss.backward()
            grads.append(model.model.layers[0].self_attn.qkv_proj.weight.grad.clone())
    model.zero_grad()
    torch.testing.assert_close(grads[1], grads[0], atol=1e-5, rtol=1e-3)
