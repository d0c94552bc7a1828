"""Answers as lines: bounds, perfect answers, what extra lines cost, and the fixed reading."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.evals.metrics.answer_lines import METRICS, normalize_prediction, score_metric, tidy_lines

ITEMS = st.lists(st.text(st.characters(codec="ascii", categories=["Lu", "Ll"]), min_size=1), min_size=2, max_size=6)


@given(ITEMS, st.text())
def test_every_prediction_has_a_score_between_0_and_1(answers: list[str], prediction: str) -> None:
    for name in METRICS:
        for tidy in (False, True):
            found = score_metric(name, answers, prediction, tidy=tidy)
            assert 0.0 <= found.score <= 1.0
            assert found.success or found.score == 0.0


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=6, unique=True))
def test_the_answer_itself_is_perfect_by_every_metric(answers: list[str]) -> None:
    prediction = "Thinking.\n[Answer]\n" + "\n".join(answers)
    assert {name: score_metric(name, answers, prediction) for name in METRICS} == dict.fromkeys(METRICS, (True, 1.0))


def test_blank_lines_and_markers_cost_officially_and_not_when_tidied() -> None:
    prediction = "[Answer]\n1. a\n\n2. b"
    assert normalize_prediction(prediction) == ["1. a", "", "2. b"]
    assert tidy_lines(normalize_prediction(prediction)) == ["a", "b"]
    for name in METRICS:
        assert score_metric(name, ["a", "b"], prediction).score == 0.0
        assert score_metric(name, ["a", "b"], prediction, tidy=True).score == 1.0


def test_further_lines_lower_what_is_read_as_an_order() -> None:
    answers = ["p", "q", "r"]
    exact, longer = (score_metric("Pairwise_Accuracy", answers, text).score for text in ("p\nq\nr", "p\nq\nr\ns\nt"))
    assert (exact, longer) == (1.0, pytest.approx(0.3))
    assert score_metric("Pairwise_Accuracy", answers, "p\nr").score == 1.0


def test_the_english_tag_goes_first() -> None:
    assert normalize_prediction("[答案]甲[Answer]\nA") == ["a"]
    assert normalize_prediction("[Answer] x [answer] y") == ["x [answer] y"]
    assert score_metric("SubEM", ["a"], "") == (False, 0.0)


@pytest.mark.timing
def test_thousands_of_predictions_are_scored_quickly() -> None:
    rng = random.Random(0)
    lines = [f"item {rng.randrange(1000)}" for _ in range(300)]
    start = time.perf_counter()
    for name in METRICS:
        for _ in range(900):
            score_metric(name, lines[:8], "\n".join(lines))
    assert time.perf_counter() - start < 5
