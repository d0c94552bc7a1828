"""Golden adapter: hits, pairs, citations, refusals, budgets and the overall score of biographies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from farspan.evals.metrics.bio import bio_hit, citation_hits, cut_base_reply, idk_score, twodiff_hit
from farspan.evals.tasks.longbiobench import haystack_budget
from farspan.evals.tasks.longbiobench_summary import overall


def check_hit(case: dict[str, Any]) -> None:
    given = case["input"]
    assert bio_hit(given["pred"], given["ref"], official=True) == case["expected"]


def check_base(case: dict[str, Any]) -> None:
    given = case["input"]
    computed = bio_hit(cut_base_reply(given["pred"], official=True), given["ref"], official=True)
    assert computed == case["expected"], computed


def check_twodiff(case: dict[str, Any]) -> None:
    given = case["input"]
    people = [(name, age) for name, age in given["people"]]
    computed = twodiff_hit(given["pred"], people, given["age_difference"])._asdict()
    assert computed == case["expected"], computed


def check_citation(case: dict[str, Any]) -> None:
    given = case["input"]
    computed = citation_hits(given["pred"], given["answer"], given["citation"])._asdict()
    assert computed == case["expected"], computed


def check_idk(case: dict[str, Any]) -> None:
    given = case["input"]
    assert idk_score(given["standard_hit"], given["refusal_hit"]) == case["expected"]


def check_budget(case: dict[str, Any]) -> None:
    given = case["input"]
    computed = haystack_budget(given["length_k"], given["num_retrieval"], given["fewshot"], given["k"])
    assert computed == case["expected"], computed


def check_overall(case: dict[str, Any]) -> None:
    given = case["input"]
    computed = overall(given["understanding"], given["reasoning"], given["trustworthy"])
    # The expected values are rounded to three decimals.
    assert math.isclose(computed, case["expected"], abs_tol=5.001e-4), computed


ADAPTERS: dict[str, Callable[[dict[str, Any]], None]] = {
    "hit": check_hit,
    "hit_base_official": check_base,
    "twodiff": check_twodiff,
    "citation": check_citation,
    "idk": check_idk,
    "haystack_budget": check_budget,
    "overall": check_overall,
}
