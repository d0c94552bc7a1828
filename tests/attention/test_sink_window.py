"""Sink and window."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import LlamaConfig

from farspan.attention import AttentionContext, SinkWindow
from farspan.errors import RecipeError
from farspan.recipe import Recipe, build_lever
from tests.attention.plans import random_inputs


def context(q_len: int, kv_len: int) -> AttentionContext:
    stage = "prefill" if q_len == kv_len else "decode" if q_len == 1 else "chunk"
    return AttentionContext(0, 0.25, kv_len - q_len, stage, nn.Module(), LlamaConfig())  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(
    q_len=st.integers(1, 90),
    past=st.integers(0, 90),
    sinks=st.integers(0, 40),
    window=st.integers(1, 60),
    block_size=st.sampled_from([16, 32]),
)
def test_every_query_reads_sinks_and_window(q_len: int, past: int, sinks: int, window: int, block_size: int) -> None:
    kv_len = q_len + past
    query, key, _ = random_inputs(2, 4, 2, q_len, kv_len, 8)
    selection = SinkWindow(sinks=sinks, window=window, block_size=block_size).select(query, key, context(q_len, kv_len))
    if kv_len <= sinks + window:
        assert selection is None
        return
    assert selection is not None
    read = selection.plan.to_token_mask()[0, 0]
    positions, rows = torch.arange(kv_len), torch.arange(q_len)[:, None] + past
    wanted = ((positions < sinks) | (positions > rows - window)) & (positions <= rows)
    assert read[wanted].all()
    # whole blocks: never more than one block beyond the window and the sinks
    far = (positions >= sinks + block_size) & (positions <= rows - window - 2 * block_size)
    assert not read[far].any()


def test_decode_reads_the_same_keys_as_prefill() -> None:
    query, key, _ = random_inputs(1, 4, 2, 200, 200, 8)
    lever = SinkWindow(sinks=16, window=48, block_size=16)
    whole, last = lever.select(query, key, context(200, 200)), lever.select(query[:, :, -1:], key, context(1, 200))
    assert whole is not None
    assert last is not None
    alone, within = last.plan.to_token_mask()[0, 0, 0], whole.plan.to_token_mask()[0, 0, -1]
    assert within[alone].all()
    assert int(alone.sum()) >= 16 + 48


@pytest.mark.parametrize(
    ("settings_given", "message"),
    [
        ({"block_size": 48}, "power of two"),
        ({"block_size": 8}, "power of two"),
        ({"window": 0}, "window"),
        ({"sinks": -1}, "sinks"),
        ({"backend": "magic"}, "backend"),
        ({"min_length": -1}, "min_length"),
    ],
)
def test_bad_settings_are_named(settings_given: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_lever("sink-window", settings_given)


def test_string_form() -> None:
    recipe = Recipe.parse("sink-window:sinks=16,window=256,dense_layers=[0, 3]")
    assert recipe.levers[0] == SinkWindow(sinks=16, window=256, dense_layers=(0, 3))
    assert Recipe.from_list(recipe.to_list()) == recipe
