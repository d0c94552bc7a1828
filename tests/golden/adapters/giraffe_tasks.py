"""Golden adapter: line keys, number altering, and the metrics of the line and article tasks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from farspan.evals.metrics import bleu, line_number, presence
from farspan.evals.tasks.altered_numbers import altered_range, replace_number, wikiqa_row_labels
from farspan.evals.tasks.line_keys import line_index


def equal(function: Callable[..., object]) -> Callable[[dict[str, Any]], None]:
    """An adapter that passes the inputs by name and asks for an equal result."""

    def check(case: dict[str, Any]) -> None:
        computed = function(**{name: value for name, value in case["input"].items() if name not in ("fn", "function")})
        assert computed == case["expected"], computed

    return check


def check_bleu(case: dict[str, Any]) -> None:
    computed = bleu(case["input"]["ref"], case["input"]["output"])
    assert math.isclose(computed, case["expected"], rel_tol=0, abs_tol=1e-12), computed


def first_and_last_number(output: str) -> dict[str, int]:
    return {"first": line_number(output, "first"), "last": line_number(output, "last")}


def first_and_last_key(option: str, n: int) -> dict[str, str]:
    keys = line_index(option, n)
    assert len(keys) == n
    return {"first": keys[0], "last": keys[-1]}


ADAPTERS: dict[str, Callable[[dict[str, Any]], None]] = {
    "presence": equal(presence),
    "bleu": check_bleu,
    "line_number": equal(first_and_last_number),
    "line_index": equal(first_and_last_key),
    "altered_range": equal(altered_range),
    "replace_number": equal(replace_number),
    "wikiqa_row_labels": equal(wikiqa_row_labels),
}
