"""Merging partial attention."""

from __future__ import annotations

import pytest
import torch

from farspan.attention import BlockPlan, block_sparse_attention, merge_attention
from tests.attention.plans import dense_attention, random_inputs


def test_complementary_plans_merge_to_dense() -> None:
    query, key, value = random_inputs(2, 4, 2, 40, 40, 16)
    chance = torch.rand(2, 4, 5, 5, generator=torch.Generator().manual_seed(3)) < 0.5
    parts = []
    for keep in (chance, ~chance):
        plan = BlockPlan.from_block_mask(keep, q_len=40, kv_len=40, block_q=8, block_k=8, allow_empty=True)
        parts.append(block_sparse_attention(query, key, value, plan, return_lse=True))
    merged, lse = merge_attention([output for output, _ in parts], [norm for _, norm in parts])
    torch.testing.assert_close(merged, dense_attention(query, key, value), atol=1e-5, rtol=1e-5)
    assert lse.isfinite().all()


def test_rows_without_any_key_stay_zero_and_take_no_weight() -> None:
    outputs = [torch.zeros(1, 2, 3), torch.ones(1, 2, 3)]
    lse = [torch.full((1, 2), -torch.inf), torch.tensor([[-torch.inf, 0.5]])]
    merged, total = merge_attention(outputs, lse)
    assert merged[0, 1].tolist() == [1.0, 1.0, 1.0]
    assert total.tolist() == [[-torch.inf, 0.5]]
    assert not merged[0, 0].any()


def test_gradients_flow_through_output_and_logsumexp() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    lse = [torch.randn(2, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda *x: merge_attention(x[:3], x[3:]), (*outputs, *lse))


def test_half_precision_is_merged_in_float32() -> None:
    outputs = [torch.ones(1, 1, 1, 2, dtype=torch.bfloat16)] * 2
    merged, lse = merge_attention(outputs, [torch.zeros(1, 1, 1)] * 2)
    assert merged.dtype == torch.bfloat16
    assert lse.dtype == torch.float32


@pytest.mark.parametrize(("outputs", "norms"), [(0, 0), (2, 1)])
def test_parts_must_pair_up(outputs: int, norms: int) -> None:
    with pytest.raises(ValueError, match="as many logsumexps"):
        merge_attention([torch.zeros(1, 1, 1)] * outputs, [torch.zeros(1, 1)] * norms)
