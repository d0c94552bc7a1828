"""LongBench Pro: lines of answers, their metrics, summaries with given vectors, and the published averages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from farspan.evals.metrics.answer_lines import METRICS, ScoreResult, normalize_prediction, score_metric
from farspan.evals.tasks.longbench_pro import aggregate, summary_max_rouge_l, summary_score
from tests.golden.compare import assert_close

EXACT = 1e-12

Case = dict[str, Any]


def check_lines(case: Case) -> None:
    assert normalize_prediction(case["input"]["prediction"]) == case["expected"]


def check_metric(name: str) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        _same(score_metric(name, case["input"]["answer"], case["input"]["prediction"]), case["expected"])

    return run


def check_rouge(case: Case) -> None:
    given = case["input"]
    found = summary_max_rouge_l(given["answer"], given["prediction"], zh=given["is_zh"])
    assert_close(found, float(case["expected"]), rtol=EXACT, atol=EXACT)


def check_summary(case: Case) -> None:
    given = case["input"]
    vectors = np.asarray([*given["answer_embeddings"], given["prediction_embedding"]], dtype=np.float64)
    found = summary_score(given["answer"], given["prediction"], zh=given["is_zh"], embed=lambda texts: vectors)
    _same(found, case["expected"])


def check_aggregate(case: Case) -> None:
    found = aggregate(case["input"]["rows"], case["input"]["bon_num"])
    assert_close(found, case["expected"], rtol=EXACT, atol=EXACT)
    for label, order in case["input"]["sort_keys"].items():
        groups = found[f"average_{label}_metric"]
        assert isinstance(groups, dict)
        assert list(groups) == order


def _same(found: ScoreResult, expected: dict[str, Any]) -> None:
    assert found.success == expected["success"]
    assert_close(found.score, float(expected["score"]), rtol=EXACT, atol=EXACT)


ADAPTERS = {
    "normalize_prediction": check_lines,
    **{name: check_metric(name) for name in METRICS},
    "summary_max_rouge_l": check_rouge,
    "summary_score": check_summary,
    "aggregate": check_aggregate,
}
