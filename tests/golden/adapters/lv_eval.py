"""LV-Eval: word F1 gated by keywords, ROUGE without blacklisted words, scores of whole files, the blacklists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from farspan.evals.metrics import keyword_f1 as keywords
from farspan.evals.metrics.token_f1 import qa_f1, qa_f1_zh
from farspan.evals.tasks.lv_eval import score_file
from tests.golden.compare import assert_close

EXACT = 1e-12

Case = dict[str, Any]


def check_pair(function: Callable[[str, str], float]) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        found = function(case["input"]["prediction"], case["input"]["ground_truth"])
        assert_close(float(found), float(case["expected"]), rtol=EXACT, atol=EXACT)

    return run


def check_keywords(function: Callable[[str, str, str | None], float]) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        given = case["input"]
        found = function(given["prediction"], given["ground_truth"], given["answer_keywords"])
        assert_close(float(found), float(case["expected"]), rtol=EXACT, atol=EXACT)

    return run


def check_file(case: Case) -> None:
    assert_close(score_file(**case["input"]), case["expected"], rtol=EXACT, atol=EXACT)


def check_list(words: tuple[str, ...]) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        assert list(words) == case["expected"]

    return run


ADAPTERS = {
    "qa_f1_score": check_pair(qa_f1),
    "qa_f1_zh_score": check_pair(qa_f1_zh),
    "qa_f1_score_with_gold_ans": check_keywords(keywords.keyword_f1),
    "qa_f1_zh_score_with_gold_ans": check_keywords(keywords.keyword_f1_zh),
    "rouge_zh_score_blacklist": check_pair(keywords.rouge_zh_blacklist),
    "score_file": check_file,
    "ABANDON_WORDS_EN": check_list(keywords.BLACKLIST_EN),
    "ABANDON_WORDS_ZH": check_list(keywords.BLACKLIST_ZH),
}
