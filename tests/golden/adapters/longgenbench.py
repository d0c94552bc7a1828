"""LongGenBench: answers taken apart, matched, and put together."""

from __future__ import annotations

from typing import Any

from farspan.evals.metrics import numbered_answers as metrics
from tests.golden.compare import assert_close

Case = dict[str, Any]


def numeric_match(case: Case) -> None:
    given = case["input"]
    assert metrics.numeric_match(given["pred"], given["gold"], given.get("mode", "official")) == case["expected"]


def choice_match(case: Case) -> None:
    given = case["input"]
    found = metrics.choice_match(given["pred"], given["gold"], given.get("n", 4), given.get("mode", "official"))
    assert found == case["expected"]


def split_answers_official(case: Case) -> None:
    assert metrics.split_answers_official(case["input"]["response"]) == case["expected"]


def split_answers(case: Case) -> None:
    given = case["input"]
    assert metrics.split_answers(given["response"], given["start"], given["k"]) == case["expected"]


def aggregate(case: Case) -> None:
    found = metrics.aggregate(case["input"]["correct"], case["input"].get("baseline"))
    assert_close({name: found[name] for name in case["expected"]}, case["expected"], atol=1e-9)


ADAPTERS = {
    "numeric_match": numeric_match,
    "choice_match": choice_match,
    "split_answers_official": split_answers_official,
    "split_answers": split_answers,
    "aggregate": aggregate,
}
