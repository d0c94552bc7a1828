"""CNNSum: ROUGE of Chinese summaries, and the score of a subset."""

from __future__ import annotations

from typing import Any

from farspan.evals.tasks.cnnsum import rouge_zh_score, score_subset
from tests.golden.compare import assert_close

EXACT = 1e-12

Case = dict[str, Any]


def check_rouge(case: Case) -> None:
    given, expected = case["input"], case["expected"]
    try:
        found = rouge_zh_score(given["prediction"], given["ground_truth"])
    except ValueError:
        assert expected == {"raises": "ValueError"}, expected
        return
    assert_close(found, expected, rtol=EXACT, atol=EXACT)


def check_subset(case: Case) -> None:
    given = case["input"]
    assert_close(score_subset(given["predictions"], given["answers"]), case["expected"], rtol=EXACT, atol=EXACT)


ADAPTERS = {"rouge_zh_score": check_rouge, "score_subset": check_subset}
