"""ROUGE: the fast form equals a plain table, and the three variants differ as they should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.evals.metrics.rouge import (
    common_subsequence,
    rouge_google,
    rouge_google_mean,
    rouge_lcs_zh,
    rouge_set,
    rouge_set_zh,
    rouge_words,
)

WORDS = st.lists(st.sampled_from("abcdef"), max_size=40)
TEXT = st.lists(st.sampled_from(["sea", "ship", "port", "a", "sea.", "."]), min_size=1, max_size=20).map(" ".join)


def walked(reference: list[str], hypothesis: list[str]) -> list[str]:
    """The table cell by cell, and the walk from its end."""
    n, m = len(reference), len(hypothesis)
    table = [[0] * (m + 1) for _ in range(n + 1)]
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            if reference[i - 1] == hypothesis[j - 1]:
                table[i][j] = table[i - 1][j - 1] + 1
            else:
                table[i][j] = max(table[i - 1][j], table[i][j - 1])
    found = []
    i, j = n, m
    while i and j:
        if reference[i - 1] == hypothesis[j - 1]:
            found.append(reference[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found[::-1]


@given(reference=WORDS, hypothesis=WORDS)
def test_the_walk_over_bits_is_the_walk_over_the_table(reference: list[str], hypothesis: list[str]) -> None:
    assert common_subsequence(reference, hypothesis) == walked(reference, hypothesis)


@given(text=TEXT)
def test_equal_texts_are_a_hair_below_one(text: str) -> None:
    if not text.replace(".", ""):
        return
    assert rouge_set(text, text)["rouge-l"].f == pytest.approx(1 - 5e-9, abs=1e-12)


@given(words=st.lists(st.sampled_from("abcd"), min_size=1, max_size=8), times=st.integers(1, 5))
def test_repetition_costs_nothing_on_sets_and_something_in_order(words: list[str], times: int) -> None:
    reference = " ".join(words)
    repeated = " ".join(words * times)
    assert rouge_set(repeated, reference)["rouge-1"].f == pytest.approx(1 - 5e-9)
    assert rouge_words(repeated, reference)["rouge-l"].p == pytest.approx(1 / times)


@pytest.mark.parametrize("empty", ["", ".", "..."])
def test_texts_without_a_word_are_refused(empty: str) -> None:
    with pytest.raises(ValueError, match="full stops"):
        rouge_set(empty, "word")
    with pytest.raises(ValueError, match="full stops"):
        rouge_set("word", empty)


def test_chinese_is_cut_into_words_first() -> None:
    assert rouge_set_zh("会议讨论了预算", "会议讨论了预算") == pytest.approx(1 - 5e-9)
    assert rouge_set_zh("重复" * 6, "重复") > 0.99 > rouge_lcs_zh("重复" * 6, "重复")
    assert rouge_google("会议", "会议")["rouge1"].f == 0


def test_texts_of_any_length_have_a_value() -> None:
    reference = " ".join(str(i % 97) for i in range(4000))
    hypothesis = " ".join(str(i % 89) for i in range(4000))
    assert 0 < rouge_set(hypothesis, reference)["rouge-l"].f < 1


def test_the_geometric_mean_is_of_means() -> None:
    found = rouge_google_mean(["a b c", "x y"], [["a b c"], ["x z", "x y"]])
    assert found == {"rouge1": 100.0, "rouge2": 100.0, "rougeL": 100.0, "geometric_mean": pytest.approx(100.0)}
    assert rouge_google_mean([], [])["geometric_mean"] == 0
