"""The masked-diffusion network: it sees both ways, ignores padding, and survives saving and loading."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from farspan.engine.forward import Forward, UnsupportedModel
from farspan.models import MaskedDiffusionLlama
from farspan.positions import NTKCritical
from farspan.positions.rope import default_inv_freq
from farspan.training import LongTrainer
from farspan.training.trainer import training_arguments
from tests.diffusion_models import ids_of, model_of


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_the_first_place_sees_the_last_token(attention: str) -> None:
    model = model_of()
    model.set_attn_implementation(attention)
    ids = ids_of(12)
    other = torch.cat([ids[:, :-1], (ids[:, -1:] + 1) % 40], dim=1)
    changed = (model(ids).logits - model(other).logits).abs().amax(-1)
    assert bool((changed > 1e-3).all())
    ones = model(ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(ones, model(ids).logits)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_padding_is_seen_by_nobody(attention: str) -> None:
    model = model_of()
    model.set_attn_implementation(attention)
    ids = ids_of(12, batch=2)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(ids, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(logits[:1, 3:], model(ids[:1, 3:]).logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[1:], model(ids[1:]).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_labels_belong_to_their_own_place_and_kept_places_are_those_asked_for() -> None:
    model = model_of()
    ids = ids_of(8, batch=2)
    whole = model(ids).logits
    labels = torch.full_like(ids, -100)
    labels[0, 0], labels[1, 7] = 5, 6
    expected = functional.cross_entropy(torch.stack([whole[0, 0], whole[1, 7]]), torch.tensor([5, 6]))
    assert model(ids, labels=labels).loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(model(ids, logits_to_keep=3).logits, whole[:, -3:])
    torch.testing.assert_close(model(ids, logits_to_keep=torch.tensor([1, 4])).logits, whole[:, [1, 4]])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("auto", [AutoModelForMaskedLM, AutoModelForCausalLM])
@torch.no_grad()
def test_saved_and_loaded_by_the_auto_classes(auto: type, tied: bool, tmp_path: Path) -> None:
    model = model_of(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    loaded = auto.from_pretrained(tmp_path).eval()
    assert type(loaded) is MaskedDiffusionLlama
    assert loaded.config.mask_token_id == 40
    assert torch.equal(loaded(ids_of(10)).logits, model(ids_of(10)).logits)
    assert not loaded.can_generate()


def test_the_autoregressive_engine_refuses_it() -> None:
    with pytest.raises(UnsupportedModel, match="MaskedDiffusionLlama"):
        Forward(model_of())


@torch.no_grad()
def test_positions_are_stretched_and_restored() -> None:
    model = model_of()
    ids = ids_of(100)
    before = model(ids).logits
    with NTKCritical(factor=4)(model):
        assert model.config.max_position_embeddings == 256
        assert model.config.rope_parameters["rope_theta"] > 10_000
        assert not torch.equal(model(ids).logits, before)
    assert torch.equal(model(ids).logits, before)


def test_the_trainer_finds_decoder_and_head(tmp_path: Path) -> None:
    model = model_of()
    trainer = LongTrainer(model=model, args=training_arguments(tmp_path, max_steps=1, precision="fp32"))
    ids = ids_of(16, batch=2)
    batch = {"input_ids": ids, "labels": ids, "loss_weights": torch.ones(ids.shape)}
    assert math.isfinite(trainer.compute_loss(model, batch).item())


@pytest.mark.parametrize("both_ways", [True, False])
def test_which_wavelengths_have_been_seen_in_full(both_ways: bool) -> None:
    """Sine is odd: seen both ways, a quarter turn shows its whole range, seen one way it takes three quarters."""
    window = 256
    frequencies = default_inv_freq(10_000, 32)
    wavelengths = 2 * math.pi / frequencies
    distances = torch.arange(-(window - 1) if both_ways else 0, window, dtype=torch.float64)
    angles = distances[:, None] * frequencies
    limit = 4 * window if both_ways else 4 * window / 3
    for pair, wavelength in enumerate(wavelengths.tolist()):
        sine, cosine = angles[:, pair].sin(), angles[:, pair].cos()
        reached = bool(sine.max() > 0.9) and bool(sine.min() < -0.9)
        if wavelength < 0.9 * limit:
            assert reached
        if wavelength > 1.3 * limit:
            assert not reached
        one_way = cosine[distances >= 0]
        assert cosine.min() == one_way.min()
        assert cosine.max() == one_way.max()
