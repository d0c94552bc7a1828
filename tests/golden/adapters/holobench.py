"""Golden adapter: merging, the published choice of rows with the rows of queries on them, labels, guessed sizes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from farspan.evals.metrics.rows import score_labels
from farspan.evals.tasks.holo_context import Line, char_token_estimate, load_context, merge_contexts


def check_merge(case: dict[str, Any]) -> None:
    given = case["input"]
    main, aux = ([f"{letter}{i}" for i in range(given[kind])] for letter, kind in (("m", "main"), ("a", "aux")))
    merged, indices = merge_contexts(main, aux, given["strategy"], official=True)
    assert merged == case["expected"], merged
    assert [merged[index] for index in indices] == main


def check_load(case: dict[str, Any]) -> None:
    given, expected = case["input"], case["expected"]
    tables = {}
    for name, rows in given["tables"].items():
        loaded = [json.loads(row) for row in rows]
        texts = [f"In {name}, " + "; ".join(f"{key} is {value}" for key, value in row.items()) + "." for row in loaded]
        tables[name] = [Line(text, row) for text, row in zip(texts, loaded, strict=True)]
    found = load_context(
        given["query"],
        tables,
        given["max_context_size"],
        info_density=given.get("info_density", 1.0),
        info_amount=given.get("info_amount", -1),
        merge_strategy=given.get("merge_strategy", "uniform"),
        official=True,
    )
    order = [f"{name}:{index}" for name, index in found.rows]
    assert order == expected["order"], order
    assert len(found.lines) == expected["n_lines"]
    assert max(index for _, index in found.rows) == expected["max_row_index_used"]
    assert len(found.gold_rows) == len(expected["gold"])
    for row, wanted in zip(found.gold_rows, expected["gold"], strict=True):
        assert list(row) == list(wanted)
        for key, value in wanted.items():
            got = row[key]
            if isinstance(value, float):
                assert isinstance(got, int | float)
                assert math.isclose(got, value, rel_tol=1e-9, abs_tol=1e-9)
            else:
                assert got == value, row


def check_labels(case: dict[str, Any]) -> None:
    assert math.isclose(score_labels(case["input"]["labels"]), case["expected"], abs_tol=1e-9)


def check_estimate(case: dict[str, Any]) -> None:
    assert char_token_estimate(case["input"]["text"]) == case["expected"]


ADAPTERS: dict[str, Callable[[dict[str, Any]], None]] = {
    "merge_contexts": check_merge,
    "load_context": check_load,
    "score_labels": check_labels,
    "char_token_estimate": check_estimate,
}
