"""The store of contexts keeps its limit and finds what prompts share; a model's state is told apart."""

from __future__ import annotations

import random

import torch
from hypothesis import given
from hypothesis import strategies as st

from farspan.engine.cache import SlotCache
from farspan.engine.prefix import PrefixStore, block_keys, model_state, prefix_key
from tests.engine.conftest import CONFIGS, make_model


def cache() -> SlotCache:
    return SlotCache(CONFIGS["llama"](), 1, 1)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 60)), max_size=30), st.integers(1, 100))
def test_the_store_never_exceeds_its_limit_and_drops_the_oldest(puts: list[tuple[int, int]], limit: int) -> None:
    store = PrefixStore(limit)
    order: list[tuple[int, int]] = []
    kept = cache()
    for name, length in puts:
        store.put(bytes([name]), kept, length)
        if length <= limit:
            order = [entry for entry in order if entry[0] != name] + [(name, length)]
        while sum(size for _, size in order) > limit:
            order.pop(0)
        assert store.tokens == sum(size for _, size in order) <= limit
    for name, _ in order:
        assert store.get(bytes([name])) is kept


def test_using_a_context_keeps_it() -> None:
    store = PrefixStore(20)
    store.put(b"a", cache(), 10)
    store.put(b"b", cache(), 10)
    store.get(b"a")
    store.put(b"c", cache(), 10)
    assert store.get(b"a") is not None
    assert store.get(b"b") is None


def test_names_depend_on_the_ids_before_the_end_only() -> None:
    ids = list(range(2000))
    assert [length for length, _ in block_keys(ids)] == [1024, 1280, 1536, 1792]
    assert dict(block_keys(ids))[1280] == prefix_key(ids, 1280) == dict(block_keys([*ids[:1400], 7]))[1280]
    assert prefix_key([*ids[:3], 9], 4) != prefix_key(ids, 4)
    assert block_keys(ids[:1024]) == []
    assert [length for length, _ in block_keys(ids[:1025])] == [1024]


def test_shared_beginnings_are_found_within_and_between_calls() -> None:
    rng = random.Random(0)
    document, other = ([rng.randrange(256) for _ in range(1500)] for _ in range(2))
    store = PrefixStore(10_000, extend=True)
    assert store.shared_lengths([[*document, 1], [*document, 2], [*other, 3], [1, 2, 3]]) == [1280, 1280, 0, 0]
    assert store.shared_lengths([[*other, 4]]) == [1280]
    kept = cache()
    store.put(prefix_key(document, 1280), kept, 1280)
    assert store.longest_kept([*document, 5, 6], 1501) == (1280, kept)
    assert store.longest_kept([*document, 5, 6], 1280) is None
    assert store.longest_kept(other, 1500) is None


def test_every_change_a_lever_can_make_is_a_new_state() -> None:
    model = make_model(CONFIGS["llama"]())
    states = [model_state(model)]
    assert model_state(model) == states[0]
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.0)
    states.append(model_state(model))
    model.model.rotary_emb.register_buffer("inv_freq", model.model.rotary_emb.inv_freq.clone(), persistent=False)
    states.append(model_state(model))
    model.config.max_position_embeddings *= 2
    states.append(model_state(model))
    model.model.layers[1].self_attn.register_forward_hook(lambda *_: None)
    states.append(model_state(model))
    model.set_attn_implementation("eager")
    states.append(model_state(model))
    assert len(set(states)) == len(states)
