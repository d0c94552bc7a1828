"""Presses of another library in a recipe, and levers as presses: kept tokens keep their positions.

The presses here are written to the protocol of kvpress 0.5: a dataclass that hooks attention modules and shortens the
cache where `cache_position` says that a prompt is being read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, StaticCache

from farspan.attention import SinkWindow, attention_report
from farspan.engine import Engine, Request
from farspan.errors import FarspanError, LeverNotApplicable, RecipeError
from farspan.memory import (
    EvictionLever,
    ExpectedAttention,
    KeyDiff,
    KeyNorm,
    KVPressAdapter,
    RandomEviction,
    SnapKV,
    StreamingLLM,
    Tova,
    to_press,
)
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


@dataclass
class ScorerPress:
    """What `kvpress.ScorerPress` does, and what it leaves behind on a model."""

    compression_ratio: float = 0.0

    def score(
        self,
        module: nn.Module,
        hidden_states: Tensor,
        keys: Tensor,
        values: Tensor,
        attentions: Tensor | None,
        kwargs: dict[str, object],
    ) -> Tensor:
        return -keys.norm(dim=-1)

    def forward_hook(self, module: nn.Module, args: object, kwargs: dict[str, Tensor], output: list[Tensor]) -> object:
        hidden, layer = kwargs["hidden_states"], kwargs["past_key_values"].layers[module.layer_idx]  # type: ignore[attr-defined]
        if int(kwargs["cache_position"][-1]) + 1 > hidden.shape[1]:
            return output
        scores = self.score(module, hidden, layer.keys, layer.values, output[1], kwargs)  # type: ignore[arg-type]
        best = scores.topk(int(layer.keys.shape[2] * (1 - self.compression_ratio)), dim=-1).indices[..., None]
        best = best.expand(-1, -1, -1, layer.keys.shape[-1])
        layer.keys, layer.values = layer.keys.gather(2, best), layer.values.gather(2, best)
        return output

    @contextmanager
    def __call__(self, model: PreTrainedModel) -> Iterator[None]:
        hooks = []
        try:
            for layer in model.model.layers:  # type: ignore[union-attr, attr-defined]
                layer.self_attn.rotary_emb = model.model.rotary_emb  # type: ignore[union-attr, attr-defined]
                hooks.append(layer.self_attn.register_forward_hook(self.forward_hook, with_kwargs=True))
            yield
        finally:
            for hook in hooks:
                hook.remove()


def prerope_queries(module: nn.Module, hidden: Tensor) -> Tensor:
    """As in `kvpress.utils`."""
    rows, length, _ = hidden.shape
    return module.q_proj(hidden).view(rows, length, -1, module.head_dim).transpose(1, 2)  # type: ignore[operator, no-any-return]


@pytest.fixture
def kvpress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of that name with the two things that `to_press` takes from it."""
    package, utils = ModuleType("kvpress"), ModuleType("kvpress.utils")
    vars(package)["ScorerPress"] = ScorerPress
    vars(utils)["get_prerope_query_states"] = prerope_queries
    monkeypatch.setitem(sys.modules, "kvpress", package)
    monkeypatch.setitem(sys.modules, "kvpress.utils", utils)


GREEDY = {
    "max_new_tokens": 6,
    "do_sample": False,
    "eos_token_id": None,
    "output_logits": True,
    "return_dict_in_generate": True,
}


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
@torch.no_grad()
def test_what_a_press_keeps_stays_at_its_position(family: str, implementation: str) -> None:
    model, ids = tiny_model(family), tokens(2, 120)
    with KeyNorm(ratio=0.5)(model):
        expected = model.generate(ids, **GREEDY)
    model.set_attn_implementation(implementation)
    attributes = [(set(vars(module)), set(module._modules)) for module in model.modules()]
    with Recipe([KVPressAdapter(ScorerPress(0.5))])(model):
        actual = model.generate(ids, **GREEDY)
    assert actual.past_key_values.layers[0].keys.shape[2] == 60 + 5
    assert actual.past_key_values.get_seq_length() == 125
    for step, reference in zip(actual.logits, expected.logits, strict=True):
        torch.testing.assert_close(step, reference, atol=1e-4, rtol=1e-4)
    assert [(set(vars(module)), set(module._modules)) for module in model.modules()] == attributes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@torch.no_grad()
def test_several_tokens_may_follow_a_pressed_prompt() -> None:
    model, ids, more = tiny_model("llama"), tokens(1, 80), tokens(1, 7, seed=1)

    def read() -> Tensor:
        cache = model(ids).past_key_values
        logits: Tensor = model(more, past_key_values=cache).logits
        return logits

    with KeyNorm(ratio=0.5, chunks="each")(model):
        cache = model(ids).past_key_values
        # the lever would drop again after these; what they read is the same
        expected = model(more, past_key_values=cache).logits
    with KVPressAdapter(ScorerPress(0.5))(model):
        torch.testing.assert_close(read(), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_an_adapted_press_goes_with_sparse_prefill() -> None:
    model, ids = tiny_model("llama"), tokens(1, 120)
    window = SinkWindow(sinks=16, window=32, block_size=16, min_length=0)
    press = KVPressAdapter(ScorerPress(0.5))
    found = []
    for parts in ([window, press], [press, window], [window, KeyNorm(ratio=0.5)]):
        with Recipe(parts)(model):
            found.append(model.generate(ids, **GREEDY))
            assert all(stats.sparse == 1 for stats in attention_report(model))
    assert found[0].past_key_values.layers[1].keys.shape[2] == 65
    for other in found[1:]:
        torch.testing.assert_close(other.logits, found[0].logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_what_a_press_cannot_serve_says_so() -> None:
    model = tiny_model("llama")
    ids = tokens(2, 40)
    mask = torch.ones_like(ids)
    mask[1, :9] = 0
    with KVPressAdapter(ScorerPress(0.5))(model):
        with pytest.raises(FarspanError, match="knows no padding"):
            model(ids, attention_mask=mask)
        with pytest.raises(LeverNotApplicable, match="StaticLayer"):
            model(ids, past_key_values=StaticCache(config=model.config, max_cache_len=64))
    sliding = tiny_model("mistral-sliding")
    with (
        pytest.raises(LeverNotApplicable, match="DynamicSlidingWindowLayer"),
        KVPressAdapter(ScorerPress(0.5))(sliding),
    ):
        sliding(ids)


@torch.no_grad()
def test_the_engine_generates_with_an_adapted_press() -> None:
    class Words:
        """Ids as text."""

        eos_token_id = None

        def decode(self, ids: list[int], **kwargs: object) -> str:
            return " ".join(map(str, ids))

    model = tiny_model("llama")
    prompts = [tokens(1, 60)[0].tolist(), tokens(1, 60, seed=1)[0].tolist()]
    uneven = [Request(ids, max_new_tokens=5) for ids in (prompts[0], prompts[1][:40])]
    with KVPressAdapter(ScorerPress(0.5))(model):
        with Engine(model, Words()) as engine:  # type: ignore[arg-type]
            results = engine.generate_batch([Request(ids, max_new_tokens=5) for ids in prompts])
        with Engine(model, Words()) as engine, pytest.raises(FarspanError, match="one at a time"):  # type: ignore[arg-type]
            engine.generate_batch(uneven)
        for ids, result in zip(prompts, results, strict=True):
            alone = model.generate(torch.tensor([ids]), max_new_tokens=5, do_sample=False, eos_token_id=None)
            assert result.ids == alone[0, 60:].tolist()


LEVERS: list[EvictionLever] = [
    KeyNorm(ratio=0.5),
    SnapKV(ratio=0.5, window=8),
    ExpectedAttention(ratio=0.5, window=16),
    Tova(ratio=0.5),
    KeyDiff(ratio=0.5),
    RandomEviction(ratio=0.5, seed=3),
]


@pytest.mark.usefixtures("kvpress")
@pytest.mark.parametrize("lever", LEVERS, ids=lambda lever: lever.name)
@torch.no_grad()
def test_a_lever_as_a_press_keeps_the_same(lever: EvictionLever) -> None:
    model, ids = tiny_model("llama"), tokens(1, 120)
    press = to_press(lever)
    assert isinstance(press, ScorerPress)
    assert press.compression_ratio == 0.5
    with lever(model):
        expected = model.generate(ids, **GREEDY)
    with KVPressAdapter(press)(model):
        actual = model.generate(ids, **GREEDY)
    torch.testing.assert_close(actual.logits, expected.logits, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("kvpress")
@torch.no_grad()
def test_scores_of_a_press_are_finite_and_keep_what_a_lever_forces() -> None:
    model, ids = tiny_model("llama"), tokens(1, 60)
    seen: list[Tensor] = []
    press = to_press(StreamingLLM(sinks=4, recent=20), compression_ratio=0.6)
    inner = press.score  # type: ignore[attr-defined]
    press.score = lambda *args: seen.append(inner(*args)) or seen[-1]  # type: ignore[attr-defined, func-returns-value]
    with KVPressAdapter(press)(model):
        model(ids)
    assert len(seen) == 2
    for scores in seen:
        assert scores.shape == (1, 2, 60)
        assert scores.isfinite().all()
        kept = scores.topk(24, dim=-1).indices.sort(-1).values
        assert kept[0, 0].tolist() == [*range(4), *range(40, 60)]


@pytest.mark.usefixtures("kvpress")
@pytest.mark.parametrize(
    ("lever", "ratio", "message"),
    [
        (StreamingLLM(), None, "give compression_ratio"),
        (SnapKV(capacity=64), None, "give compression_ratio"),
        (SnapKV(beta=2.0), None, "PyramidKVPress"),
        (KeyNorm(head_safeguard=0.2), 0.5, "AdaKVPress"),
        (KeyNorm(), 1.0, "below 1, given 1.0"),
    ],
)
def test_levers_that_make_no_press_are_named(lever: EvictionLever, ratio: float | None, message: str) -> None:
    with pytest.raises(FarspanError, match=message):
        to_press(lever, ratio)


def test_without_kvpress_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kvpress", None)
    with pytest.raises(FarspanError, match="pip install --no-deps kvpress"):
        to_press(KeyNorm())
