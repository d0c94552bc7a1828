"""Warping positions between the mask and the rotary."""

from __future__ import annotations

import pytest
import torch

from farspan.positions import RotaryWithPositions, applied, mapped_positions, plan_rope
from farspan.positions.apply import rotary_modules
from tests.positions.conftest import WINDOW, ids_of, logits_of, model_of


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "stablelm"])
def test_dividing_positions_equals_dividing_frequencies(architecture: str) -> None:
    model, ids = model_of(architecture), ids_of(3 * WINDOW)
    before = logits_of(model, ids)
    with mapped_positions(model, lambda positions: positions / 4):
        mapped = logits_of(model, ids)
    assert torch.equal(logits_of(model, ids), before)
    layer_types = ("full_attention", "sliding_attention") if architecture == "gemma3" else (None,)
    for layer_type in layer_types:
        # The window counts once; the second layer type of a model is stretched on top of the first.
        plan = plan_rope(model_of(architecture).config, "linear", 4 * WINDOW, layer_type)
        ((_, _, rotary),) = rotary_modules(model, model.config)
        getattr(rotary, "inv_freq" if layer_type is None else f"{layer_type}_inv_freq").copy_(plan.inv_freq)
    torch.testing.assert_close(mapped, logits_of(model, ids), rtol=0, atol=1e-5)


def test_gaps_in_mapped_positions_do_not_cut_the_sequence() -> None:
    model, ids = model_of("llama"), ids_of(16)
    jump = torch.cat([torch.arange(8), torch.arange(1000, 1008)])[None]
    with torch.no_grad():
        read_as_packed = model(input_ids=ids, position_ids=jump, use_cache=False).logits
        with mapped_positions(model, lambda positions: torch.where(positions >= 8, positions + 992, positions)):
            mapped = logits_of(model, ids)
        with_a_mask = model(
            input_ids=ids, position_ids=jump, attention_mask=torch.ones(1, 1, 16, 16).tril().bool(), use_cache=False
        ).logits
    torch.testing.assert_close(mapped, with_a_mask, rtol=0, atol=1e-5)
    assert not torch.allclose(mapped, read_as_packed, atol=1e-3)


def test_layer_types_get_the_same_positions_and_each_pass_new_ones() -> None:
    drawn: list[torch.Tensor] = []

    def mapper(positions: torch.Tensor) -> torch.Tensor:
        drawn.append(positions)
        return positions + len(drawn)

    base = model_of("gemma3").model.rotary_emb
    rotary = RotaryWithPositions(base, mapper)
    x, ids = torch.zeros(2, 5, 1), torch.arange(5)[None]
    for number in (1, 2, 3):
        for layer_type in ("sliding_attention", "full_attention"):
            cos, _ = rotary(x, ids, layer_type)
            assert torch.equal(cos, base(x, (ids + number).expand(2, -1), layer_type)[0])
    assert len(drawn) == 3
    assert all(positions.dtype == torch.float32 and positions.shape == (2, 5) for positions in drawn)


def test_a_wrapped_rotary_can_still_be_stretched() -> None:
    model, ids = model_of("llama"), ids_of(3 * WINDOW)
    spec = plan_rope(model.config, "yarn", 4 * WINDOW)
    with applied(model, spec):
        wanted = logits_of(model, ids)
    with mapped_positions(model, lambda positions: positions), applied(model, spec):
        assert torch.equal(logits_of(model, ids), wanted)
