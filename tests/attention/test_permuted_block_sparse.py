"""Permuted block-sparse attention."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farspan.attention import (
    MeanPool,
    PermutedBlockSparse,
    Selection,
    block_sparse_attention,
    coverage,
    key_permutation,
)
from farspan.attention.permuted_block_sparse import permuted_selection, sorted_means
from farspan.attention.scoring import block_means
from farspan.attention.selection import stored
from farspan.errors import RecipeError
from farspan.recipe import Recipe, build_lever
from tests.attention.plans import dense_attention, random_inputs
from tests.attention.test_sink_window import context

Diagonal = Literal["original", "segment"]
SIZES = {"block_size": 16, "segment_size": 48}


def attend(query: Tensor, key: Tensor, value: Tensor, selection: Selection | None) -> Tensor:
    if selection is None:
        return dense_attention(query, key, value)
    assert selection.order is not None
    keys, values = stored(key, selection.order), stored(value, selection.order)
    return block_sparse_attention(query, keys, values, selection.plan)


@settings(max_examples=60, deadline=None)
@given(
    kv_len=st.integers(1, 150),
    chunk=st.integers(0, 149),
    kv_heads=st.sampled_from([1, 2, 4]),
    share=st.sampled_from(["kv_head", "query_head"]),
    diagonal=st.sampled_from(["original", "segment"]),
    opt_out=st.sampled_from([None, "auto", (0,)]),
    scoring=st.sampled_from([{}, {"pooling": "max"}, {"scoring": "xattention", "stride": 4}]),
    seed=st.integers(0, 99),
)
def test_keeping_everything_is_dense(
    kv_len: int,
    chunk: int,
    kv_heads: int,
    share: str,
    diagonal: str,
    opt_out: object,
    scoring: dict[str, object],
    seed: int,
) -> None:
    q_len = max(1, kv_len - chunk) if chunk < kv_len else kv_len
    query, key, value = random_inputs(2, 4, kv_heads, q_len, kv_len, 8, seed=seed)
    lever = PermutedBlockSparse(
        threshold=1.0,
        share_permutation=share,
        diagonal=diagonal,
        head_opt_out=opt_out,
        **SIZES,
        **scoring,  # type: ignore[arg-type]
    )
    output = attend(query, key, value, lever.select(query, key, context(q_len, kv_len)))
    torch.testing.assert_close(output, dense_attention(query, key, value), atol=1e-5, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    kv_len=st.integers(1, 150), heads=st.sampled_from([(4, 4), (4, 2)]), per_head=st.booleans(), padded=st.booleans()
)
def test_the_permutation_stays_inside_segments(
    kv_len: int, heads: tuple[int, int], per_head: bool, padded: bool
) -> None:
    query, key, _ = random_inputs(2, *heads, kv_len, kv_len, 8)
    start = torch.tensor([0, kv_len // 2]) if padded else None
    order = key_permutation(query, key, **SIZES, per_query_head=per_head, kv_start=start)
    assert order.shape == (2, heads[0] if per_head else heads[1], kv_len)
    whole = kv_len // 48 * 48
    assert torch.equal(order[..., whole:], torch.arange(whole, kv_len).expand_as(order[..., whole:]))
    segments = order[..., :whole].view(2, order.shape[1], whole // 48, 48)
    assert torch.equal(segments.sort(-1).values.flatten(2), torch.arange(whole).expand_as(order[..., :whole]))
    if padded:
        # padding goes to the end of its segment
        late = (segments[1] < kv_len // 2).int()
        assert torch.equal(late, late.sort(-1).values)


@pytest.mark.parametrize("length", [64, 100, 128])
@pytest.mark.parametrize("heads", [2, 6])
def test_means_of_sorted_keys_need_no_sorting(length: int, heads: int) -> None:
    query, key, _ = random_inputs(2, 6, 2, length, length, 8)
    order = key_permutation(query, key, block_size=16, segment_size=32, per_query_head=heads == 6)
    expected = block_means(stored(key, order), 16)
    torch.testing.assert_close(sorted_means(key, order, 16, 32), expected)


def test_important_keys_come_first() -> None:
    query, key, _ = random_inputs(1, 2, 2, 192, 192, 16)
    hot = [70, 100, 120]
    key *= 0.1
    query[:], key[:, :, hot] = 1.0, 3.0
    order = key_permutation(query, key, block_size=16, segment_size=64)
    assert set(order[0, 0, 64:66].tolist()) == {70, 100}
    assert order[0, 0, 66].item() == 120


@pytest.mark.parametrize("diagonal", ["original", "segment"])
def test_no_key_leaks_into_earlier_queries(diagonal: Diagonal) -> None:
    query, key, value = random_inputs(1, 4, 2, 150, 150, 8)
    selection = permuted_selection(query, key, **SIZES, threshold=0.5, diagonal=diagonal)
    assert selection is not None
    before = attend(query, key, value, selection)
    for changed in (20, 60, 120, 149):
        key_after, value_after = key.clone(), value.clone()
        key_after[:, :, changed] += 5.0
        value_after[:, :, changed] += 5.0
        after = attend(query, key_after, value_after, selection)
        assert torch.equal(after[:, :, :changed], before[:, :, :changed])
        assert not torch.equal(after[:, :, changed], before[:, :, changed])


@pytest.mark.parametrize("diagonal", ["original", "segment"])
def test_every_query_reads_its_segment_and_the_first_token(diagonal: Diagonal) -> None:
    query, key, _ = random_inputs(1, 2, 2, 200, 200, 8)
    selection = permuted_selection(query, key, **SIZES, threshold=0.01, diagonal=diagonal)
    assert selection is not None
    assert selection.order is not None
    cells = selection.plan.to_token_mask()[0]
    read = torch.zeros(2, 200, 200, dtype=torch.int32)
    read.scatter_add_(2, selection.order[0, :, None].expand(-1, 200, -1), cells.int())
    assert int(read.max()) == 1
    assert read[:, :, 0].all()
    for row in (3, 47, 48, 100, 199):
        first = row // 48 * 48
        assert read[:, row, first : row + 1].all()
    assert selection.plan.density() < 0.75


def test_both_diagonals_read_the_same_earlier_blocks() -> None:
    query, key, value = random_inputs(1, 4, 2, 150, 150, 8)
    outputs = [
        attend(query, key, value, permuted_selection(query, key, **SIZES, threshold=0.6, diagonal=diagonal))
        for diagonal in ("original", "segment")
    ]
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)


def hitters(share: float, strength: float) -> tuple[Tensor, Tensor]:
    """Queries that all point one way, and scattered keys, a share of them, that answer."""
    generator = torch.Generator().manual_seed(0)
    query, key, _ = random_inputs(1, 4, 4, 2048, 2048, 32)
    direction = torch.nn.functional.normalize(torch.randn(32, generator=generator), dim=0)
    query = 0.3 * query + 6.0 * direction
    hot = torch.rand(2048, generator=generator) < share
    key[:, :, hot] = 0.3 * key[:, :, hot] + strength * direction
    return query, key


def selections(query: Tensor, key: Tensor, opt_out: Literal["auto"] | None) -> dict[str, tuple[float, float]]:
    """Density and coverage of PBS and of mean pooling at the same threshold."""
    call = context(2048, 2048)
    call.scaling = 32**-0.5
    sorted_keys = PermutedBlockSparse(block_size=32, segment_size=256, head_opt_out=opt_out, diagonal="segment")
    result = {}
    for name, lever in (("pbs", sorted_keys), ("mean-pool", MeanPool(block_size=32))):
        selection = lever.select(query, key, call)
        assert selection is not None
        keys = key if selection.order is None else stored(key, selection.order)
        result[name] = (selection.plan.density(), float(coverage(query, keys, selection.plan).mean()))
    return result


def test_scattered_heavy_hitters_need_far_fewer_blocks() -> None:
    found = selections(*hitters(0.1, 6.0), None)
    assert found["pbs"][1] >= found["mean-pool"][1] - 0.02
    assert found["mean-pool"][0] / found["pbs"][0] >= 1.5


def test_random_keys_cost_nothing_more() -> None:
    query, key, _ = random_inputs(1, 4, 4, 2048, 2048, 32)
    found = selections(query, key, "auto")
    assert found["pbs"][0] <= 1.05 * found["mean-pool"][0]


def test_heads_that_sorting_harms_keep_their_order() -> None:
    # each query looks at keys of its own block two segments earlier: sorting scatters them over the segment
    generator = torch.Generator().manual_seed(0)
    codes = 8.0 * torch.nn.functional.normalize(torch.randn(64, 64, generator=generator), dim=-1)
    block = torch.arange(1024) // 16
    query, key, _ = random_inputs(1, 2, 2, 1024, 1024, 64)
    query[:, 0], key[:, 0] = codes[(block - 8).clamp(min=0)], codes[block] + 0.5 * key[:, 0]
    call = context(1024, 1024)
    settings_given = {"block_size": 16, "segment_size": 64, "threshold": 0.8}
    harmed = permuted_selection(query, key, **settings_given, scaling=0.125)
    saved = permuted_selection(query, key, **settings_given, scaling=0.125, opt_out="auto", context=call)
    assert harmed is not None
    assert saved is not None
    assert saved.order is not None
    first = saved.order[0, 0, :960]
    assert torch.equal(first, torch.arange(960))
    ratio = call.figures["blocks_without_permutation"]
    assert ratio[0] < 1.0
    cells = [x.plan.kept_cells[0] for x in (harmed, saved)]
    assert cells[1][0] < cells[0][0]
    assert cells[1][1] <= cells[0][1]
    listed = permuted_selection(query, key, **settings_given, scaling=0.125, opt_out=(0,))
    assert listed is not None
    assert listed.order is not None
    assert torch.equal(listed.order[0, 0], saved.order[0, 0])


def test_short_and_single_queries_are_left_to_dense_attention() -> None:
    lever = PermutedBlockSparse(block_size=16, segment_size=32)
    query, key, _ = random_inputs(1, 2, 2, 32, 32, 8)
    assert lever.select(query, key, context(32, 32)) is None
    query, key, _ = random_inputs(1, 2, 2, 1, 99, 8)
    assert lever.select(query, key, context(1, 99)) is None


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"segment_size": 100}, "segment_size 100 must be a multiple of block_size 128"),
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": 1.1}, "threshold"),
        ({"block_size": 100}, "power of two"),
        ({"scoring": "magic"}, "scoring"),
        ({"pooling": "sum"}, "pooling"),
        ({"scoring": "xattention", "stride": 7}, "stride 7 must divide block_size 128"),
        ({"share_permutation": "all"}, "share_permutation"),
        ({"head_opt_out": "some"}, "head_opt_out"),
    ],
)
def test_bad_settings_are_named(given_settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_lever("pbs", given_settings)


@pytest.mark.parametrize(
    "text",
    ["pbs", "pbs:threshold=0.8", "pbs:block_size=32,segment_size=64,head_opt_out=null", "pbs:head_opt_out=[1, 2]"],
)
def test_string_form(text: str) -> None:
    recipe = Recipe.parse(text)
    assert isinstance(recipe.levers[0], PermutedBlockSparse)
    assert Recipe.from_list(recipe.to_list()) == recipe
    assert Recipe.parse(str(recipe)) == recipe
