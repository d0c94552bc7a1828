"""Mean pooling."""

from __future__ import annotations

import torch

from farspan.attention import MeanPool, block_sparse_attention
from tests.attention.plans import dense_attention, random_inputs
from tests.attention.test_sink_window import context


def test_first_block_and_diagonal_are_kept() -> None:
    query, key, _ = random_inputs(1, 4, 2, 200, 200, 16)
    selection = MeanPool(block_size=16, threshold=0.05).select(query, key, context(200, 200))
    assert selection is not None
    blocks = selection.plan.block_mask()
    assert blocks.shape == (1, 2, 13, 13)
    assert blocks[..., 0].all()
    assert blocks.diagonal(dim1=-2, dim2=-1).all()
    assert selection.plan.density() < 0.4


def test_a_hot_block_is_found() -> None:
    query, key, _ = random_inputs(1, 2, 2, 320, 320, 16)
    query[:], key[:, :, 64:80] = 1.0, 1.0
    selection = MeanPool(block_size=16, threshold=0.5).select(query, key, context(320, 320))
    assert selection is not None
    blocks = selection.plan.block_mask()[0]
    assert blocks[:, 5:, 4].all()
    assert blocks[:, 10:, 7].sum() == 0


def test_threshold_one_is_dense_in_prefill_and_chunks() -> None:
    for q_len, kv_len in ((90, 90), (40, 90), (7, 33)):
        query, key, value = random_inputs(2, 4, 2, q_len, kv_len, 16)
        selection = MeanPool(block_size=16, threshold=1.0).select(query, key, context(q_len, kv_len))
        assert selection is not None
        output = block_sparse_attention(query, key, value, selection.plan)
        torch.testing.assert_close(output, dense_attention(query, key, value), atol=1e-5, rtol=1e-5)


def test_nothing_to_choose_in_one_block_or_for_one_token() -> None:
    query, key, _ = random_inputs(1, 2, 2, 16, 16, 8)
    assert MeanPool(block_size=16).select(query, key, context(16, 16)) is None
    query, key, _ = random_inputs(1, 2, 2, 1, 90, 8)
    assert MeanPool(block_size=16).select(query, key, context(1, 90)) is None
