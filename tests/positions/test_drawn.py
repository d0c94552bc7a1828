"""Positions drawn in training: gradients, layouts of angles, and draws that follow the step."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from farspan.errors import LeverNotApplicable
from farspan.positions import Drawn, DrawnRotary, applied, drawn_positions, get_rope, plan_rope
from farspan.positions.apply import inv_freq_name, rotary_modules
from farspan.positions.drawn import channel_pairs, own_inv_freq
from tests.positions.conftest import CONFIGS, WINDOW, ids_of, logits_of, model_of


class Stretch:
    """Divides all positions by a number drawn from the pass's generator."""

    def __init__(self, inv_freq: torch.Tensor) -> None:
        self.inv_freq = inv_freq
        self.drawn: list[float] = []

    def __call__(self, position_ids: torch.Tensor, batch: int, generator: torch.Generator) -> Drawn:
        self.drawn.append(1 + float(torch.rand(1, generator=generator)))
        return Drawn(position_ids / self.drawn[-1], self.inv_freq[None, None])


@pytest.mark.parametrize("architecture", CONFIGS)
def test_drawing_the_plain_positions_gives_the_model_to_the_last_bit(architecture: str) -> None:
    model, ids = model_of(architecture), ids_of(2 * WINDOW, batch=2)
    rope = get_rope(model.config)
    own, before = own_inv_freq(model, rope.layer_type), logits_of(model, ids)
    plain = lambda position_ids, batch, generator: Drawn(position_ids.float(), own[None, None])  # noqa: E731
    with drawn_positions(model, plain, rope.layer_type):
        assert torch.equal(logits_of(model, ids), before)
        model.train()
        assert torch.equal(logits_of(model, ids), before)
        model.eval()
    assert torch.equal(logits_of(model, ids), before)
    assert not any(isinstance(module, DrawnRotary) for module in model.modules())


@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_pair_reaches_its_own_two_channels(architecture: str) -> None:
    model = model_of(architecture)
    layer_type = get_rope(model.config).layer_type
    ((_, _, rotary),) = rotary_modules(model, model.config)
    buffer = getattr(rotary, inv_freq_name(layer_type))
    before = buffer.clone()
    pairs = channel_pairs(rotary, layer_type)
    assert torch.equal(buffer, before)
    extra = {} if layer_type is None else {"layer_type": layer_type}
    cos, _ = rotary(torch.zeros(1, 1, 1), torch.tensor([[7]]), **extra)
    assert torch.equal(cos[0, 0], (7 * before).cos()[pairs])


def test_a_stretched_model_tells_its_layout_too() -> None:
    model = model_of("llama")
    with applied(model, plan_rope(model.config, "power", 4 * WINDOW)):
        ((_, _, rotary),) = rotary_modules(model, model.config)
        assert rotary.rope_type == "longrope"
        assert channel_pairs(rotary).tolist() == [*range(8), *range(8)]


def test_gradients_reach_the_frequencies_also_in_half_precision() -> None:
    model = model_of("llama").train()
    for autocast in (False, True):
        inv_freq = own_inv_freq(model).requires_grad_()
        with drawn_positions(model, Stretch(inv_freq)), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            ids = ids_of(WINDOW, batch=2)
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        assert inv_freq.grad is not None
        assert bool(torch.isfinite(inv_freq.grad).all())
        assert int((inv_freq.grad != 0).sum()) == 8


def test_draws_depend_on_seed_step_rank_and_pass_alone() -> None:
    model = model_of("llama").train()

    def draws(seed: int, places: list[tuple[int, int]]) -> list[float]:
        stretch = Stretch(own_inv_freq(model))
        with drawn_positions(model, stretch, seed=seed) as (rotary,):
            for step, rank in places:
                rotary.begin(step, rank)
                logits_of(model, ids_of(8))
                logits_of(model, ids_of(8))
        return stretch.drawn

    whole = draws(0, [(0, 0), (1, 0), (2, 0)])
    assert len(set(whole)) == 6
    assert draws(0, [(2, 0)]) == whole[4:]
    assert not set(draws(0, [(0, 1), (1, 1)])) & set(whole)
    assert not set(draws(1, [(0, 0), (1, 0)])) & set(whole)


def test_recomputing_layers_leaves_the_draw_alone() -> None:
    model = model_of("llama").train()
    model.activation_checkpointing_enable()
    stretch = Stretch(own_inv_freq(model))
    with drawn_positions(model, stretch):
        ids = ids_of(16)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    assert len(stretch.drawn) == 1


def test_unknown_rotary_modules_are_refused() -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("inv_freq", torch.ones(4))

        def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.ones(1, 1, 8), torch.zeros(1, 1, 8)

    with pytest.raises(LeverNotApplicable, match="lays out its angles"):
        channel_pairs(Learned())
    with pytest.raises(LeverNotApplicable, match="no rotary module"):
        own_inv_freq(GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=8)))
