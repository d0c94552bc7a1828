"""Block plans: what they hold, count and refuse."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.attention import BlockPlan, PlanError
from tests.attention.plans import random_keep

SIZES = st.sampled_from([1, 2, 3, 4, 8])


def token_mask(keep: torch.Tensor, plan: BlockPlan) -> torch.Tensor:
    """The definition, cell by cell."""
    cells = torch.zeros(plan.batch, keep.shape[1], plan.q_len, plan.kv_len, dtype=torch.bool)
    for b, h, i, j in product(*map(range, cells.shape)):
        position = j if plan.kv_pos is None else int(plan.kv_pos[b, 0, j])
        inside = plan.kv_start is None or int(plan.kv_start[b]) <= j
        inside = inside and (plan.kv_stop is None or j < int(plan.kv_stop[b]))
        kept = bool(keep[b, h, i // plan.block_q, j // plan.block_k])
        cells[b, h, i, j] = kept and inside and position <= plan.q_offset + i
    return cells


@settings(max_examples=40, deadline=None)
@given(
    q_len=st.integers(1, 9),
    past=st.integers(0, 6),
    block_q=SIZES,
    block_k=SIZES,
    seed=st.integers(0, 99),
    padded=st.booleans(),
    reordered=st.booleans(),
)
def test_a_plan_means_its_token_mask(
    q_len: int, past: int, block_q: int, block_k: int, seed: int, padded: bool, reordered: bool
) -> None:
    kv_len = q_len + past
    keep = random_keep(2, 2, q_len, kv_len, block_q, block_k, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(kv_len, generator=generator) for _ in range(2)])[:, None]
    plan = BlockPlan.from_block_mask(
        keep,
        q_len=q_len,
        kv_len=kv_len,
        block_q=block_q,
        block_k=block_k,
        q_offset=past,
        kv_start=torch.tensor([0, kv_len // 3]) if padded else None,
        kv_len_per_row=torch.tensor([kv_len, max(1, kv_len - 1)]) if padded else None,
        kv_pos=order if reordered else None,
        allow_empty=True,
    )
    expected = token_mask(keep, plan)
    assert torch.equal(plan.to_token_mask(), expected)
    assert torch.equal(plan.kept_cells, expected.sum((2, 3)).double())
    everything = token_mask(torch.ones_like(keep), plan)
    assert torch.equal(plan.causal_cells, everything.sum((2, 3)).double())
    share = float(expected.sum()) / float(everything.sum()) if everything.any() else 1.0
    assert plan.density() == pytest.approx(share)


def test_full_blocks_need_no_test_and_the_diagonal_is_partial() -> None:
    plan = BlockPlan.from_block_mask(torch.ones(1, 1, 3, 3).bool(), q_len=12, kv_len=12, block_q=4, block_k=4)
    assert plan.full_num.tolist() == [[[0, 1, 2]]]
    assert plan.partial_num.tolist() == [[[1, 1, 1]]]
    assert plan.partial_idx[0, 0, :, 0].tolist() == [0, 1, 2]
    assert plan.density() == 1.0


def test_blocks_of_the_future_are_dropped() -> None:
    keep = torch.ones(1, 1, 3, 3).bool()
    plan = BlockPlan.from_block_mask(keep, q_len=12, kv_len=12, block_q=4, block_k=4)
    assert torch.equal(plan.block_mask()[0, 0], torch.ones(3, 3).bool().tril())


def test_keys_stored_twice_count_once_among_the_causal_cells() -> None:
    order = torch.cat([torch.arange(8), torch.arange(8)])[None, None]
    keep = torch.zeros(1, 1, 2, 4).bool()
    keep[..., 2:] = True
    plan = BlockPlan.from_block_mask(keep, q_len=8, kv_len=16, block_q=4, block_k=4, q_offset=0, kv_pos=order)
    assert plan.density() == 1.0


def test_transpose_lists_the_readers_of_each_key_block() -> None:
    keep = random_keep(2, 3, 20, 28, 4, 4, share=0.5)
    plan = BlockPlan.from_block_mask(keep, q_len=20, kv_len=28, block_q=4, block_k=4, allow_empty=True)
    turned = plan.transpose()
    mask = torch.zeros(2, 3, plan.n_k, plan.n_q, dtype=torch.bool)
    for num, idx in ((turned.full_num, turned.full_idx), (turned.partial_num, turned.partial_idx)):
        for b, h, j in product(*map(range, num.shape)):
            readers = idx[b, h, j, : num[b, h, j]].tolist()
            assert readers == sorted(readers)
            mask[b, h, j, readers] = True
    assert torch.equal(mask.transpose(2, 3), plan.block_mask())


def test_columns_are_read_once_and_only_where_reachable() -> None:
    keep = torch.eye(4).bool()[None, None]
    columns = torch.tensor([[[9, 2, 2, 0, -1]]])
    plan = BlockPlan.from_block_mask(keep, q_len=16, kv_len=16, block_q=4, block_k=4, columns=columns)
    assert plan.col_ptr is not None
    assert plan.col_idx is not None
    assert plan.col_ptr.tolist() == [0, 0, 2, 4, 7]
    assert plan.col_idx.tolist() == [0, 2, 0, 2, 0, 2, 9]
    mask = plan.to_token_mask()[0, 0]
    assert mask[14].nonzero().flatten().tolist() == [0, 2, 9, 12, 13, 14]
    assert mask[5].nonzero().flatten().tolist() == [0, 2, 4, 5]
    assert float(plan.kept_cells) == float(mask.sum())


@pytest.mark.parametrize("reordered", [False, True])
def test_every_query_must_read_its_own_key(reordered: bool) -> None:
    keep = torch.ones(1, 2, 3, 3).bool()
    keep[0, 1, 1, 1] = False
    order = torch.arange(12)[None, None] if reordered else None
    with pytest.raises(PlanError, match=r"query 4 \(batch 0, selection 1\) does not read its own key"):
        BlockPlan.from_block_mask(keep, q_len=12, kv_len=12, block_q=4, block_k=4, kv_pos=order)
    BlockPlan.from_block_mask(keep, q_len=12, kv_len=12, block_q=4, block_k=4, kv_pos=order, allow_empty=True)


def test_an_own_key_may_stand_in_a_column() -> None:
    keep = torch.zeros(1, 1, 3, 3).bool()
    keep[0, 0, 1:, 1:] = True
    columns = torch.arange(4)[None, None]
    plan = BlockPlan.from_block_mask(keep, q_len=12, kv_len=12, block_q=4, block_k=4, columns=columns)
    assert plan.to_token_mask()[0, 0, 3].nonzero().flatten().tolist() == [0, 1, 2, 3]


def test_padding_needs_no_own_key() -> None:
    keep = torch.ones(1, 1, 3, 3).bool()
    plan = BlockPlan.from_block_mask(keep, q_len=12, kv_len=12, block_q=4, block_k=4, kv_start=torch.tensor([5]))
    assert plan.to_token_mask()[0, 0, :5].sum() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": torch.ones(1, 1, 3, 3)}, "boolean mask"),
        ({"keep": torch.ones(1, 1, 3, 4).bool()}, r"must be \[batch, selections, 3, 3\]"),
        ({"block_q": 0}, "must be positive"),
        ({"kv_start": torch.zeros(2)}, "one number per row"),
        ({"kv_pos": torch.zeros(1, 1, 5)}, "kv_pos must be"),
        ({"columns": torch.tensor([[[12]]])}, "beyond the 12 stored keys"),
        ({"columns": torch.zeros(3).long()}, "columns must be"),
        ({"keep": torch.ones(1, 3, 3, 3).bool(), "kv_pos": torch.arange(12).expand(1, 2, 12)}, "do not divide"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    given_arguments = {"keep": torch.ones(1, 1, 3, 3).bool(), "q_len": 12, "kv_len": 12, "block_q": 4, "block_k": 4}
    with pytest.raises(PlanError, match=message):
        BlockPlan.from_block_mask(**{**given_arguments, **arguments})  # type: ignore[arg-type]
