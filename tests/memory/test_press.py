"""A press of another library in a recipe: a factory of context managers that hooks attention and shortens the cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from farspan.attention import SinkWindow, attention_report
from farspan.errors import LeverNotApplicable, RecipeError
from farspan.recipe import Recipe
from tests.attention.conftest import tiny_model
from tests.attention.test_any_model import tokens


@dataclass
class NormPress:
    """Written to the protocol of kvpress: a dataclass that is called with a model, and hooks its attention modules."""

    compression_ratio: float = 0.0

    def compress(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        kept = int(keys.shape[2] * (1 - self.compression_ratio))
        index = (-keys.norm(dim=-1)).topk(kept, dim=-1).indices.sort(-1).values[..., None]
        return tuple(states.gather(2, index.expand(-1, -1, -1, states.shape[-1])) for states in (keys, values))  # type: ignore[return-value]

    def forward_hook(self, module: nn.Module, args: object, kwargs: dict[str, object], output: object) -> object:
        layer = kwargs["past_key_values"].layers[module.layer_idx]  # type: ignore[attr-defined, index]
        if kwargs["hidden_states"].shape[1] == layer.keys.shape[2]:  # type: ignore[attr-defined]
            layer.keys, layer.values = self.compress(layer.keys, layer.values)
        return output

    @contextmanager
    def __call__(self, model: PreTrainedModel) -> Iterator[None]:
        hooks = [
            layer.self_attn.register_forward_hook(self.forward_hook, with_kwargs=True)
            for layer in model.model.layers  # type: ignore[union-attr, attr-defined]
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


@torch.no_grad()
def test_a_press_works_in_a_recipe_alone_and_beside_sparse_prefill() -> None:
    model, ids = tiny_model("llama"), tokens(1, 120)
    arguments = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "return_dict_in_generate": True}
    press = NormPress(compression_ratio=0.5)
    with press(model):
        expected = model.generate(ids, **arguments)
    assert expected.past_key_values.layers[0].keys.shape[2] == 64
    with Recipe([press])(model):
        actual = model.generate(ids, **arguments)
    assert torch.equal(actual.sequences, expected.sequences)
    window = SinkWindow(sinks=16, window=32, block_size=16, min_length=0)
    for parts in ([window, press], [press, window]):
        with Recipe(parts)(model):
            both = model.generate(ids, **arguments)
            assert all((stats.sparse, stats.decode) == (1, 4) for stats in attention_report(model))
        assert both.past_key_values.layers[1].keys.shape[2] == 64
    assert not any(module._forward_hooks for module in model.modules())


def test_a_press_is_neither_written_nor_baked() -> None:
    recipe = Recipe([NormPress()])
    with pytest.raises(RecipeError, match="cannot be written"):
        recipe.to_list()
    with pytest.raises(LeverNotApplicable, match="cannot be baked"):
        recipe.bake(tiny_model("llama"))
