"""What every selector must hold: nothing lost when it keeps everything, no look ahead, the own key always read."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from farspan.attention import (
    AShape,
    AttentionFallback,
    AttentionLever,
    BackendRefused,
    FlexPrefill,
    MeanPool,
    MInference,
    PermutedBlockSparse,
    Selection,
    SpargeAttn,
    TriShape,
    XAttention,
    attention_report,
    block_sparse_attention,
    coverage,
)
from farspan.attention.selection import stored
from tests.attention.conftest import tiny_model
from tests.attention.plans import dense_attention, random_inputs
from tests.attention.test_any_model import padded, tokens
from tests.attention.test_sink_window import context

MIXED = tuple(
    {
        "0": ("stream_llm", 16, 32, 1.0),
        "1": ("block_sparse", 0, 0, 1.0),
        "2": ("vertical_and_slash", 30, 60, 1.0),
        "3": ("vertical_and_slash", 40, 50, 1.0),
    }
    for _ in range(2)
)
PBS = {"block_size": 16, "segment_size": 48}
EVERYTHING: dict[str, AttentionLever] = {
    "minference": MInference(block_size=16, vertical_size=10**6),
    "minference-slashes": MInference(block_size=16, slash_size=10**6),
    "minference-adaptive": MInference(block_size=16, adaptive_budget=1.0),
    "minference-blocks": MInference(
        block_size=16, head_config=tuple({str(head): ("block_sparse", 0, 0, 1.0) for head in range(4)} for _ in "ab")
    ),
    "flexprefill": FlexPrefill(block_size=16, gamma=1.0, min_budget=16),
    "flexprefill-aware": FlexPrefill(block_size=16, gamma=1.0, tau=9.0, min_budget=16),
    "xattention": XAttention(block_size=16, stride=4, threshold=1.0),
    "xattention-heads": XAttention(block_size=16, stride=8, threshold=(1.0, 1.0, 1.0, 1.0)),
    "spargeattn-cdf": SpargeAttn(block_size=32, key_block_size=16, similarity=-1.0, cdf=1.0),
    "spargeattn-topk": SpargeAttn(block_size=16, key_block_size=32, similarity=-1.0, topk=1.0),
    "spargeattn-similarity": SpargeAttn(block_size=16, key_block_size=16, similarity=1.1, cdf=0.1),
    "a-shape": AShape(block_size=16, n_init=0, n_local=150),
    "tri-shape": TriShape(block_size=16, n_init=0, n_local=1, n_last=10**6),
    "mean-pool": MeanPool(block_size=16, threshold=1.0),
    "pbs-max": PermutedBlockSparse(**PBS, threshold=1.0, pooling="max"),
    "pbs+": PermutedBlockSparse(**PBS, threshold=1.0, scoring="xattention", stride=4),
}
SPARSE: dict[str, AttentionLever] = {
    "minference": MInference(block_size=16, vertical_size=30, slash_size=50, min_length=0),
    "minference-mixed": MInference(block_size=16, head_config=MIXED, top_blocks=3, min_length=0),
    "flexprefill": FlexPrefill(block_size=16, gamma=0.5, min_budget=32, min_length=0),
    "flexprefill-aware": FlexPrefill(block_size=16, gamma=0.5, tau=9.0, min_budget=32, min_length=0),
    "xattention": XAttention(block_size=16, stride=4, threshold=0.5, min_length=0),
    "xattention-heads": XAttention(block_size=16, stride=4, threshold=(0.3, 0.5, 0.4, 0.6), min_length=0),
    "spargeattn-cdf": SpargeAttn(block_size=32, key_block_size=16, similarity=0.0, cdf=0.5, min_length=0),
    "spargeattn-topk": SpargeAttn(block_size=16, key_block_size=16, similarity=-1.0, topk=0.3, min_length=0),
    "a-shape": AShape(block_size=16, n_init=16, n_local=32, min_length=0),
    "tri-shape": TriShape(block_size=16, n_init=16, n_local=32, n_last=10, min_length=0),
    "pbs-max": PermutedBlockSparse(**PBS, threshold=0.4, pooling="max", min_length=0),
    "pbs+": PermutedBlockSparse(**PBS, threshold=0.4, scoring="xattention", stride=4, min_length=0),
}


def attend(query: Tensor, key: Tensor, value: Tensor, selection: Selection | None) -> Tensor:
    if selection is None:
        return dense_attention(query, key, value)
    if selection.order is not None:
        key, value = stored(key, selection.order), stored(value, selection.order)
    return block_sparse_attention(query, key, value, selection.plan)


@pytest.mark.parametrize("name", sorted(EVERYTHING))
@settings(max_examples=12, deadline=None)
@given(
    kv_len=st.integers(1, 160),
    past=st.integers(0, 120),
    kv_heads=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 99),
)
def test_keeping_everything_is_dense(name: str, kv_len: int, past: int, kv_heads: int, seed: int) -> None:
    q_len = kv_len - past if past < kv_len else kv_len
    query, key, value = random_inputs(2, 4, kv_heads, q_len, kv_len, 8, seed=seed)
    output = attend(query, key, value, EVERYTHING[name].select(query, key, context(q_len, kv_len)))
    torch.testing.assert_close(output, dense_attention(query, key, value), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(SPARSE))
def test_something_is_left_out_and_no_key_leaks_into_earlier_queries(name: str) -> None:
    query, key, value = random_inputs(1, 4, 2, 200, 200, 8)
    selection = SPARSE[name].select(query, key, context(200, 200))
    assert selection is not None
    assert selection.plan.density() < 0.9
    before = attend(query, key, value, selection)
    for changed in (20, 90, 199):
        keys, values = key.clone(), value.clone()
        keys[:, :, changed] += 5.0
        values[:, :, changed] += 5.0
        after = attend(query, keys, values, selection)
        assert torch.equal(after[:, :, :changed], before[:, :, :changed])
        # its own query reads it
        assert not torch.equal(after[:, :, changed], before[:, :, changed])


@pytest.mark.parametrize("name", sorted(SPARSE))
@pytest.mark.parametrize(("q_len", "kv_len"), [(200, 200), (70, 200), (33, 97), (1, 97)])
def test_every_query_reads_its_own_key(name: str, q_len: int, kv_len: int) -> None:
    query, key, _ = random_inputs(2, 4, 2, q_len, kv_len, 8)
    selection = SPARSE[name].select(query, key, context(q_len, kv_len))
    if q_len == 1:
        assert selection is None
        return
    assert selection is not None
    plan = selection.plan
    read = plan.to_token_mask()
    positions = plan.positions[:, :, : plan.kv_len].repeat_interleave(plan.selections // plan.positions.shape[1], 1)
    own = positions[:, :, None] == plan.query_positions[:, None]
    assert (read & own).any(-1).all()
    # one key counts once, wherever it is stored
    assert int(plan.kept_cells.sum()) == int(read.sum())


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(SPARSE))
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_in_a_batch_is_the_row_alone(name: str, side: str) -> None:
    model = tiny_model("llama")
    ids, mask = padded(200)
    if side == "right":
        ids, mask = ids.flip(1), mask.flip(1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with SPARSE[name](model):
        together = model(ids, attention_mask=mask, position_ids=positions).logits
        assert all(stats.sparse == 3 for stats in attention_report(model))
        for row in range(3):
            real = mask[row].bool()
            alone = model(ids[row : row + 1, real]).logits[0]
            torch.testing.assert_close(together[row, real], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(SPARSE))
def test_batched_generation_is_generation_alone(name: str) -> None:
    model = tiny_model("llama")
    ids, mask = padded(120)
    arguments = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    with SPARSE[name](model):
        together = model.generate(ids, attention_mask=mask, **arguments)[:, 120:]
        for row in range(3):
            prompt = ids[row : row + 1, mask[row].bool()]
            alone = model.generate(prompt, attention_mask=torch.ones_like(prompt), **arguments)
            assert torch.equal(together[row : row + 1], alone[:, prompt.shape[1] :])


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(EVERYTHING))
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt-oss"])
def test_models_that_read_everything_are_unchanged(name: str, family: str) -> None:
    model = tiny_model(family)
    ids, mask = padded(120)
    arguments = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "prefill_chunk_size": 50}
    arguments |= {"output_logits": True, "return_dict_in_generate": True}
    expected = model.generate(ids, attention_mask=mask, **arguments)
    lever = EVERYTHING[name].model_copy(update={"min_length": 0})
    with lever(model):
        actual = model.generate(ids, attention_mask=mask, **arguments)
    for step, reference in zip(actual.logits, expected.logits, strict=True):
        torch.testing.assert_close(step, reference, atol=1e-5, rtol=1e-5)


def chunked(model: PreTrainedModel, ids: Tensor, size: int) -> Tensor:
    cache, parts = None, []
    for start in range(0, ids.shape[1], size):
        result = model(ids[:, start : start + size], past_key_values=cache, use_cache=True)
        cache = result.past_key_values
        parts.append(result.logits)
    return torch.cat(parts, 1)


@torch.no_grad()
def test_shapes_are_the_same_in_chunks_of_whole_blocks() -> None:
    model, ids = tiny_model("llama"), tokens(1, 320)
    with SPARSE["a-shape"](model):
        torch.testing.assert_close(chunked(model, ids, 64), model(ids).logits, atol=1e-5, rtol=1e-5)
    # each chunk of a Tri-shape has last queries of its own, so whole chunks are compared layer by layer instead
    query, key, value = random_inputs(1, 4, 2, 320, 320, 16)
    lever = SPARSE["tri-shape"]
    whole = attend(query, key, value, lever.select(query, key, context(320, 320)))
    last = attend(query[:, :, 256:], key, value, lever.select(query[:, :, 256:], key, context(64, 320)))
    torch.testing.assert_close(last, whole[:, :, 256:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["minference", "flexprefill", "xattention", "spargeattn-cdf", "pbs+"])
def test_chunks_read_about_as_much_as_the_whole(name: str) -> None:
    query, key, _ = random_inputs(1, 4, 2, 512, 512, 16)
    lever = SPARSE[name]
    whole = lever.select(query, key, context(512, 512))
    assert whole is not None
    kept = causal = 0.0
    for start in range(0, 512, 128):
        stop = start + 128
        part = lever.select(query[:, :, start:stop], key[:, :, :stop], context(128, stop))
        cells = torch.ones(128, stop).tril(start).sum() * 4
        causal += float(cells)
        kept += float(cells) if part is None else float(part.plan.kept_cells.sum()) * 4 / part.plan.selections
    assert kept / causal == pytest.approx(whole.plan.density(), abs=0.2)


def stripes(distance: int) -> tuple[Tensor, Tensor]:
    """Queries that attend to key 37, to what stands some tokens back, and to themselves; [1, 1, 768, 512]."""
    generator = torch.Generator().manual_seed(0)
    code = torch.nn.functional.normalize(torch.randn(768 + distance, 512, generator=generator), dim=-1)
    mark = torch.nn.functional.normalize(torch.randn(512, generator=generator), dim=0)
    key = code[distance:].clone()
    key[37] = mark
    query = code[:768] + 0.6 * code[distance:] + mark
    return 11.0 * 512**0.5 * query[None, None], key[None, None]


@pytest.mark.parametrize(
    "lever",
    [
        MInference(block_size=16, vertical_size=40, slash_size=110),
        FlexPrefill(block_size=16, gamma=0.95, min_budget=48),
        XAttention(block_size=16, stride=4, threshold=0.9, norm=0.25),
        SpargeAttn(block_size=16, key_block_size=16, similarity=0.5),
    ],
    ids=lambda lever: lever.name,
)
def test_planted_lines_are_covered(lever: AttentionLever) -> None:
    # FlexPrefill takes the one distance in whole blocks that a slash rounds down to, so only those are fully read;
    # antidiagonals of an even stride meet odd distances only
    query, key = stripes({"flexprefill": 208, "xattention": 201}.get(lever.name, 200))
    call = context(768, 768)
    call.scaling = 512**-0.5
    selection = lever.select(query, key, call)
    assert selection is not None
    assert float(coverage(query, key, selection.plan, rows=256, scaling=call.scaling).mean()) > 0.9
    if not isinstance(lever, SpargeAttn):
        # every row has a code of its own, so no mean stands for a block and SpargeAttn reads all of it
        assert selection.plan.density() < 0.6


@torch.no_grad()
def test_an_executor_that_refuses_columns_is_replaced_and_counted() -> None:
    model, ids = tiny_model("llama"), tokens(1, 200)
    settings_given = {"block_size": 16, "vertical_size": 30, "slash_size": 50, "min_length": 0}
    with MInference(**settings_given)(model):
        expected = model(ids).logits
    with MInference(**settings_given, backend="flex")(model):
        torch.testing.assert_close(model(ids).logits, expected)
        for stats in attention_report(model):
            assert stats.backends == {"gather": 1}
            assert stats.refusals == {"backend 'flex' cannot take this call: flex has no single key columns": 1}
    with MInference(**settings_given, backend="flex", strict=True)(model), pytest.raises(BackendRefused):
        model(ids)
    with AShape(min_length=0, strict=True)(model), pytest.raises(AttentionFallback, match="reads everything"):
        model(ids)
