"""Vertical and slash lines."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.attention import vertical_slash_indices
from farspan.attention.vertical_slash import diagonal_sums, last_attention, slash_blocks, strongest_lines
from tests.attention.plans import random_inputs
from tests.attention.test_selectors import stripes


def test_last_attention_is_causal_attention() -> None:
    query, key, _ = random_inputs(2, 4, 2, 20, 33, 8)
    attention = last_attention(query, key, 7)
    assert attention.shape == (2, 4, 7, 33)
    scores = query[:, :, -7:] @ key.repeat_interleave(2, 1).transpose(-1, -2) * 8**-0.5
    future = torch.arange(33) > torch.arange(26, 33)[:, None]
    torch.testing.assert_close(attention, scores.masked_fill(future, -torch.inf).softmax(-1))


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 9), past=st.integers(0, 12), seed=st.integers(0, 99))
def test_diagonal_sums_are_their_definition(rows: int, past: int, seed: int) -> None:
    length = rows + past
    attention = torch.rand(2, 3, rows, length, generator=torch.Generator().manual_seed(seed)).tril(past)
    expected = torch.zeros(2, 3, length)
    for row in range(rows):
        for column in range(past + row + 1):
            expected[..., past + row - column] += attention[..., row, column]
    torch.testing.assert_close(diagonal_sums(attention), expected)


@settings(max_examples=30, deadline=None)
@given(q_len=st.integers(1, 40), past=st.integers(0, 30), size=st.sampled_from([4, 8]), seed=st.integers(0, 99))
def test_slash_blocks_are_those_a_slash_crosses(q_len: int, past: int, size: int, seed: int) -> None:
    kv_len = q_len + past
    distances = torch.randint(0, kv_len, (1, 2, 3), generator=torch.Generator().manual_seed(seed))
    blocks = slash_blocks(distances, q_len=q_len, kv_len=kv_len, q_offset=past, block_size=size)
    apart = torch.arange(q_len)[:, None] + past - torch.arange(kv_len)
    for head in range(2):
        cells = torch.isin(apart, distances[0, head]).nonzero()
        expected = torch.zeros_like(blocks[0, head])
        expected[cells[:, 0] // size, cells[:, 1] // size] = True
        assert torch.equal(blocks[0, head], expected)


def test_planted_lines_are_found() -> None:
    query, key = stripes(200)
    columns, distances = vertical_slash_indices(
        query, key, vertical_size=31, slash_size=102, last_q=64, scaling=512**-0.5
    )
    assert columns.shape == (1, 1, 31)
    assert set(columns[0, 0].tolist()) == {*range(30), 37}
    assert 200 in distances[0, 0].tolist()
    assert set(range(100)) <= set(distances[0, 0].tolist())


def test_forced_lines_come_nearest_first_where_there_is_no_room() -> None:
    attention = torch.zeros(1, 1, 64, 400)
    attention[..., 390] = 1.0
    columns, distances = strongest_lines(attention, 1, 60)
    assert columns[0, 0].tolist() == list(range(30))
    assert distances[0, 0].tolist() == list(range(60))
    short, _ = strongest_lines(attention[..., :20], 100, 100)
    assert short[0, 0].tolist() == list(range(20))


def test_ties_go_to_the_lower_index() -> None:
    columns, _ = strongest_lines(torch.ones(1, 1, 4, 200), 40, 60)
    assert columns[0, 0].tolist() == list(range(40))
