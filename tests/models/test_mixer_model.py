"""Language models of any mixer, hybrids among them, and their way to MiniMax and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, MiniMaxConfig, MiniMaxForCausalLM

from farspan.errors import LeverNotApplicable
from farspan.models import MixerConfig, MixerForCausalLM, from_minimax, hybrid_mixers, to_minimax
from farspan.models.mixer_model import mixer_kinds
from farspan.models.mixers import MIXERS, MixerError

CAUSAL = [kind for kind, mixer in MIXERS.items() if mixer.traits.causal]


def _model(mixers: list[str], **settings: object) -> MixerForCausalLM:
    torch.manual_seed(0)
    config = MixerConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        mixers=mixers,
        **settings,
    )
    model = MixerForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(3.0)
    return model


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(3, 61, (2, 20), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", CAUSAL)
@torch.no_grad()
def test_any_mixer_generates_with_and_without_its_state(kind: str, ids: Tensor) -> None:
    model = _model([kind, "softmax_attention"])
    settings = {"do_sample": False, "max_new_tokens": 8, "min_new_tokens": 8}
    with_state = model.generate(ids, **settings)
    assert torch.equal(with_state, model.generate(ids, use_cache=False, **settings))


@pytest.mark.parametrize("kind", CAUSAL)
@torch.no_grad()
def test_packed_documents_do_not_see_each_other(kind: str, ids: Tensor) -> None:
    model = _model([kind, "softmax_attention"])
    positions = torch.cat([torch.arange(8), torch.arange(12)])[None].expand(2, -1)
    packed = model(ids, position_ids=positions, use_cache=False).logits
    alone = torch.cat([model(ids[:, :8]).logits, model(ids[:, 8:]).logits], 1)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_left_padding_changes_nothing_and_right_padding_is_refused(ids: Tensor) -> None:
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    for kinds in (hybrid_mixers(4, 4), ["diagonal_ssm", "softmax_attention"]):
        model = _model(kinds)
        padded = model(ids, attention_mask=mask, position_ids=positions).logits[:1, 5:]
        torch.testing.assert_close(padded, model(ids[:1, 5:]).logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(MixerError, match="padding_side"):
        model(ids, attention_mask=mask.flip(1))


@torch.no_grad()
def test_a_model_without_softmax_layers_works(ids: Tensor) -> None:
    model = _model(["lightning"])
    whole = model(ids).logits
    first = model(ids[:, :15], use_cache=True)
    assert first.past_key_values.get_seq_length() == 15
    second = model(ids[:, 15:], past_key_values=first.past_key_values)
    torch.testing.assert_close(second.logits, whole[:, 15:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kinds", [["long_convolution", "mlp_mixer", "diagonal_ssm", "lightning"]])
@torch.no_grad()
def test_a_checkpoint_is_an_ordinary_one(kinds: list[str], ids: Tensor, tmp_path: Path) -> None:
    model = _model(kinds, mixer_settings={"mlp_mixer": {"hidden": 16}})
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, MixerForCausalLM)
    assert mixer_kinds(loaded) == kinds
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_what_looks_ahead_cannot_be_a_language_model() -> None:
    with pytest.raises(MixerError, match="no causal form"):
        MixerConfig(num_hidden_layers=2, mixers=["fourier"])
    with pytest.raises(MixerError, match="unknown mixer"):
        MixerConfig(num_hidden_layers=2, mixers=["nothing"])


@torch.no_grad()
def test_hybrids_become_minimax_and_come_back(ids: Tensor) -> None:
    model = _model(hybrid_mixers(4, 4), residual="post", residual_scale=1.5)
    there = to_minimax(model)
    torch.testing.assert_close(there(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)
    back = from_minimax(there)
    assert back.config.mixers == model.config.mixers
    assert torch.equal(back(ids).logits, model(ids).logits)


def test_what_minimax_cannot_be_is_refused() -> None:
    for model in (_model(hybrid_mixers(4, 4)), _model(["average_pool"], residual="post")):
        with pytest.raises(LeverNotApplicable, match="MiniMax has"):
            to_minimax(model)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = MiniMaxConfig(vocab_size=9, num_key_value_heads=2, num_local_experts=2, head_dim=8, **small)
    with pytest.raises(LeverNotApplicable, match="one expert"):
        from_minimax(MiniMaxForCausalLM(config))


def test_it_trains(ids: Tensor) -> None:
    model = _model(hybrid_mixers(4, 2)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
