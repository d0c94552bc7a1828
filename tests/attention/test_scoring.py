"""Block scores and choices by mass."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.attention import block_scores, select_by_mass
from farspan.attention.scoring import block_maxima, block_means, group_means
from tests.attention.plans import random_inputs


def test_means_divide_by_true_counts() -> None:
    rows = torch.arange(12.0).view(2, 1, 6, 1)
    assert block_means(rows, 4).flatten().tolist() == [1.5, 4.5, 7.5, 10.5]
    padded = block_means(rows, 2, kv_start=torch.tensor([3, 0]))
    assert padded.flatten().tolist() == [0.0, 3.0, 4.5, 6.5, 8.5, 10.5]


def test_scores_are_a_softmax_over_allowed_blocks() -> None:
    query, key, _ = random_inputs(2, 4, 2, 24, 40, 8)
    allowed = torch.rand(3, 5, generator=torch.Generator().manual_seed(0)) < 0.6
    allowed[1] = False
    scores = block_scores(query, key, block_size=8, allowed=allowed, scaling=0.3)
    pooled = [x.unflatten(2, (-1, 8)).mean(3) for x in (query, key)]
    logits = pooled[0] @ pooled[1].repeat_interleave(2, 1).transpose(-1, -2) * 0.3
    expected = logits.exp() * allowed
    expected = expected / expected.sum(-1, keepdim=True).clamp(min=1e-30)
    torch.testing.assert_close(scores, expected)
    assert not scores[:, :, 1].any()


@settings(max_examples=60, deadline=None)
@given(threshold=st.floats(0.01, 0.99), seed=st.integers(0, 999), size=st.integers(1, 9))
def test_the_fewest_entries_that_reach_the_threshold(threshold: float, seed: int, size: int) -> None:
    scores = torch.rand(size, generator=torch.Generator().manual_seed(seed)).softmax(-1)
    kept = select_by_mass(scores, threshold)
    assert scores[kept].sum() >= threshold - 1e-6
    assert scores[kept].sum() - scores[kept].min() < threshold + 1e-6
    assert kept.all() or scores[kept].min() >= scores[~kept].max()


@pytest.mark.parametrize("threshold", [1, 1.0])
def test_threshold_one_keeps_everything(threshold: float) -> None:
    assert select_by_mass(torch.tensor([[0.5, 0.5, 0.0]]), threshold).all()


def test_a_threshold_out_of_reach_keeps_everything_and_ties_go_to_the_left() -> None:
    assert select_by_mass(torch.tensor([0.2, 0.2, 0.0]), 0.9).all()
    assert select_by_mass(torch.full((4,), 0.25), 0.5).tolist() == [True, True, False, False]


def test_group_means() -> None:
    assert group_means(torch.tensor([[[1.0], [3.0], [5.0], [7.0]]]), 2).tolist() == [[[2.0], [6.0]]]


def test_maxima_ignore_what_fills_up() -> None:
    rows = -torch.arange(1.0, 7.0).view(1, 1, 6, 1)
    assert block_maxima(rows, 4).flatten().tolist() == [-1.0, -5.0]
    query, key, _ = random_inputs(1, 2, 1, 10, 10, 4)
    allowed = torch.ones(3, 3, dtype=torch.bool).tril()
    scores = block_scores(query, key, block_size=4, allowed=allowed, pooling="max")
    logits = block_maxima(query, 4) @ block_maxima(key, 4).transpose(-1, -2) / 2
    torch.testing.assert_close(scores, logits.masked_fill(~allowed, -torch.inf).softmax(-1))


@settings(max_examples=60, deadline=None)
@given(threshold=st.floats(0.01, 0.99), seed=st.integers(0, 999), size=st.integers(1, 9))
def test_excluding_what_crosses_keeps_at_most_the_mass_and_one(threshold: float, seed: int, size: int) -> None:
    scores = torch.rand(size, generator=torch.Generator().manual_seed(seed)).softmax(-1)
    kept = select_by_mass(scores, threshold, crossing="exclude")
    assert kept.sum() == 1 or scores[kept].sum() <= threshold + 1e-6
    assert kept[scores.argmax()]
    included = select_by_mass(scores, threshold)
    assert int(included.sum()) - int(kept.sum()) in (0, 1)


@settings(max_examples=60, deadline=None)
@given(threshold=st.floats(0.01, 0.99), seed=st.integers(0, 999), size=st.integers(2, 9))
def test_forced_entries_count_first(threshold: float, seed: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(size, generator=generator).softmax(-1)
    forced = torch.rand(size, generator=generator) < 0.4
    kept = select_by_mass(scores, torch.tensor([threshold]), forced=forced)
    assert kept[forced].all()
    assert scores[kept].sum() >= threshold - 1e-6
    chosen = kept & ~forced
    if chosen.any():
        assert scores[kept].sum() - scores[chosen].min() < threshold + 1e-6
        rest = ~kept & ~forced
        assert not rest.any() or scores[chosen].min() >= scores[rest].max()


def test_rows_may_want_different_masses() -> None:
    scores = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).expand(2, -1)
    kept = select_by_mass(scores, torch.tensor([[0.3], [0.8]]))
    assert kept.sum(-1).tolist() == [1, 3]
