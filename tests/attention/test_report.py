"""How much of the true attention a plan holds."""

from __future__ import annotations

import pytest
import torch

from farspan.attention import (
    AttentionLever,
    BlockPlan,
    LayerStats,
    SinkWindow,
    XAttention,
    attention_report,
    coverage,
    permutation_shares,
)
from farspan.attention.report import summary
from farspan.errors import FarspanError
from tests.attention.conftest import tiny_model
from tests.attention.plans import full_plan, random_inputs, random_keep


def test_everything_kept_covers_everything() -> None:
    query, key, _ = random_inputs(2, 4, 2, 50, 70, 16)
    torch.testing.assert_close(coverage(query, key, full_plan(query, key)), torch.ones(2, 4))


@pytest.mark.parametrize("reordered", [False, True])
def test_coverage_is_the_kept_share_of_the_softmax(reordered: bool) -> None:
    query, key, _ = random_inputs(1, 4, 2, 50, 70, 16)
    order = torch.rand(1, 2, 70, generator=torch.Generator().manual_seed(0)).argsort(-1) if reordered else None
    keep = random_keep(1, 2, 50, 70, 16, 16, share=0.5)
    plan = BlockPlan.from_block_mask(keep, q_len=50, kv_len=70, block_q=16, block_k=16, kv_pos=order, allow_empty=True)
    everything = BlockPlan.from_block_mask(
        torch.ones_like(keep), q_len=50, kv_len=70, block_q=16, block_k=16, kv_pos=order
    )
    scores = query @ key.repeat_interleave(2, 1).transpose(-1, -2) / 4
    reachable, kept = (x.to_token_mask().repeat_interleave(2, 1) for x in (everything, plan))
    mass = scores.masked_fill(~reachable, -torch.inf).softmax(-1)
    expected = (mass * kept).sum(-1).mean(-1)
    torch.testing.assert_close(coverage(query, key, plan, rows=50), expected)


def test_sampled_rows_are_fixed_by_the_seed() -> None:
    query, key, _ = random_inputs(1, 2, 2, 200, 200, 16)
    keep = random_keep(1, 1, 200, 200, 16, 16, share=0.5)
    plan = BlockPlan.from_block_mask(keep, q_len=200, kv_len=200, block_q=16, block_k=16, allow_empty=True)
    first, second = (coverage(query, key, plan, rows=20, seed=1) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, coverage(query, key, plan, rows=20, seed=2))


def test_single_columns_are_covered_too() -> None:
    query, key, _ = random_inputs(2, 4, 2, 50, 70, 16)
    keep = random_keep(2, 2, 50, 70, 16, 16, share=0.3)
    columns = torch.tensor([[[3, 40, -1]], [[0, 1, 69]]])
    sizes = {"q_len": 50, "kv_len": 70, "block_q": 16, "block_k": 16, "allow_empty": True}
    plan = BlockPlan.from_block_mask(keep, columns=columns, **sizes)  # type: ignore[arg-type]
    scores = query @ key.repeat_interleave(2, 1).transpose(-1, -2) / 4
    causal = torch.arange(70) <= torch.arange(20, 70)[:, None]
    mass = scores.masked_fill(~causal, -torch.inf).softmax(-1)
    kept = plan.to_token_mask().repeat_interleave(2, 1)
    torch.testing.assert_close(coverage(query, key, plan), (mass * kept).sum(-1).mean(-1))
    without = BlockPlan.from_block_mask(keep, **sizes)  # type: ignore[arg-type]
    assert (coverage(query, key, plan) > coverage(query, key, without)).all()


def test_heads_are_helped_unchanged_or_harmed_by_sorting() -> None:
    reports = [LayerStats(layer, "pbs") for layer in range(2)]
    with pytest.raises(FarspanError, match="head_opt_out=auto"):
        permutation_shares(reports)
    for stats, ratios in zip(reports, ([1.5, 1.0], [0.8, 2.0]), strict=True):
        stats.figures["blocks_without_permutation"] = ratios
    assert permutation_shares(reports) == {"helped": 0.5, "unchanged": 0.25, "harmed": 0.25}


def test_a_summary_says_what_was_read_and_why_not() -> None:
    first, second = LayerStats(0, "pbs"), LayerStats(1, "pbs")
    first.fallbacks["mask"] = 2
    assert summary([first, second]) == ["attention: dense in all 2 calls", "attention: dense because of mask (2)"]
    for stats, density in ((first, 0.25), (second, 0.75)):
        stats.sparse, stats.head_density = 3, [density]
        stats.backends["gather"] = 3
        stats.selection_seconds, stats.execution_seconds = 1.0, 3.0
        stats.flops, stats.dense_flops = 1.0, 4.0
    second.decode = 5
    lines = summary([first, second])
    assert lines[0] == (
        "attention by pbs: 50.0% of the cells read in 6 of 13 calls (layers 25.0% to 75.0%), by gather (6)"
    )
    assert lines[1] == "attention: choosing took 25.0% of its time; 25.0% of dense attention's operations"
    first.kv_bytes, first.dense_kv_bytes = 3.0, 4.0
    assert summary([first, second])[1].endswith("25.0% of dense attention's operations and 75.0% of its reads")
    assert lines[2:] == ["attention: dense in 5 calls with a single new token", "attention: dense because of mask (2)"]


@pytest.mark.parametrize("per_query_head", [False, True])
@torch.no_grad()
def test_bytes_are_counted_by_blocks_of_queries(per_query_head: bool) -> None:
    model, ids = tiny_model("llama"), torch.arange(3, 67)[None]
    lever: AttentionLever = SinkWindow(sinks=16, window=16, block_size=16, min_length=0)
    if per_query_head:
        lever = XAttention(block_size=16, stride=4, threshold=1.0, min_length=0)
    with lever(model):
        model(ids)
        (stats, _) = attention_report(model)
    key, heads = 2 * 16 * 4, 2
    # four blocks of queries, with 1, 2, 3 and 4 blocks of keys before them and at their place
    assert stats.dense_kv_bytes == (1 + 2 + 3 + 4) * 16 * heads * key
    if per_query_head:
        # every query head by itself
        assert stats.kv_bytes == 2 * stats.dense_kv_bytes
    else:
        # the sinks, the block before, and the own one
        assert stats.kv_bytes == (1 + 2 + 3 + 3) * 16 * heads * key
