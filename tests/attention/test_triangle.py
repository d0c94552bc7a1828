"""A-shape, Tri-shape and TriangleMix."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.attention import AShape, TriShape, attention_report
from farspan.attention.triangle import shape_cells
from farspan.errors import RecipeError
from farspan.recipe import build_lever
from tests.attention.conftest import tiny_model
from tests.attention.plans import random_inputs
from tests.attention.test_any_model import tokens
from tests.attention.test_sink_window import context


@settings(max_examples=40, deadline=None)
@given(
    q_len=st.integers(2, 90),
    past=st.integers(0, 90),
    n_init=st.integers(0, 40),
    n_local=st.integers(1, 60),
    n_last=st.integers(0, 30),
)
def test_the_shape_is_read_and_little_else(q_len: int, past: int, n_init: int, n_local: int, n_last: int) -> None:
    kv_len = q_len + past
    query, key, _ = random_inputs(1, 2, 1, q_len, kv_len, 8)
    lever = TriShape(block_size=16, n_init=n_init, n_local=n_local, n_last=n_last)
    selection = lever.select(query, key, context(q_len, kv_len))
    if kv_len <= n_init + n_local:
        assert selection is None
        return
    assert selection is not None
    read = selection.plan.to_token_mask()[0, 0]
    wanted = shape_cells(q_len, kv_len, n_init, n_local, n_last)
    assert read[wanted].all()
    # rounded up to whole blocks, nothing further away than one block is read
    wider = shape_cells(q_len, kv_len, n_init + 15 if n_init else 0, n_local + 30, n_last + 15 if n_last else 0)
    assert not read[~wider].any()


def test_a_tri_shape_without_last_queries_is_an_a_shape() -> None:
    query, key, _ = random_inputs(1, 2, 1, 200, 200, 8)
    shape = {"block_size": 16, "n_init": 16, "n_local": 32}
    plain = AShape(**shape).select(query, key, context(200, 200))
    tri = TriShape(**shape, n_last=0).select(query, key, context(200, 200))
    assert plain is not None
    assert tri is not None
    assert torch.equal(plain.plan.block_mask(), tri.plan.block_mask())


@torch.no_grad()
def test_first_layers_may_stay_dense() -> None:
    model = tiny_model("llama")
    with TriShape(block_size=16, n_init=16, n_local=32, n_last=16, dense_first=1, min_length=0)(model):
        model(tokens(1, 200))
        report = attention_report(model)
    assert [stats.sparse for stats in report] == [0, 1]
    assert report[0].fallbacks == {"method reads everything": 1}


@pytest.mark.parametrize(
    ("name", "given_settings"),
    [("a-shape", {"n_local": 0}), ("a-shape", {"n_init": -1}), ("tri-shape", {"n_last": -1})],
)
def test_bad_settings_are_named(name: str, given_settings: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=next(iter(given_settings))):
        build_lever(name, given_settings)
