"""Layouts and the communication plan: what each rank holds, and what it receives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from farspan.training.parallel import (
    Communicator,
    ParallelError,
    causal_cells,
    choose_strategy,
    communication_bytes,
    imbalance,
    layout_indices,
    padded_length,
    run_ranks,
    score_matrix_bytes,
    shard_sequence,
    unshard_sequence,
)
from farspan.training.parallel.blocks import Rule, runs
from farspan.training.parallel.layouts import LAYOUTS, Layout
from farspan.training.parallel.plan import grid_rows, travelling_heads


@given(length=st.integers(1, 300), ranks=st.integers(1, 9), layout=st.sampled_from(LAYOUTS))
def test_every_position_has_one_rank(length: int, ranks: int, layout: Layout) -> None:
    whole = padded_length(length, ranks, layout)
    assert length <= whole < length + 2 * ranks
    indices = layout_indices(whole, ranks, layout)
    assert torch.cat(indices).sort().values.tolist() == list(range(whole))
    assert {len(part) for part in indices} == {whole // ranks}
    assert sum(causal_cells(indices)) == whole * (whole + 1) // 2
    if layout == "zigzag":
        assert imbalance(indices) == 1.0
    if layout == "contiguous":
        assert imbalance(indices) <= 2 - 1 / ranks


@given(length=st.integers(1, 60), ranks=st.integers(1, 6), layout=st.sampled_from(LAYOUTS))
def test_runs_cover_a_shard_with_even_steps(length: int, ranks: int, layout: Layout) -> None:
    for positions in layout_indices(padded_length(length, ranks, layout), ranks, layout):
        parts = [positions[part] for part in runs(positions)]
        assert torch.cat(parts).equal(positions)
        assert all(len(part.diff().unique()) <= 1 for part in parts)


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True),
    st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True),
    st.booleans(),
    st.integers(0, 5),
    st.integers(10, 35),
)
def test_a_block_is_what_its_mask_says(
    queries: list[int], keys: list[int], causal: bool, start: int, stop: int
) -> None:
    rule = Rule(causal, 1.0, torch.tensor([start]), torch.tensor([stop]))
    for q_part in runs(torch.tensor(queries)):
        for k_part in runs(torch.tensor(keys)):
            q_pos, k_pos = torch.tensor(queries)[q_part], torch.tensor(keys)[k_part]
            mask = rule.allowed(q_pos, k_pos)[0, 0]
            kind = rule.kind(q_pos, k_pos)
            square = torch.ones_like(mask)
            expected = {"full": square, "none": ~square, "causal": square.tril(), "strict": square.tril(-1)}
            if kind != "masked":
                assert mask.equal(expected[kind])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_shards_come_together_again(layout: Layout, dim: int) -> None:
    x = torch.randn(13, 13, 13)

    def work(ranks: Communicator) -> torch.Tensor:
        return unshard_sequence(shard_sequence(x, ranks, layout, dim, pad=True), ranks, layout, dim, length=13)

    assert all(torch.equal(whole, x) for whole in run_ranks(3, work))


def test_lengths_that_do_not_divide_name_the_next_that_does() -> None:
    with pytest.raises(ParallelError, match="divisible by 8, not 12; pad to 16"):
        layout_indices(12, 4, "zigzag")
    with pytest.raises(ParallelError, match="a layout of"):
        layout_indices(12, 4, "spiral")  # type: ignore[arg-type]


def test_one_rank_needs_no_group() -> None:
    x = torch.arange(6)[None]
    assert shard_sequence(x, None).equal(x)


SIZES = st.tuples(
    st.integers(1, 3), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]), st.integers(1, 9), st.just(64)
)


@given(sizes=SIZES, ranks=st.sampled_from([1, 2, 3, 4, 6, 8, 16]))
def test_the_chosen_strategy_receives_least(sizes: tuple[int, int, int, int, int], ranks: int) -> None:
    batch, kv_heads, group, shard, dim = sizes
    arguments = (batch, kv_heads * group, kv_heads, shard * ranks, dim, ranks, 2)
    found = communication_bytes(*arguments)
    assert found["ring"] == found["allgather_kv"] == 2 * batch * kv_heads * shard * dim * 2 * (ranks - 1)
    assert ("ulysses" in found) == (kv_heads * group % ranks == 0)
    chosen = choose_strategy(*arguments)
    assert found[chosen] == min(found.values())
    rows = grid_rows(*arguments)
    assert communication_bytes(*arguments, grid_rows=rows)["grid2d"] == found["grid2d"]


def test_many_ranks_repeat_keys_of_few_heads_and_the_ring_wins() -> None:
    assert travelling_heads(32, 8, 4) == 8
    assert travelling_heads(32, 2, 8) == 8
    assert choose_strategy(1, 64, 1, 1 << 20, 128, 16, 2) == "ring"
    assert choose_strategy(1, 64, 64, 1 << 20, 128, 16, 2) == "ulysses"
    # heads that ranks do not divide leave ring and grid; a grid grows slower
    assert choose_strategy(1, 65, 65, 1 << 16, 128, 64, 2) == "grid2d"


def test_vanilla_attention_keeps_all_scores() -> None:
    assert score_matrix_bytes(1, 32, 131072, 2) == 2**40


def test_sizes_that_do_not_divide_are_refused() -> None:
    for arguments in ((1, 6, 4, 8, 4, 2, 2), (1, 4, 4, 9, 4, 2, 2), (0, 4, 4, 8, 4, 2, 2), (1, 4, 4, 8, 4, 4, 2, 3)):
        with pytest.raises(ParallelError):
            communication_bytes(*arguments)
