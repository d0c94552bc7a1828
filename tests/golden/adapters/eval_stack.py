"""Published truncation rules, and metrics against the packages that published scores were computed with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.golden.compare import assert_close

EXACT = 1e-12


def truncate_token_ranges(case: dict[str, Any]) -> None:
    from farspan.evals.truncate import truncate_ids, truncate_ranges

    given = case["input"]
    n, limit, rule, max_gen = given["n_tokens"], given["max_length"], given["rule"], given["max_gen"]
    ranges = truncate_ranges(n, limit, rule, max_gen)
    assert_close([list(kept) for kept in ranges], case["expected"])
    ids = [token for start, stop in case["expected"] for token in range(start, stop)]
    assert_close(truncate_ids(range(n), limit, rule, max_gen), ids)


def check_rouge(name: str) -> Callable[[dict[str, Any]], None]:
    def check(case: dict[str, Any]) -> None:
        from farspan.evals.metrics import rouge

        given = dict(case["input"])
        given.pop("note", None)
        metric = getattr(rouge, name)
        if "raises" in case["expected"]:
            assert case["expected"]["raises"] == "ValueError"
            with pytest.raises(ValueError):
                metric(**given)
            return
        found = {key: scores._asdict() for key, scores in metric(**given).items()}
        assert_close(_floats(found), _floats(case["expected"]), rtol=EXACT, atol=EXACT)

    return check


def jieba(case: dict[str, Any]) -> None:
    from farspan.evals.metrics.chinese import jieba_tokens

    assert_close(jieba_tokens(case["input"]["text"]), case["expected"])


def edit_similarity(case: dict[str, Any]) -> None:
    from farspan.evals.metrics.edit_similarity import edit_similarity

    a, b, expected = case["input"]["a"], case["input"]["b"], case["expected"]
    assert_close(edit_similarity(a, b), expected["fuzzywuzzy_difflib_int"] / 100, rtol=EXACT)
    indel = edit_similarity(a, b, backend="indel")
    assert_close(round(100 * indel), expected["indel_int"])
    assert_close(indel, expected["indel_float"], rtol=EXACT)


def f1_helmet(case: dict[str, Any]) -> None:
    from farspan.evals.metrics.token_f1 import f1_helmet

    found = f1_helmet(case["input"]["prediction"], case["input"]["ground_truth"])
    assert_close(list(found), [float(value) for value in case["expected"]], rtol=EXACT)


def _floats(scores: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {key: {name: float(value) for name, value in values.items()} for key, values in scores.items()}


ADAPTERS = {
    "truncate_token_ranges": truncate_token_ranges,
    "rouge_py_1_0_1": check_rouge("rouge_set"),
    "rouge_score_0_1_2": check_rouge("rouge_google"),
    "rouge_chinese_1_0_3": check_rouge("rouge_words"),
    "jieba_0_42_1": jieba,
    "edit_similarity": edit_similarity,
    "f1_helmet": f1_helmet,
}
