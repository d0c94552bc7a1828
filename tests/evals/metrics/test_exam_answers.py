"""Answers read out of exam responses: letters, numbers, program output, true or false, and verdicts of a judge."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.evals.metrics import exam_answers as exams


@given(st.text())
def test_no_response_breaks_a_rule(response: str) -> None:
    for read in (exams.extract_multi_choice, exams.extract_single_choice):
        assert read(response) == "None" or set(read(response)) <= set("ABCD")
    assert set(exams.parsed_choice(response)) <= set("ABCD")
    assert all(char.isdigit() for char in exams.extract_math_answer(response))
    assert set(exams.extract_true_false_pair(response)) <= {"true", "false", "<error>"}
    assert exams.clean_choice_reference(response)
    exams.extract_code_output(response, response)


@given(st.sets(st.sampled_from("ABCD"), min_size=1))
def test_letters_alone_are_read_as_they_are(letters: set[str]) -> None:
    answer = "".join(sorted(letters))
    assert exams.extract_multi_choice(answer) == exams.parsed_choice(answer, several=True) == answer
    assert exams.clean_choice_reference(f"{answer} because") == answer


@pytest.mark.parametrize(
    ("response", "lenient", "strict"),
    [
        ("The answer is C.", "C", "C"),
        ("(B) the tides", "B", "B"),
        ("I cannot tell", "A", ""),
        ("Correct options: all", "C", ""),
        ("", "None", ""),
        ("A or B", "A", ""),
    ],
)
def test_the_strict_reading_invents_nothing(response: str, lenient: str, strict: str) -> None:
    assert exams.extract_single_choice(response) == lenient
    assert exams.parsed_choice(response) == strict


def test_long_responses_are_read_quickly() -> None:
    response = "Because of the tides, answer B) it is. " * 5000
    start = time.perf_counter()
    exams.extract_multi_choice(response)
    exams.extract_math_answer(response)
    exams.extract_code_output(response, "1 2 3")
    exams.parsed_choice(response)
    assert time.perf_counter() - start < 1


def test_a_judge_that_likes_the_first_place_gives_both_sides_half() -> None:
    assert exams.pairwise_win_rate([["m1", "m2"]] * 7) == {"m1": 0.5, "m2": 0.5}
    assert exams.pairwise_win_rate([["m1", "error"]]) == {"m1": 1.0, "m2": 0.0}
    assert exams.pairwise_win_rate([["error", "error"]]) == {"m1": 0.0, "m2": 0.0}
