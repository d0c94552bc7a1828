"""Attention over independent segments: equal to masked attention, indifferent to order, and linear in their number."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farspan.attention import BlockLayout, LayoutError, segmented_attention
from farspan.attention.segments import PADDING, PREFIX, SUFFIX


def layout_of(prefix: int, segments: list[int], suffix: int) -> Tensor:
    names = [PREFIX] * prefix
    for index, length in enumerate(segments):
        names += [index + 1] * length
    return torch.tensor(names + [SUFFIX] * suffix, dtype=torch.long)


def inputs(
    length: int, heads: int = 4, kv_heads: int = 2, dim: int = 8, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [torch.randn(h, length, dim, generator=generator).to(dtype) for h in (heads, kv_heads, kv_heads)]


def masked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    keys, values = (x.repeat_interleave(len(query) // len(key), dim=0) for x in (key, value))
    return F.scaled_dot_product_attention(query[None], keys[None], values[None], attn_mask=mask[None, None])[0]


@settings(max_examples=40, deadline=None)
@given(
    prefix=st.integers(0, 7),
    segments=st.lists(st.integers(1, 12), max_size=6),
    suffix=st.integers(0, 5),
    padding=st.integers(0, 3),
    kv_heads=st.sampled_from([1, 2, 4]),
)
def test_equals_attention_under_the_token_mask(
    prefix: int, segments: list[int], suffix: int, padding: int, kv_heads: int
) -> None:
    names = torch.cat([torch.full((padding,), PADDING), layout_of(prefix, segments, suffix)])
    if not len(names):
        return
    layout = BlockLayout(names)
    query, key, value = inputs(len(names), kv_heads=kv_heads)
    mask = layout.token_mask()
    output = segmented_attention(query, key, value, layout)
    real = names != PADDING
    torch.testing.assert_close(output[:, real], masked(query, key, value, mask)[:, real])
    assert not output[:, ~real].any()
    assert layout.cells() == (int(mask.sum()), int(real.sum()) * (int(real.sum()) + 1) // 2)


def test_tokens_of_a_segment_need_not_be_neighbours() -> None:
    names = torch.tensor([0, 1, 2, 1, 0, 2, -1, 2, -1])
    query, key, value = inputs(len(names))
    layout = BlockLayout(names)
    # the prefix is read whole by segments, wherever it stands
    torch.testing.assert_close(
        segmented_attention(query, key, value, layout), masked(query, key, value, layout.token_mask())
    )


def test_one_segment_is_causal_attention() -> None:
    query, key, value = inputs(20)
    output = segmented_attention(query, key, value, BlockLayout(layout_of(5, [11], 4)))
    causal = torch.ones(20, 20, dtype=torch.bool).tril()
    torch.testing.assert_close(output, masked(query, key, value, causal))


def test_gradients_are_those_of_masked_attention() -> None:
    names = layout_of(3, [4, 7, 5, 1], 4)
    layout = BlockLayout(names)
    tensors = [x.requires_grad_() for x in inputs(len(names), dtype=torch.float64)]
    weights = torch.randn(4, len(names), 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad((segmented_attention(*tensors, layout) * weights).sum(), tensors)  # type: ignore[arg-type]
    wanted = torch.autograd.grad((masked(*tensors, layout.token_mask()) * weights).sum(), tensors)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_a_segment_does_not_notice_another() -> None:
    names = layout_of(4, [6, 6, 5, 9], 3)
    query, key, value = inputs(len(names))
    before = segmented_attention(query, key, value, BlockLayout(names))
    changed = names == 2
    for tensor in (query, key, value):
        tensor[:, changed] += 1.0
    after = segmented_attention(query, key, value, BlockLayout(names))
    alone = (names >= 0) & ~changed
    assert torch.equal(before[:, alone], after[:, alone])
    assert not torch.allclose(before[:, names == SUFFIX], after[:, names == SUFFIX])


def test_equal_blocks_with_padding() -> None:
    mask = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 1], [0, 0, 0], [0, 1, 1]])
    names = BlockLayout.from_block_mask(mask).block_ids
    assert names.tolist() == [-2, 0, 0, 1, 1, 1, -2, -2, 2, -2, -2, -2, -2, -1, -1]


@pytest.mark.parametrize(
    ("names", "word"),
    [(torch.tensor([[0, 1]]), "whole numbers"), (torch.tensor([0.0]), "whole numbers"), (torch.tensor([-3]), "-2")],
)
def test_layouts_that_make_no_sense_are_refused(names: Tensor, word: str) -> None:
    with pytest.raises(LayoutError, match=word):
        BlockLayout(names)


def test_a_layout_of_another_length_is_refused() -> None:
    with pytest.raises(LayoutError, match="3 tokens, given 4"):
        segmented_attention(*inputs(4), BlockLayout(torch.tensor([0, 1, -1])))  # type: ignore[arg-type]


@pytest.mark.timing
def test_many_segments_cost_a_fraction_of_dense_attention() -> None:
    torch.set_num_threads(1)
    names = layout_of(64, [64] * 64, 64)
    # as a model's projections leave them: the heads of a token lie together
    query, key, value = (
        x.transpose(0, 1).contiguous().transpose(0, 1) for x in inputs(len(names), heads=8, kv_heads=8, dim=64)
    )
    sides: tuple[Callable[[], Tensor], ...] = (
        lambda: F.scaled_dot_product_attention(query[None], key[None], value[None], is_causal=True),
        lambda: segmented_attention(query, key, value, BlockLayout(names)),
    )
    seconds: list[list[float]] = [[], []]
    for _ in range(6):
        for run, taken in zip(sides, seconds, strict=True):
            started = time.process_time()
            run()
            taken.append(time.process_time() - started)
    assert statistics.median(seconds[0][1:]) / statistics.median(seconds[1][1:]) >= 3.0
