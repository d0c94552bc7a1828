"""Overlap of words: bags, sets, and the two rules for closed answers; normalising before it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.evals.metrics.chinese import jieba_tokens
from farspan.evals.metrics.edit_similarity import edit_similarity
from farspan.evals.metrics.meteor import meteor_exact_stem
from farspan.evals.metrics.normalize import normalize_squad, normalize_squad_cased, normalize_zh
from farspan.evals.metrics.token_f1 import f1_helmet, f1_set, f1_tokens, overlap, qa_f1, qa_f1_zh

BAG = st.lists(st.sampled_from("abcd"), max_size=12)


@given(one=BAG, other=BAG)
def test_overlap_is_symmetric_and_bounded(one: list[str], other: list[str]) -> None:
    assert 0 <= f1_tokens(one, other) <= 1
    assert f1_tokens(one, other) == pytest.approx(f1_tokens(other, one))
    assert overlap(one, other).precision == overlap(other, one).recall
    assert f1_set(one, other) == pytest.approx(f1_set(other, one))


def test_words_count_as_often_as_both_have_them() -> None:
    assert f1_tokens("abbc", "bbbd") == 0.5
    assert f1_set("abbc", "bbbd") == pytest.approx(0.4)
    assert f1_set([], []) == 0


def test_punctuation_goes_before_articles() -> None:
    assert normalize_squad("The state-of-the-art, a.n answer") == "stateoftheart answer"
    assert normalize_squad_cased("The A answer") == "The A answer"
    assert normalize_zh("《红色 港湾》A!") == "《红色港湾a"


def test_closed_answers_are_all_or_nothing_in_one_variant() -> None:
    assert qa_f1("yes it is", "yes") == 0.5
    assert f1_helmet("yes it is", "yes").f1 == 0
    assert f1_helmet("Yes.", "yes").f1 == 1


def test_chinese_words_without_punctuation() -> None:
    assert qa_f1_zh("北京，北京！", "北京") == pytest.approx(2 / 3)
    assert jieba_tokens("") == []


def test_edit_similarity_of_both_kinds() -> None:
    assert edit_similarity("tide", "diet") == 0.25 != edit_similarity("diet", "tide")
    assert edit_similarity("tide", "diet", backend="indel") == 0.5
    assert edit_similarity("", "") == 1
    assert edit_similarity("", "a") == 0


def test_meteor_rewards_order() -> None:
    straight, turned = meteor_exact_stem("a b c d", "a b c d"), meteor_exact_stem("a b c d", "d c b a")
    assert 0.99 < straight < 1
    assert turned == 0.5
    assert meteor_exact_stem("", "a") == 0
