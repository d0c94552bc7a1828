"""Golden adapter: identifier haystacks, threads, their scores and contour effective lengths."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from farspan.evals.metrics import uuid_match
from farspan.evals.tasks.uuid_threads import follow_thread, needle_index, serialize, uuid_haystack


def check_haystack(case: dict[str, Any]) -> None:
    given = case["input"]
    pairs = uuid_haystack(given["seed"], given["num_kv_pairs"])
    text = serialize(pairs)
    index = needle_index(given["num_kv_pairs"], given["needle_depth"])
    computed = {
        "first_key": pairs[0][0],
        "first_value": pairs[0][1],
        "last_value": pairs[-1][1],
        "char_length": len(text),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "needle_index": index,
        "needle_key": pairs[index][0],
        "needle_value": pairs[index][1],
    }
    assert computed == case["expected"], computed


def check_single(case: dict[str, Any]) -> None:
    found = uuid_match(case["input"]["response"], [case["input"]["answer"]], "last")
    computed = {
        "readme_prefix_match": found["prefix_match"],
        "uuids": found["uuids"],
        "last_uuid_match": found["last_uuid_match"],
    }
    assert computed == case["expected"], computed


def check_multi(case: dict[str, Any]) -> None:
    found = dict(uuid_match(case["input"]["response"], case["input"]["answers"], "all"))
    computed = {name: found[name] for name in case["expected"]}
    assert computed == pytest.approx(case["expected"], abs=1e-12), computed


def check_thread(case: dict[str, Any]) -> None:
    given, expected = case["input"], case["expected"]
    pairs = [(key, value) for key, value in given["pairs"]]
    final, steps = follow_thread(pairs, given["start_key"])
    assert (final, steps) == (expected["final_value"], expected["steps"]), (final, steps)
    places = {key: place for place, (key, _) in enumerate(pairs)}
    visited = [places[follow_thread(pairs, given["start_key"], step)[0]] for step in range(steps)]
    assert sorted(visited) == sorted(expected["positions"]), visited
    if given["direction"] in ("forward", "backward"):
        assert visited == sorted(visited, reverse=given["direction"] == "backward"), visited


def check_contour(case: dict[str, Any]) -> None:
    from farspan.evals.effective import contour_effective_length

    given, expected = case["input"], case["expected"]
    found = contour_effective_length(given["lengths"], given["accuracy"], given["threshold"])
    assert list(found.per_row) == pytest.approx(expected["per_row"], rel=1e-9), found
    assert list(found.censoring) == expected["censoring"], found
    assert found.min_over_rows == pytest.approx(expected["min_over_rows"], rel=1e-9), found


ADAPTERS: dict[str, Callable[[dict[str, Any]], None]] = {
    "uuid_haystack": check_haystack,
    "score_single": check_single,
    "score_multi": check_multi,
    "follow_thread": check_thread,
    "contour_effective_length": check_contour,
}
