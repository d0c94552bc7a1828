"""Golden adapter: substring recall, word counts, chain merging and the summary of the RULER suite."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

from farspan.evals.metrics import postprocess_pred, string_match_all, string_match_part
from farspan.evals.tasks.ruler_counts import cwe_counts, interleave, ruler_summary, zeta_counts


def check_match(metric: Callable[[list[str], list[list[str]]], float]) -> Callable[[dict[str, Any]], None]:
    def check(case: dict[str, Any]) -> None:
        computed = metric(case["input"]["preds"], case["input"]["refs"])
        assert math.isclose(computed, case["expected"], abs_tol=1e-9), computed

    return check


def check_postprocess(case: dict[str, Any]) -> None:
    computed = postprocess_pred(case["input"]["pred"])
    assert computed == case["expected"], computed


def check_zeta(case: dict[str, Any]) -> None:
    given = case["input"]
    counts = zeta_counts(given["num_words"], given["vocab_size"], given["alpha"])
    head = case["expected"]["head"]
    computed = {"head": counts[: len(head)], "total": sum(counts), "nonzero": sum(count > 0 for count in counts)}
    assert computed == case["expected"], computed


def check_numbers(function: Callable[..., Any]) -> Callable[[dict[str, Any]], None]:
    def check(case: dict[str, Any]) -> None:
        computed = function(**{name: value for name, value in case["input"].items() if name not in ("fn", "function")})
        assert set(computed) == set(case["expected"]), computed
        for name, value in case["expected"].items():
            if isinstance(value, str):
                assert computed[name] == value, computed
            else:
                assert math.isclose(computed[name], value, rel_tol=1e-9), computed

    return check


def check_interleave(case: dict[str, Any]) -> None:
    computed = interleave(case["input"]["chains"], Random(case["input"]["seed"]))
    assert computed == case["expected"], computed


ADAPTERS: dict[str, Callable[[dict[str, Any]], None]] = {
    "string_match_all": check_match(string_match_all),
    "string_match_part": check_match(string_match_part),
    "postprocess_pred": check_postprocess,
    "zeta_counts": check_zeta,
    "cwe_counts": check_numbers(cwe_counts),
    "interleave_chains_official": check_interleave,
    "ruler_summary": check_numbers(ruler_summary),
}
