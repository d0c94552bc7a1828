"""Every executor computes the same attention."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.attention import BackendRefused, BlockPlan, FlexFailed, PlanError, block_sparse_attention
from farspan.attention.executors import EXECUTORS, execute, flex
from farspan.attention.executors.choice import Chooser
from farspan.attention.executors.dense import explicit_attention
from tests.attention.plans import dense_attention, full_plan, random_inputs, random_keep
from tests.golden.adapters.block_sparse_executor import plan_of

FAST = ("gather", "masked")
HAS_COMPILER = any(shutil.which(name) for name in ("cc", "gcc", "clang"))
GOLDEN = Path(__file__).parents[1] / "golden" / "block-sparse-executor.json"


@settings(max_examples=40, deadline=None)
@given(
    q_len=st.integers(1, 70),
    past=st.integers(0, 40),
    blocks=st.sampled_from([(16, 16), (8, 32), (32, 8), (64, 16)]),
    heads=st.sampled_from([(4, 4, 4), (4, 2, 2), (4, 2, 4), (8, 1, 1), (8, 2, 1), (6, 3, 6)]),
    padded=st.booleans(),
    order=st.sampled_from(["own", "shared", "per head"]),
    columns=st.booleans(),
    seed=st.integers(0, 999),
)
def test_executors_agree_with_the_reference(
    q_len: int,
    past: int,
    blocks: tuple[int, int],
    heads: tuple[int, int, int],
    padded: bool,
    order: str,
    columns: bool,
    seed: int,
) -> None:
    query_heads, kv_heads, selections = heads
    kv_len = q_len + past
    generator = torch.Generator().manual_seed(seed)
    orders = {"own": 0, "shared": 1, "per head": kv_heads}[order]
    kv_pos = torch.rand(2, orders, kv_len, generator=generator).argsort(-1) if orders else None
    plan = BlockPlan.from_block_mask(
        random_keep(2, selections, q_len, kv_len, *blocks, seed=seed),
        q_len=q_len,
        kv_len=kv_len,
        block_q=blocks[0],
        block_k=blocks[1],
        kv_start=torch.tensor([0, min(5, kv_len - 1)]) if padded else None,
        kv_len_per_row=torch.tensor([kv_len, max(1, kv_len - 3)]) if padded else None,
        kv_pos=kv_pos,
        columns=torch.randint(-1, kv_len, (2, 1, 5), generator=generator) if columns else None,
        allow_empty=True,
    )
    inputs = random_inputs(2, query_heads, kv_heads, q_len, kv_len, 16, seed=seed)
    expected, norm = block_sparse_attention(*inputs, plan, backend="reference", return_lse=True)
    compiled = ("native",) if HAS_COMPILER and blocks[1] % 16 == 0 else ()
    for backend in (*FAST, *compiled):
        output, lse = block_sparse_attention(*inputs, plan, backend=backend, return_lse=True)  # type: ignore[arg-type]
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(lse, norm, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dim", [64, 80, 128])
@pytest.mark.parametrize("kv_heads", [1, 2, 4, 8])
@pytest.mark.parametrize(("q_len", "kv_len"), [(70, 70), (33, 70), (1, 70), (64, 128)])
def test_everything_kept_is_dense(dim: int, kv_heads: int, q_len: int, kv_len: int) -> None:
    query, key, value = random_inputs(3, 8, kv_heads, q_len, kv_len, dim)
    padding = torch.tensor([0, 4, 30])
    plan = full_plan(query, key, kv_start=padding)
    allowed = torch.arange(kv_len) >= padding[:, None, None, None]
    expected = dense_attention(query, key, value, allowed)
    some = allowed & (torch.arange(kv_len) <= torch.arange(q_len)[:, None] + kv_len - q_len)
    expected = expected.masked_fill(~some.any(-1, keepdim=True), 0.0)
    for backend in ("reference", *FAST):
        output = block_sparse_attention(query, key, value, plan, backend=backend)  # type: ignore[arg-type]
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("q_len", "kv_len"), [(70, 70), (33, 70)])
def test_dense_takes_complete_plans_only(q_len: int, kv_len: int) -> None:
    query, key, value = random_inputs(2, 4, 2, q_len, kv_len, 16)
    output = block_sparse_attention(query, key, value, full_plan(query, key), backend="dense")
    torch.testing.assert_close(output, dense_attention(query, key, value), atol=1e-5, rtol=1e-5)
    sparse = full_plan(query, key, 1).block_mask()
    sparse[0, 0, -1, 0] = False
    plan = BlockPlan.from_block_mask(sparse, q_len=q_len, kv_len=kv_len, block_q=1, block_k=1)
    with pytest.raises(BackendRefused, match="dense reads everything"):
        block_sparse_attention(query, key, value, plan, backend="dense")


@pytest.mark.parametrize("backend", ["gather", "masked"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(backend: str, dtype: torch.dtype) -> None:
    inputs = random_inputs(2, 4, 2, 50, 70, 32)
    keep = random_keep(2, 2, 50, 70, 16, 16, share=0.5)
    plan = BlockPlan.from_block_mask(keep, q_len=50, kv_len=70, block_q=16, block_k=16, allow_empty=True)
    expected, norm = block_sparse_attention(*inputs, plan, backend="reference", return_lse=True)
    rounded = (x.to(dtype) for x in inputs)
    output, lse = block_sparse_attention(*rounded, plan, backend=backend, return_lse=True)  # type: ignore[call-overload]
    assert output.dtype == dtype
    assert lse.dtype == torch.float32
    torch.testing.assert_close(output.float(), expected, atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(lse, norm, atol=2e-2, rtol=2e-2)


def test_values_may_be_narrower_than_keys() -> None:
    query, key, value = random_inputs(1, 4, 2, 40, 40, 32)
    for dtype in (torch.float32, torch.bfloat16):
        narrow = value[..., :16].to(dtype)
        output = block_sparse_attention(query.to(dtype), key.to(dtype), narrow, full_plan(query, key))
        expected = dense_attention(query, key, value)[..., :16]
        torch.testing.assert_close(output.float(), expected, atol=2e-2, rtol=2e-2)


def test_reordered_keys_give_the_same() -> None:
    query, key, value = random_inputs(1, 4, 2, 64, 64, 16)
    order = torch.rand(1, 2, 64, generator=torch.Generator().manual_seed(1)).argsort(-1)
    at = order[..., None].expand(-1, -1, -1, 16)
    plan = full_plan(query, key, kv_pos=order)
    output = block_sparse_attention(query, key.gather(2, at), value.gather(2, at), plan)
    torch.testing.assert_close(output, dense_attention(query, key, value), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "selections"), [(4, 2, 2), (4, 2, 4)])
def test_gradients_are_exact(heads: int, kv_heads: int, selections: int, columns: bool) -> None:
    inputs = [x.requires_grad_() for x in random_inputs(2, heads, kv_heads, 6, 8, 2, dtype=torch.float64)]
    plan = BlockPlan.from_block_mask(
        random_keep(2, selections, 6, 8, 4, 2, share=0.5),
        q_len=6,
        kv_len=8,
        block_q=4,
        block_k=2,
        columns=torch.tensor([[[1, 4]], [[0, -1]]]) if columns else None,
        allow_empty=True,
    )

    def attend(*parts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output, lse = block_sparse_attention(*parts, plan, backend="masked", return_lse=True)  # type: ignore[call-overload]
        return output, lse.masked_fill(lse.isinf(), 0.0)

    assert torch.autograd.gradcheck(attend, inputs)


def test_gather_is_refused_where_gradients_are_wanted() -> None:
    query, key, value = random_inputs(1, 2, 2, 16, 16, 8)
    query.requires_grad_()
    plan = full_plan(query, key)
    with pytest.raises(BackendRefused, match="masked"):
        block_sparse_attention(query, key, value, plan, backend="gather")
    assert execute(query, key, value, plan, None, "auto", False, Chooser())[2] == "masked"
    with torch.no_grad():
        block_sparse_attention(query, key, value, plan, backend="gather")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"q_len": 15}, "the plan is for 1 rows of 16 queries"),
        ({"kv_len": 15}, "the plan is for 1 rows of 16 keys"),
        ({"heads": 3}, "do not divide"),
        ({"heads": 4, "kv_heads": 2, "selections": 3}, "3 selections fit neither"),
    ],
)
def test_plans_must_fit_their_tensors(shapes: dict[str, int], message: str) -> None:
    sizes = {"heads": 2, "kv_heads": 2, "q_len": 16, "kv_len": 16, "selections": 1} | shapes
    plan = BlockPlan.from_block_mask(
        torch.ones(1, sizes["selections"], 1, 1).bool(), q_len=16, kv_len=16, block_q=16, block_k=16
    )
    inputs = random_inputs(1, sizes["heads"], sizes["kv_heads"], sizes["q_len"], sizes["kv_len"], 8)
    with pytest.raises(PlanError, match=message):
        block_sparse_attention(*inputs, plan)


def test_unknown_backends_are_named() -> None:
    query, key, value = random_inputs(1, 2, 2, 16, 16, 8)
    with pytest.raises(BackendRefused, match="unknown backend 'magic'; known: auto, dense"):
        block_sparse_attention(query, key, value, full_plan(query, key), backend="magic")  # type: ignore[call-overload]


def test_explicit_attention_knows_caps_sinks_and_weights() -> None:
    query, key, value = random_inputs(1, 4, 2, 20, 20, 8)
    mask = torch.ones(20, 20).bool().tril()
    sinks = torch.tensor([0.0, 1.0, -2.0, 3.0])
    output, weights = explicit_attention(
        query, key, value, mask, scaling=0.5, softcap=2.0, sinks=sinks, return_weights=True
    )
    scores = 2.0 * torch.tanh(query @ key.repeat_interleave(2, 1).transpose(-1, -2) * 0.5 / 2.0)
    scores = scores.masked_fill(~mask, -torch.inf)
    whole = scores.exp().sum(-1, keepdim=True) + sinks.exp()[None, :, None, None]
    assert weights is not None
    torch.testing.assert_close(weights, scores.exp() / whole)
    torch.testing.assert_close(output, weights @ value.repeat_interleave(2, 1))


needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="no C++ compiler"
)


@needs_compiler
@pytest.mark.slow
@torch.no_grad()
def test_flex_matches_the_golden_values() -> None:
    for case in json.loads(GOLDEN.read_text())["cases"]:
        given_values, expected = case["input"], torch.tensor(case["expected"]["output"])
        query, key, value = (torch.tensor(given_values[part]) for part in ("q", "k", "v"))
        plan = plan_of(given_values, query.shape[2], key.shape[2])
        if query.shape[2] == 1:
            with pytest.raises(BackendRefused, match="more than one query"):
                block_sparse_attention(query, key, value, plan, scaling=given_values["scaling"], backend="flex")
            continue
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
            inputs = (x.to(dtype) for x in (query, key, value))
            output = block_sparse_attention(*inputs, plan, scaling=given_values["scaling"], backend="flex")  # type: ignore[call-overload]
            torch.testing.assert_close(output.float(), expected, atol=tolerance, rtol=0.0)


@needs_compiler
@pytest.mark.slow
@torch.no_grad()
def test_flex_serves_all_lengths_and_recovers_from_failure() -> None:
    for length, kv_heads, seed in ((300, 2, 0), (700, 2, 1), (513, 4, 2)):
        inputs = random_inputs(1, 4, kv_heads, length, length + 40, 64, seed=seed)
        keep = random_keep(1, 4, length, length + 40, 64, 64, share=0.5, seed=seed)
        order = torch.rand(1, kv_heads, length + 40).argsort(-1)
        plan = BlockPlan.from_block_mask(
            keep, q_len=length, kv_len=length + 40, block_q=64, block_k=64, kv_pos=order, allow_empty=True
        )
        expected = block_sparse_attention(*inputs, plan, backend="gather")
        if seed == 1:
            # torch raises inside the compiled call; the next one must not silently run uncompiled
            with pytest.raises(FlexFailed):
                flex.attend(*inputs, plan, 0.125, True)
        torch.testing.assert_close(
            block_sparse_attention(*inputs, plan, backend="flex"), expected, atol=1e-5, rtol=1e-5
        )


def test_auto_takes_another_executor_where_flex_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise FlexFailed("no compiler")

    query, key, value = random_inputs(1, 2, 2, 32, 32, 8)
    plan = full_plan(query, key)
    monkeypatch.setitem(EXECUTORS, "flex", type(EXECUTORS["flex"])(broken, flex.refusal))  # type: ignore[arg-type]
    chooser = Chooser(ready={str(torch.float32)})
    output, _, backend = execute(query, key, value, plan, None, "auto", False, chooser)
    assert backend == "gather"
    torch.testing.assert_close(output, dense_attention(query, key, value), atol=1e-5, rtol=1e-5)
    assert chooser.take_failures() == {"no compiler": 1}
    # what failed once is not tried again
    assert execute(query, key, value, plan, None, "auto", False, chooser)[2] == "gather"
    assert not chooser.take_failures()
    with pytest.raises(FlexFailed):
        block_sparse_attention(query, key, value, plan, backend="flex")
