"""Counts, merging and summaries of the RULER suite."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.errors import FarspanError
from farspan.evals.tasks.ruler_counts import THRESHOLDS, cwe_counts, interleave, ruler_summary, zeta_counts


@given(num_words=st.integers(0, 10**6), vocab=st.integers(1, 300), alpha=st.floats(1.1, 5))
def test_zeta_counts_fall_with_rank_and_fit(num_words: int, vocab: int, alpha: float) -> None:
    counts = zeta_counts(num_words, vocab, alpha)
    assert len(counts) == vocab
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) <= num_words


def test_zeta_shares_at_alpha_two() -> None:
    counts = zeta_counts(10**6, 5, 2.0)
    assert [round(count / 10**6, 3) for count in counts[:4]] == [0.608, 0.152, 0.068, 0.038]
    with pytest.raises(FarspanError, match="above 1"):
        zeta_counts(10, 5, 1.0)


@given(st.lists(st.lists(st.integers(), max_size=6), max_size=5), st.integers(0, 2**31))
def test_interleaving_keeps_every_inner_order(lists: list[list[int]], seed: int) -> None:
    chains = [[(number, place) for place in range(len(chain))] for number, chain in enumerate(lists)]
    merged = interleave(chains, Random(seed))
    assert sorted(merged) == sorted(item for chain in chains for item in chain)
    for chain in chains:
        assert [item for item in merged if item in chain] == chain


def test_cwe_counts_refuse_the_impossible() -> None:
    with pytest.raises(FarspanError, match="do not fit"):
        cwe_counts(9, 30, 3, 10)
    with pytest.raises(FarspanError, match="more often"):
        cwe_counts(40, 3, 3, 10)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8), st.floats(1, 99))
def test_effective_length_needs_all_shorter_lengths(scores: list[float], threshold: float) -> None:
    lengths = [4096 * 2**i for i in range(len(scores))]
    summary = ruler_summary(lengths, scores, threshold)
    found = summary["effective_length"]
    if found == f"<{lengths[0]}":
        assert scores[0] <= threshold
    elif found == f">{lengths[-1]}":
        assert min(scores) > threshold
    else:
        rank = lengths.index(int(found))
        assert min(scores[: rank + 1]) > threshold >= scores[rank + 1]
    for mean in (summary["avg"], summary["wavg_inc"], summary["wavg_dec"]):
        assert min(scores) - 1e-9 <= mean <= max(scores) + 1e-9


def test_the_threshold_itself_does_not_pass() -> None:
    threshold = THRESHOLDS["llama2-7b-chat@4k"]
    assert ruler_summary([4096, 8192], [threshold, 99.0], threshold)["effective_length"] == "<4096"
    with pytest.raises(FarspanError, match="ascending"):
        ruler_summary([8192, 4096], [1.0, 2.0], threshold)
