"""LongIns: numbers read out of answers and their F1, questions per 100 tokens, how many items are wrong."""

from __future__ import annotations

from typing import Any

from farspan.evals.metrics.index_list import longins_f1, num_errors, q_density
from tests.golden.compare import assert_close

Case = dict[str, Any]


def check_f1(case: Case) -> None:
    found = longins_f1(case["input"]["response"], case["input"]["error"])
    assert found["predicted"] == case["expected"]["predicted"]
    assert_close(found["f1"], float(case["expected"]["f1"]), atol=1e-9)


def check_density(case: Case) -> None:
    assert_close(q_density(case["input"]["num_questions"], case["input"]["num_tokens"]), case["expected"])


def check_errors(case: Case) -> None:
    assert num_errors(case["input"]["num_questions"], case["input"]["rate"]) == case["expected"]


ADAPTERS = {"longins_f1": check_f1, "q_density": check_density, "num_errors": check_errors}
