"""Replies of many forms are taken apart, answers matched by what they say, and tables put together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.evals.metrics.numbered_answers import (
    NumberedAnswersError,
    aggregate,
    choice_match,
    numeric_match,
    split_answers,
    split_answers_official,
)

GOLD = ["12", "7", "300"]
FORMS = {
    "plain": "".join(f"Answer_{i}: so it is. The answer is {gold}.\n\n" for i, gold in enumerate(GOLD, 4)),
    "bold": "".join(f"**Answer_{i}:**\nThe answer is {gold}.\n" for i, gold in enumerate(GOLD, 4)),
    "inner blank lines": "".join(f"Answer_{i}:\nfirst\n\nThe answer is {gold}.\n\n" for i, gold in enumerate(GOLD, 4)),
    "backwards": "".join(f"Answer {i}. The answer is {GOLD[i - 4]}.\n" for i in (6, 5, 4)),
    "preface": "Sure, 3 answers:\n\n" + "".join(f"> Answer_{i}: {gold}\n" for i, gold in enumerate(GOLD, 4)),
    "small letters": "".join(f"answer_{i}： the answer is {gold}\r\n\r\n" for i, gold in enumerate(GOLD, 4)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(form: str) -> None:
    texts = split_answers(FORMS[form], 4, 3)
    assert all(text is not None and numeric_match(text, gold, "fixed") for text, gold in zip(texts, GOLD, strict=True))


@given(st.text(max_size=300), st.integers(0, 40), st.integers(1, 20))
def test_any_text_gives_as_many_answers_as_asked(text: str, start: int, k: int) -> None:
    assert len(split_answers(text, start, k)) == k
    split_answers_official(text)


def test_the_first_of_two_counts_and_a_missing_one_is_none() -> None:
    assert split_answers("Answer_1: a\nAnswer_1: b\nAnswer_3: c", 1, 3) == ["a", None, "c"]


@pytest.mark.parametrize(
    ("pred", "gold", "official", "fixed"),
    [
        ("The answer is 70,000.", "#### 70,000", False, True),
        ("The answer is 5.0", "#### 5", False, True),
        ("It costs $1,234.50 in all", "#### 1234.5", False, True),
        ("The answer is 1/2", "#### 0.5", False, True),
        ("-3", "#### 3", True, False),
        ("the answer is −3.", "#### -3", True, True),
        ("25 %", "#### 25", True, True),
        ("first 3, then 4", "#### 3", False, False),
        ("none", "#### 3", False, False),
    ],
)
def test_numbers(pred: str, gold: str, official: bool, fixed: bool) -> None:
    assert numeric_match(pred, gold) is official
    assert numeric_match(pred, gold, "fixed") is fixed


@pytest.mark.parametrize(
    ("pred", "gold", "n", "official", "fixed"),
    [
        ("The answer is (B). Done", "B", 4, False, True),
        ("ANSWER: I think Dogs", "D", 4, True, False),
        ("The answer is (E).", "E", 5, False, True),
        ("the answer is c", "C", 4, False, True),
        ("Not (A). The answer is B.", "B", 4, True, True),
        ("(A) or (D)", "D", 4, True, False),
        ("B", "B", 4, True, True),
        ("**C**\nbecause", "C", 4, True, True),
        ("答案是 (A)。", "A", 4, True, True),
        ("", "A", 4, False, False),
    ],
)
def test_letters(pred: str, gold: str, n: int, official: bool, fixed: bool) -> None:
    assert choice_match(pred, gold, n) is official
    assert choice_match(pred, gold, n, "fixed") is fixed


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=9), st.floats(0.1, 1))
def test_tables(table: list[list[bool]], baseline: float) -> None:
    found = aggregate(table, baseline)
    by_index = found["by_index"]
    assert isinstance(by_index, list)
    assert found["accuracy"] == pytest.approx(sum(by_index) / 5)
    assert found["retention"] == pytest.approx(float(str(found["accuracy"])) / baseline)
    backwards = aggregate([row[::-1] for row in table])
    assert backwards["slope_per_question"] == pytest.approx(-float(str(found["slope_per_question"])), abs=1e-12)
    with pytest.raises(NumberedAnswersError):
        aggregate([*table, [True]])
    with pytest.raises(NumberedAnswersError):
        aggregate([])
