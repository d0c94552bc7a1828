"""L-Eval: answers read out of responses, exact match, F1, ROUGE and win rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from farspan.evals.metrics import exam_answers as exams
from farspan.evals.metrics.rouge import rouge_google_mean
from farspan.evals.metrics.token_f1 import qa_f1
from farspan.evals.tasks.l_eval import compute_exact_match, exact_match_score
from tests.golden.compare import assert_close

EXACT = 1e-12

Case = dict[str, Any]


def check(function: Callable[..., object]) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        assert_close(function(**case["input"]), case["expected"], rtol=EXACT, atol=EXACT)

    return run


def check_pair(function: Callable[[str, str], float]) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        found = function(case["input"]["prediction"], case["input"]["ground_truth"])
        assert_close(float(found), float(case["expected"]), rtol=EXACT, atol=EXACT)

    return run


def check_true_false(case: Case) -> None:
    """Where the published code fails, the answer is unreadable."""
    expected = case["expected"]
    if isinstance(expected, dict):
        assert expected == {"raises": "IndexError"}
        expected = [exams.UNREADABLE, exams.UNREADABLE]
    assert list(exams.extract_true_false_pair(case["input"]["response"])) == expected


ADAPTERS = {
    "extract_multi_choice": check(exams.extract_multi_choice),
    "extract_single_choice": check(exams.extract_single_choice),
    "clean_choice_reference": check(exams.clean_choice_reference),
    "extract_math_answer": check(exams.extract_math_answer),
    "extract_code_output": check(exams.extract_code_output),
    "clean_code_reference": check(exams.clean_code_reference),
    "extract_true_false_pair": check_true_false,
    "exact_match_score": check_pair(exact_match_score),
    "compute_exact_match": check(compute_exact_match),
    "f1_score": check_pair(qa_f1),
    "rouge_google": check(rouge_google_mean),
    "pairwise_win_rate": check(exams.pairwise_win_rate),
}
