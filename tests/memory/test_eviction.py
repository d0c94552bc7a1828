"""Caches that dropped tokens: the others keep their positions, padding counts for nothing, models are left as found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, StaticCache

from farspan.attention import attention_report
from farspan.engine import Engine, Request
from farspan.engine.cache import cache_bytes
from farspan.errors import FarspanError, LeverConflict, LeverNotApplicable, RecipeError
from farspan.memory import (
    EvictionLever,
    ExpectedAttention,
    KeyDiff,
    KeyNorm,
    PrunedLayer,
    RandomEviction,
    SnapKV,
    StreamingLLM,
    Tova,
    eviction_report,
    kept_slots,
    prune,
)
from farspan.memory.eviction import attention_modules, capacity_of, joint_capacities
from farspan.memory.pruned_layer import EMPTY
from farspan.positions import DynamicNTK
from farspan.recipe import Recipe, build_lever
from tests.attention.conftest import tiny_model
from tests.attention.test_any_model import padded, tokens

NOTHING_DROPPED: dict[str, EvictionLever] = {
    "snapkv": SnapKV(ratio=0.0, window=8),
    "snapkv-capacity": SnapKV(capacity=10**6, window=8, interval=1),
    "streaming-llm": StreamingLLM(recent=10**6),
    "knorm": KeyNorm(ratio=0.0, interval=2),
    "tova": Tova(ratio=0.0, chunks="last"),
    "keydiff": KeyDiff(ratio=0.0, head_safeguard=0.2),
    "random-eviction": RandomEviction(ratio=0.0),
}
DROPPING: dict[str, EvictionLever] = {
    "snapkv": SnapKV(capacity=24, window=8),
    "snapkv-ratio": SnapKV(ratio=0.6, window=4, pooling="max", kernel_size=3),
    "snapkv-last": SnapKV(capacity=24, window=8, chunks="last"),
    "snapkv-pyramid": SnapKV(capacity=24, window=8, beta=2.0),
    "snapkv-heads": SnapKV(capacity=24, window=8, head_safeguard=0.2),
    "knorm": KeyNorm(ratio=0.5),
    "knorm-heads": KeyNorm(capacity=20, head_safeguard=0.0),
    "tova": Tova(capacity=20),
    "keydiff": KeyDiff(capacity=20),
    "expected-attention": ExpectedAttention(capacity=20, window=16),
    "random-eviction": RandomEviction(capacity=20, seed=3),
}
ALL = {
    **DROPPING,
    "streaming-llm": StreamingLLM(sinks=4, recent=20),
    "snapkv-interval": SnapKV(capacity=24, window=8, interval=3),
}
GREEDY = {"do_sample": False, "eos_token_id": None, "output_logits": True, "return_dict_in_generate": True}


@pytest.mark.parametrize("name", sorted(NOTHING_DROPPED))
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt-oss", "deepseek-v3"])
@torch.no_grad()
def test_dropping_nothing_changes_nothing(name: str, family: str) -> None:
    model = tiny_model(family)
    ids, mask = padded(70)
    arguments = {**GREEDY, "max_new_tokens": 4, "prefill_chunk_size": 30}
    expected = model.generate(ids, attention_mask=mask, **arguments)
    with NOTHING_DROPPED[name](model):
        actual = model.generate(ids, attention_mask=mask, **arguments)
        assert all(stats.dropped == 0 for stats in eviction_report(model))
    assert torch.equal(actual.sequences, expected.sequences)
    for step, reference in zip(actual.logits, expected.logits, strict=True):
        torch.testing.assert_close(step, reference, atol=1e-5, rtol=1e-5)


@contextmanager
def masked_layers(model: PreTrainedModel, masks: dict[int, Tensor]) -> Iterator[None]:
    """Every layer gets a mask [B, Hq, q, kv] of its own."""

    def replace(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        return args, {**kwargs, "attention_mask": masks[module.layer_idx]}  # type: ignore[index]

    handles = [module.register_forward_pre_hook(replace, with_kwargs=True) for module in attention_modules(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", sorted(DROPPING))
@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("new", [1, 5])
@torch.no_grad()
def test_later_tokens_are_as_if_dropped_keys_were_masked(name: str, family: str, new: int) -> None:
    model = tiny_model(family)
    ids, mask = padded(60)
    more = torch.cat([ids, tokens(3, 5, seed=1)], 1)
    whole = torch.cat([mask, mask.new_ones(3, 5)], 1)
    positions = (whole.cumsum(-1) - 1).clamp(min=0)
    with DROPPING[name](model):
        cache = DynamicCache(config=model.config)
        model(ids, attention_mask=mask, position_ids=positions[:, :60], past_key_values=cache)
        assert cache.get_seq_length() == 60
        waits = DROPPING[name].chunks == "last"
        slots = {index: layer.slots for index, layer in enumerate(cache.layers)}
        actual = []
        for start in range(60, 65, new):
            stop = start + new
            actual.append(
                model(
                    more[:, start:stop],
                    attention_mask=whole[:, :stop],
                    position_ids=positions[:, start:stop],
                    past_key_values=cache,
                ).logits
            )
            if start == 60 and waits:
                slots = {index: layer.slots for index, layer in enumerate(cache.layers)}
    causal = torch.ones(65, 65, dtype=torch.bool).tril() & whole.bool()[:, None]
    masks = {}
    for index, kept in slots.items():
        if kept is None:
            continue
        visible = torch.zeros(3, kept.shape[1], 66, dtype=torch.bool)
        visible.scatter_(-1, torch.where(kept == EMPTY, 65, kept), True)
        rows = causal[:, None].expand(-1, kept.shape[1], -1, -1).clone()
        rows[:, :, 60:, :60] &= visible[:, :, None, :60]
        masks[index] = rows.repeat_interleave(4 // kept.shape[1], dim=1)
    assert bool(masks) == (not waits or new == 1)
    for index in range(2):
        masks.setdefault(index, causal[:, None])
    with masked_layers(model, masks):
        expected = model(more, attention_mask=whole, position_ids=positions, use_cache=False).logits[:, 60:]
    torch.testing.assert_close(torch.cat(actual, 1), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(ALL))
@torch.no_grad()
def test_a_row_in_a_batch_is_the_row_alone(name: str) -> None:
    model = tiny_model("llama")
    ids, mask = padded(80)
    arguments = {**GREEDY, "max_new_tokens": 6}
    with ALL[name](model):
        together = model.generate(ids, attention_mask=mask, **arguments)
        for row in range(3):
            prompt = ids[row : row + 1, mask[row].bool()]
            alone = model.generate(prompt, attention_mask=torch.ones_like(prompt), **arguments)
            for step, reference in zip(alone.logits, together.logits, strict=True):
                torch.testing.assert_close(step[0], reference[row], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(ALL))
@torch.no_grad()
def test_less_is_stored_and_reported(name: str) -> None:
    model = tiny_model("llama")
    ids = tokens(2, 200)
    caches = [DynamicCache(config=model.config) for _ in range(2)]
    model(ids, past_key_values=caches[0])
    model(ids[:, :1], past_key_values=caches[0])
    with ALL[name](model):
        model(ids, past_key_values=caches[1])
        model(ids[:, :1], past_key_values=caches[1])
        report = eviction_report(model)
    assert cache_bytes(caches[1]) < 0.55 * cache_bytes(caches[0])
    assert [stats.layer for stats in report] == [0, 1]
    for stats, layer in zip(report, caches[1].layers, strict=True):
        assert (stats.seen, stats.stored) == (201, layer.keys.shape[2])
        assert stats.prunings >= 1
        assert stats.dropped > 0


@torch.no_grad()
def test_streaming_keeps_sinks_and_the_last_at_every_step() -> None:
    model = tiny_model("llama")
    cache = DynamicCache(config=model.config)
    with StreamingLLM(sinks=4, recent=12)(model):
        model(tokens(1, 50), past_key_values=cache)
        for step in range(5):
            seen: list[Tensor] = []
            with masked_queries(model, seen):
                model(tokens(1, 1, seed=step), past_key_values=cache)
            # with the new token the cache is full
            assert seen[0].shape[2] == 16
            slots = cache.layers[0].slots[0, 0].tolist()
            assert slots == [0, 1, 2, 3, *range(51 + step - 11, 51 + step)]
    assert cache.get_seq_length() == 55


@contextmanager
def masked_queries(model: PreTrainedModel, seen: list[Tensor]) -> Iterator[None]:
    """Notes the keys the first layer's attention is given."""
    layer = model.model.layers[0].self_attn
    original = layer.config._attn_implementation

    def note(module: nn.Module, args: object, kwargs: dict[str, object], output: object) -> None:
        cache = kwargs["past_key_values"].layers[0]  # type: ignore[attr-defined]
        seen.append(cache.keys)

    # registered before the lever's own hook runs, so the cache is as attention read it
    handle = layer.register_forward_hook(note, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        handle.remove()
        assert layer.config._attn_implementation == original


@torch.no_grad()
def test_an_interval_bounds_what_answers_add() -> None:
    model = tiny_model("llama")
    cache = DynamicCache(config=model.config)
    with SnapKV(capacity=24, window=8, interval=4)(model):
        model(tokens(1, 60), past_key_values=cache)
        stored = []
        for step in range(9):
            model(tokens(1, 1, seed=step), past_key_values=cache)
            stored.append(cache.layers[0].keys.shape[2])
    assert stored == [25, 26, 27, 24, 25, 26, 27, 24, 25]
    # the newest eight are always kept
    assert cache.layers[0].slots[0, 0, -9:].tolist() == list(range(60, 69))


@torch.no_grad()
def test_chunks_bound_memory_or_wait_for_the_question() -> None:
    model, ids = tiny_model("llama"), tokens(1, 200)
    for chunks, stored in (("each", 24), ("last", 200)):
        cache = DynamicCache(config=model.config)
        with SnapKV(capacity=24, window=8, chunks=chunks)(model):  # type: ignore[arg-type]
            for start in range(0, 200, 50):
                model(ids[:, start : start + 50], past_key_values=cache)
            assert cache.layers[0].keys.shape[2] == stored
            model(ids[:, :1], past_key_values=cache)
        assert cache.layers[0].keys.shape[2] == 25


@torch.no_grad()
def test_early_layers_keep_more_in_a_pyramid() -> None:
    lever = SnapKV(capacity=40, window=8, beta=4.0)
    tokens_read = torch.tensor([[100]])
    budgets = [int(lever.limit(tokens_read, layer, 4)) for layer in range(4)]
    assert budgets == [70, 50, 30, 10]
    assert sum(budgets) == 4 * 40


@torch.no_grad()
def test_heads_compete_for_one_budget() -> None:
    model = tiny_model("llama")
    cache = DynamicCache(config=model.config)
    with KeyNorm(capacity=20, head_safeguard=0.25)(model):
        model(tokens(1, 100), past_key_values=cache)
    counts = (cache.layers[0].slots != EMPTY).sum(-1)[0]
    assert int(counts.sum()) == 40
    assert int(counts.min()) >= 5
    assert counts[0] != counts[1]


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 12), capacity=st.integers(1, 14), seed=st.integers(0, 99), share=st.floats(0, 1))
def test_kept_slots_are_the_best_in_their_order(length: int, capacity: int, seed: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(2, 3, length, generator=generator).round(decimals=1)
    limits = torch.tensor([[capacity], [max(1, capacity // 2)]])
    kept = kept_slots(scores, limits)
    for row in range(2):
        for head in range(3):
            found = [slot for slot in kept[row, head].tolist() if slot != EMPTY]
            ranked = sorted(range(length), key=lambda slot: (-float(scores[row, head, slot]), slot))
            assert found == sorted(ranked[: int(limits[row])])
    counts = joint_capacities(scores, limits, share)
    assert torch.equal(counts.sum(-1), (3 * limits[:, 0]).clamp(max=3 * length))
    assert (counts >= (limits * share).long().clamp(max=length)).all()


def test_capacity_by_share() -> None:
    assert [capacity_of(24, ratio=ratio) for ratio in (0.0, 0.5, 0.6)] == [24, 12, 9]


@torch.no_grad()
def test_a_model_is_left_as_found() -> None:
    model = tiny_model("llama")
    before = {name: sorted(vars(module)) for name, module in model.named_modules()}
    for lever in ALL.values():
        with lever(model):
            model.generate(tokens(1, 50), max_new_tokens=2, do_sample=False)
    assert model.config._attn_implementation == "sdpa"
    assert {name: sorted(vars(module)) for name, module in model.named_modules()} == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with pytest.raises(FarspanError, match="no lever that drops tokens is on"):
        eviction_report(model)


@pytest.mark.parametrize("order", [("{a}", "{c}"), ("{c}", "{a}")])
@torch.no_grad()
def test_sparse_prefill_and_eviction_go_together(order: tuple[str, str]) -> None:
    model, ids = tiny_model("llama"), tokens(1, 200)
    sparse = "sink-window:sinks=16,window=32,block_size=16,min_length=0"
    text = ",".join(order).format(a=sparse, c="snapkv:capacity=24,window=8")
    cache = DynamicCache(config=model.config)
    with Recipe.parse(text)(model):
        first = model(ids, past_key_values=cache).logits
        model(ids[:, :1], past_key_values=cache)
        assert all((stats.sparse, stats.decode) == (1, 1) for stats in attention_report(model))
        assert all(stats.stored == 25 for stats in eviction_report(model))
    with Recipe.parse(sparse)(model):
        torch.testing.assert_close(first, model(ids).logits)
    assert model.config._attn_implementation == "sdpa"


def test_what_cannot_go_together_says_so() -> None:
    model = tiny_model("llama")
    with pytest.raises(LeverConflict, match="'snapkv' and 'knorm' both change cache"):
        Recipe.parse("snapkv,knorm")
    with (
        pytest.raises(LeverConflict, match="frequencies following the length"),
        Recipe([DynamicNTK(factor=4), SnapKV()])(model),
    ):
        pass
    assert model.config._attn_implementation == "sdpa"
    static = StaticCache(config=model.config, max_cache_len=64)
    with SnapKV()(model), pytest.raises(LeverNotApplicable, match="StaticLayer keeps a place for every token"):
        model(tokens(1, 20), past_key_values=static)


@torch.no_grad()
def test_a_filled_cache_is_pruned_once() -> None:
    model, (ids, mask) = tiny_model("llama"), padded(60)
    cache = DynamicCache(config=model.config)
    model(ids, attention_mask=mask, past_key_values=cache)
    keys = cache.layers[0].keys.clone()
    prune(cache, KeyNorm(capacity=10), mask=mask)
    layer = cache.layers[0]
    assert isinstance(layer, PrunedLayer)
    assert (layer.stored, cache.get_seq_length()) == (10, 60)
    assert (layer.slots[2] >= 33).all()
    torch.testing.assert_close(layer.keys[1, 0], keys[1, 0, layer.slots[1, 0]])
    with pytest.raises(FarspanError, match="asks the last queries"):
        prune(cache, SnapKV())


@torch.no_grad()
def test_the_engine_generates_with_a_pruned_cache() -> None:
    class Words:
        """Ids as text."""

        eos_token_id = None

        def decode(self, ids: list[int], **kwargs: object) -> str:
            return " ".join(map(str, ids))

    model = tiny_model("llama")
    prompts = [tokens(1, 60)[0].tolist(), tokens(1, 60, seed=1)[0].tolist()]
    requests = [Request(ids, max_new_tokens=5) for ids in prompts]
    with Engine(model, Words()) as engine:  # type: ignore[arg-type]
        before = engine.generate_batch(requests)
        with SnapKV(capacity=24, window=8)(model):
            results = engine.generate_batch(requests)
        assert [result.ids for result in engine.generate_batch(requests)] == [result.ids for result in before]
    with SnapKV(capacity=24, window=8)(model):
        for ids, result in zip(prompts, results, strict=True):
            alone = model.generate(torch.tensor([ids]), max_new_tokens=5, do_sample=False, eos_token_id=None)
            assert result.ids == alone[0, 60:].tolist()


@pytest.mark.parametrize(
    ("name", "given_settings", "message"),
    [
        ("snapkv", {"capacity": 32}, "capacity 32 must exceed window 32"),
        ("snapkv", {"kernel_size": 4}, "must be odd"),
        ("snapkv", {"ratio": 1.0}, "ratio"),
        ("knorm", {"ratio": -0.1}, "ratio"),
        ("knorm", {"capacity": 0}, "capacity"),
        ("keydiff", {"head_safeguard": 2}, "head_safeguard"),
        ("tova", {"chunks": "some"}, "chunks"),
        ("streaming-llm", {"recent": 1}, "recent"),
    ],
)
def test_bad_settings_are_named(name: str, given_settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_lever(name, given_settings)


@torch.no_grad()
def test_rows_of_a_pruned_layer_can_be_chosen_repeated_and_cut() -> None:
    layer = PrunedLayer()
    keys = torch.arange(2 * 1 * 6.0).view(2, 1, 6, 1)
    layer.update(keys, keys)
    layer.keep(torch.tensor([[[0, 2, 5]], [[EMPTY, 1, 3]]]))
    layer.update(keys[:, :, :2], keys[:, :, :2])
    assert layer.get_seq_length() == 8
    assert layer.get_mask_sizes(1) == (9, 0)
    assert layer.slots.tolist() == [[[0, 2, 5, 6, 7]], [[EMPTY, 1, 3, 6, 7]]]
    layer.crop(-3)
    assert layer.get_seq_length() == 5
    assert layer.slots.tolist() == [[[0, 2]], [[1, 3]]]
    assert layer.keys.flatten().tolist() == [0.0, 2.0, 7.0, 9.0]
    layer.reorder_cache(torch.tensor([1, 1, 0]))  # type: ignore[arg-type]
    assert layer.slots[:, 0].tolist() == [[1, 3], [1, 3], [0, 2]]
    layer.batch_repeat_interleave(2)
    layer.batch_select_indices(torch.tensor([0, 5]))
    assert layer.keys[:, 0, :, 0].tolist() == [[7.0, 9.0], [0.0, 2.0]]
    layer.reset()
    assert (layer.get_seq_length(), layer.slots) == (0, None)
