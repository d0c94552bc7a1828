"""Published truncation rules."""

from __future__ import annotations

from typing import Any

from tests.golden.compare import assert_close


def truncate_token_ranges(case: dict[str, Any]) -> None:
    from farspan.evals.truncate import truncate_ids, truncate_ranges

    given = case["input"]
    n, limit, rule, max_gen = given["n_tokens"], given["max_length"], given["rule"], given["max_gen"]
    ranges = truncate_ranges(n, limit, rule, max_gen)
    assert_close([list(kept) for kept in ranges], case["expected"])
    ids = [token for start, stop in case["expected"] for token in range(start, stop)]
    assert_close(truncate_ids(range(n), limit, rule, max_gen), ids)


ADAPTERS = {"truncate_token_ranges": truncate_token_ranges}
