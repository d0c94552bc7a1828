"""Golden adapter: lexical tokens, BM25 with mid-ranks, and the whole estimate of a sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from farspan.evals.taxonomy import analyse, bm25, lex_tokens
from tests.golden.compare import assert_close


def check_analyse(case: dict[str, Any]) -> None:
    given, expected = case["input"], case["expected"]
    more = {"bins": given["bins"]} if "bins" in given else {}
    found = analyse(
        given["units"], given["unit_tokens"], given["query"], given["facts"], given.get("parents"), **more
    ).model_dump()
    assert_close({name: found[name] for name in expected}, expected, rtol=1e-9, atol=1e-9)


def check_tokens(case: dict[str, Any]) -> None:
    assert_close(lex_tokens(case["input"]["text"]), case["expected"])


def check_bm25(case: dict[str, Any]) -> None:
    scores, ranks = bm25(case["input"]["units"], case["input"]["query"])
    assert_close({"scores": scores, "midranks": ranks}, case["expected"], rtol=1e-9, atol=1e-9)


ADAPTERS: dict[str, Callable[[dict[str, Any]], None]] = {
    "analyse": check_analyse,
    "lex_tokens": check_tokens,
    "bm25": check_bm25,
}
