"""The denoiser: causal decoders read both ways, padding is hidden, and a remembered prefix changes nothing yet."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from farspan.engine import ModelDenoiser
from farspan.engine.forward import UnsupportedModel
from tests.diffusion_models import ids_of, model_of

CAUSAL = {
    "vocab_size": 41,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 1,
    "eos_token_id": [0, 3],
}


def causal(attention: str = "sdpa") -> PreTrainedModel:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**CAUSAL)).eval()
    model.set_attn_implementation(attention)
    return model


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_a_causal_decoder_reads_both_ways(attention: str) -> None:
    twin = model_of()
    model = causal(attention)
    model.load_state_dict(twin.state_dict())
    denoiser = ModelDenoiser(model, mask_token_id=40)
    assert denoiser.eos_token_id == 0
    ids = ids_of(12, batch=2)
    torch.testing.assert_close(denoiser(ids), twin(ids).logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(model(ids).logits, twin(ids).logits, atol=1e-2)


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("model", ["own", "causal", "causal eager"])
@torch.no_grad()
def test_padding_windows_shifts_and_prefixes_agree_with_the_plain_reading(model: str, shift: bool) -> None:
    decoder = model_of() if model == "own" else causal("eager" if model.endswith("eager") else "sdpa")
    denoiser = ModelDenoiser(decoder, mask_token_id=40, shift_logits=shift)
    ids = ids_of(12, batch=2)
    visible = torch.ones_like(ids)
    visible[0, :4] = 0
    short = denoiser(ids[:1, 4:])
    if shift:
        plain = ModelDenoiser(decoder, mask_token_id=40)(ids[:1, 4:])
        torch.testing.assert_close(short[:, 1:], plain[:, :-1])
    window = denoiser(ids, visible, 6, 10)
    torch.testing.assert_close(window[:1], short[:, 2:6], atol=1e-5, rtol=1e-5)
    first, prefix = denoiser.remember(ids, visible, 6, 10)
    torch.testing.assert_close(first, window, atol=1e-5, rtol=1e-5)
    for _ in range(2):
        torch.testing.assert_close(denoiser.after(prefix, ids, visible, 6, 10), window, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_run_says_so() -> None:
    with pytest.raises(UnsupportedModel, match="names no mask token"):
        ModelDenoiser(causal())
    sliding = MistralForCausalLM(MistralConfig(**CAUSAL, sliding_window=8))
    with pytest.raises(UnsupportedModel, match="cannot be cut back"):
        ModelDenoiser(sliding, mask_token_id=40).remember(ids_of(12), None, 6, 10)
