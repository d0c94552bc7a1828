"""Documents of a packed row are read as if each stood alone, whatever the heads, windows and rows."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, MistralConfig

from farspan.training.data.packing import document_bounds
from farspan.training.packed_attention import (
    IMPLEMENTATION,
    PackedAttentionError,
    check_documents_apart,
    packed,
    packed_attention,
)

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
# two rows of 12 tokens, documents of 1, 5, 6 and 3, 9 tokens
LENGTHS = ((1, 5, 6), (3, 9))
POSITIONS = torch.tensor([[place for length in row for place in range(length)] for row in LENGTHS])


def written_out(query, key, value, *, window=None, softcap=None, causal=True):
    """Softmax over a full mask, in the definition's own order."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = query @ key.mT / query.shape[-1] ** 0.5
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    documents = torch.stack([torch.arange(len(row)).repeat_interleave(torch.tensor(row)) for row in LENGTHS])
    place = torch.arange(query.shape[2])
    seen = documents[:, None, :, None] == documents[:, None, None, :]
    distance = place[:, None] - place
    if causal:
        seen = seen & (distance >= 0)
    if window is not None:
        seen = seen & (distance.abs() < window)
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(
    "settings", [{}, {"window": 3}, {"softcap": 2.0}, {"window": 2, "softcap": 2.0}, {"causal": False}]
)
@pytest.mark.parametrize("backend", ["loop", "mask"])
def test_equals_the_definition_with_gradients(kv_heads, settings, backend):
    if backend == "mask" and "softcap" in settings:
        pytest.skip("has no softcap")
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(2, heads, 12, 8, dtype=torch.float64, requires_grad=True) for heads in (4, kv_heads, kv_heads)
    )
    bounds, longest = document_bounds(POSITIONS)
    assert (bounds.tolist(), longest) == ([0, 1, 6, 12, 15, 24], 9)
    found = packed_attention(query, key, value, bounds, backend=backend, **settings)
    expected = written_out(query, key, value, **settings)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    weights = torch.randn_like(found)
    for mine, theirs in zip(
        torch.autograd.grad((found * weights).sum(), [query, key, value]),
        torch.autograd.grad((expected * weights).sum(), [query, key, value]),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("config", [LlamaConfig(**SMALL), MistralConfig(**SMALL, sliding_window=4)])
def test_a_model_reads_packed_rows_as_under_a_mask(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    ids = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        masked = model(input_ids=ids, position_ids=POSITIONS, use_cache=False).logits
        with packed(model):
            assert model.config._attn_implementation == IMPLEMENTATION
            check_documents_apart(model)
            found = model(input_ids=ids, position_ids=POSITIONS, use_cache=False).logits
            alone = model(input_ids=ids[1:, 3:], use_cache=False).logits
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(found, masked, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1:, 3:], alone, rtol=1e-5, atol=1e-5)


def test_a_model_on_another_attention_stays_on_it():
    model = AutoModelForCausalLM.from_config(Gemma2Config(**SMALL), attn_implementation="eager")
    with packed(model):
        assert model.config._attn_implementation == "eager"


def test_an_attention_that_ignores_documents_is_refused():
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL), attn_implementation="sdpa")
    check_documents_apart(model)
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: (args, {**kwargs, "attention_mask": None}), with_kwargs=True
        )
    with pytest.raises(PackedAttentionError, match="LlamaForCausalLM on attention 'sdpa' lets packed documents"):
        check_documents_apart(model)


def test_what_cannot_be_read_says_so():
    rows = torch.randn(2, 4, 12, 8)
    with pytest.raises(PackedAttentionError, match="must cover 2 rows of 12 tokens"):
        packed_attention(rows, rows, rows, torch.tensor([0, 10, 24]))
    with pytest.raises(PackedAttentionError, match="use backend='loop'"):
        packed_attention(rows, rows, rows, torch.tensor([0, 12, 24]), backend="varlen")
    with pytest.raises(PackedAttentionError, match="has no softcap"):
        packed_attention(rows, rows, rows, torch.tensor([0, 12, 24]), softcap=1.0, backend="mask")
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL), attn_implementation="sdpa").eval()
    ids = torch.arange(24).reshape(2, 12)
    with packed(model):
        with pytest.raises(PackedAttentionError, match="leave attention_mask out"):
            model(input_ids=ids, attention_mask=(ids != 0).long(), use_cache=False)
        with pytest.raises(PackedAttentionError, match="makes no use of masks"):
            model(input_ids=ids, attention_mask=torch.zeros(2, 1, 12, 12), use_cache=False)
        cache = model(input_ids=ids, use_cache=True).past_key_values
        with pytest.raises(PackedAttentionError, match="use_cache=False"):
            model(input_ids=ids[:, :1], past_key_values=cache)
