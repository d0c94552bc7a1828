"""Initial weights: what they promise, and a refusal where the layout is another."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from farspan.errors import FarspanError
from farspan.training.config import InitializationConfig
from farspan.training.initialization import initialize

SETTINGS = InitializationConfig(embedding_std=0.25, common_direction=0.6, final_norm=0.1, quiet_blocks=True)


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=2,
            tie_word_embeddings=True,
        )
    )


def test_quiet_blocks_hand_the_embeddings_through() -> None:
    model = tiny()
    initialize(model, SETTINGS)
    ids = torch.arange(16)[None]
    with torch.no_grad():
        states = model.model(ids, output_hidden_states=True).hidden_states
        embedded = model.model.embed_tokens(ids)
    torch.testing.assert_close(states[1], embedded)


def test_the_common_direction_moves_all_logits_alike() -> None:
    model = tiny()
    initialize(model, SETTINGS)
    weight = model.model.embed_tokens.weight
    assert weight[:, 0].unique().tolist() == pytest.approx([0.6 * 0.25 * 8])
    assert float(weight[:, 1:].detach().std()) == pytest.approx(0.25, rel=0.05)
    state = torch.randn(64)
    with torch.no_grad():
        whole, rest = (state @ weight.T).softmax(0), (state[1:] @ weight[:, 1:].T).softmax(0)
    torch.testing.assert_close(whole, rest)


def test_other_layouts_are_refused() -> None:
    with pytest.raises(FarspanError, match="Llama's layout"):
        initialize(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64)), SETTINGS)
