"""XAttention: sums along antidiagonals and the choice made from them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.attention import XAttention, antidiagonal, antidiagonal_scores
from farspan.attention.antidiagonal import antidiagonal_blocks
from farspan.errors import FarspanError, RecipeError
from farspan.recipe import Recipe, build_lever
from tests.attention.plans import random_inputs
from tests.attention.test_sink_window import context


def by_hand(query: torch.Tensor, key: torch.Tensor, block: int, stride: int, norm: float) -> torch.Tensor:
    """The definition, pair of groups by pair of groups; one head, [n, m]."""
    q_len, kv_len, dim = query.shape[0], key.shape[0], query.shape[1]
    offset = kv_len - q_len
    n_q, n_k, size = -(-q_len // block), -(-kv_len // block), block // stride
    sums = torch.zeros(n_q, n_k)
    for row in range(n_q * size):
        if row * stride >= q_len:
            continue
        scores = torch.full((n_k * size,), -torch.inf)
        for col in range(n_k * size):
            if col * stride >= kv_len or col * stride > offset + row * stride + stride - 1:
                continue
            total = 0.0
            for step in range(stride):
                i, j = row * stride + stride - 1 - step, col * stride + step
                if i < q_len and j < kv_len:
                    total += float(query[i] @ key[j])
            scores[col] = total / (dim**0.5 * stride * norm)
        sums[row // size] += scores.softmax(0).view(n_k, size).sum(1)
    return sums


@settings(max_examples=20, deadline=None)
@given(
    q_len=st.integers(1, 40),
    past=st.integers(0, 30),
    stride=st.sampled_from([1, 2, 4, 8]),
    norm=st.sampled_from([0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_scores_are_their_definition(q_len: int, past: int, stride: int, norm: float, seed: int) -> None:
    query, key, _ = random_inputs(1, 2, 1, q_len, q_len + past, 4, seed=seed)
    sums = antidiagonal_scores(query, key, block_size=8, stride=stride, norm=norm)
    for head in range(2):
        torch.testing.assert_close(sums[0, head], by_hand(query[0, head], key[0, 0], 8, stride, norm))


def test_long_inputs_are_scored_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, _ = random_inputs(2, 4, 2, 100, 150, 8)
    whole = antidiagonal_scores(query, key, block_size=16, stride=4)
    monkeypatch.setattr(antidiagonal, "CELLS_AT_ONCE", 1)
    torch.testing.assert_close(antidiagonal_scores(query, key, block_size=16, stride=4), whole)


def test_first_block_and_diagonal_count_first() -> None:
    sums = torch.tensor([[0.5, 0.0, 0.0, 0.0], [0.2, 0.8, 0.0, 0.0], [0.1, 0.2, 0.7, 0.0], [0.3, 0.25, 0.25, 0.2]])
    blocks = antidiagonal_blocks(sums[None, None], 0.7, block_size=8, q_offset=0, kv_len=32)[0, 0]
    # the last row holds 0.5 by force and needs one more; of two equal ones the earlier
    assert blocks.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]]


def test_heads_may_have_thresholds_of_their_own() -> None:
    query, key, _ = random_inputs(1, 4, 2, 320, 320, 8)
    lever = XAttention(block_size=16, stride=4, threshold=(0.2, 0.5, 0.8, 1.0))
    selection = lever.select(query, key, context(320, 320))
    assert selection is not None
    kept = selection.plan.kept_cells[0]
    assert kept.diff().gt(0).all()
    assert kept[3] == 320 * 321 / 2
    with pytest.raises(FarspanError, match="4 thresholds given for 2 query heads"):
        lever.select(query[:, :2], key, context(320, 320))


def test_one_block_is_left_to_dense_attention() -> None:
    query, key, _ = random_inputs(1, 2, 2, 16, 16, 8)
    assert XAttention(block_size=16).select(query, key, context(16, 16)) is None


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"stride": 7}, "stride 7 must divide block_size 128"),
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": [0.5, 1.5]}, "threshold"),
        ({"norm": 0.0}, "norm"),
        ({"block_size": 100}, "power of two"),
    ],
)
def test_bad_settings_are_named(given_settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_lever("xattention", given_settings)


@pytest.mark.parametrize(
    "text", ["xattention", "xattention:stride=16,threshold=0.8", "xattention:threshold=[0.5, 0.9]"]
)
def test_string_form(text: str) -> None:
    recipe = Recipe.parse(text)
    assert Recipe.from_list(recipe.to_list()) == recipe
    assert Recipe.parse(str(recipe)) == recipe
