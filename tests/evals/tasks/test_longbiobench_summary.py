"""Categories, the overall score, the ladder and its intervals, published numbers."""

from __future__ import annotations

import numpy as np
import pytest

from farspan.errors import FarspanError
from farspan.evals.tasks.longbiobench import SUITE
from farspan.evals.tasks.longbiobench_summary import (
    LADDER,
    PUBLISHED,
    RANK_CORRELATION,
    category_means,
    group_means,
    ladder_report,
    overall,
)


def test_variants_are_averaged_before_categories() -> None:
    scores = dict.fromkeys(SUITE, 1.0) | {"multi_standard_5": 0.4, "multi_standard_10": 0.1, "rank_5": 0.0}
    groups = group_means(scores)
    assert groups["multi_standard"] == pytest.approx(0.5)
    assert groups["rank"] == 0.5
    means = category_means(scores)
    assert means["understanding"] == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert means["reasoning"] == pytest.approx((0.5 + 1 + 1 + 1) / 4)
    assert means["trustworthy"] == 1.0
    assert means["overall"] == pytest.approx(overall(means["understanding"], means["reasoning"], 1.0))
    assert "overall" not in category_means({"standard": 0.5})
    assert category_means({"standard": 0.5, "icl": 0.1}) == {"understanding": 0.5}
    with pytest.raises(FarspanError, match="no task of longbiobench"):
        group_means({"standrd": 1.0})


def test_the_ladder_pairs_indices() -> None:
    rng = np.random.default_rng(0)
    easy = (rng.random(200) < 0.9).astype(float)
    hard = easy * (rng.random(200) < 0.5)
    steps = ladder_report({"model": {"standard": list(easy), "paraphrase": list(hard), "pronoun": [1.0] * 50}})
    assert [(step.easier, step.harder, step.n) for step in steps] == [
        ("standard", "paraphrase", 200),
        ("paraphrase", "pronoun", 50),
    ]
    first = steps[0]
    assert first.loss == pytest.approx(float((easy - hard).mean()))
    assert 0 < first.lo < first.loss < first.hi
    same = ladder_report(
        {"model": {"standard": [1.0, 0.0], "multi_standard_2": [1.0, 0.0], "multi_standard_5": [1, 0]}}
    )
    assert (same[0].loss, same[0].lo, same[0].hi) == (0.0, 0.0, 0.0)
    assert {easier for easier, _ in LADDER} | {harder for _, harder in LADDER} <= set(RANK_CORRELATION)


def test_published_scores_are_consistent() -> None:
    at = PUBLISHED[131072]
    assert overall(*at["gpt-4o-2024-11-20"]) == pytest.approx(73.0, abs=0.1)
    assert overall(*at["Qwen2.5-14B-Instruct-1M"]) == pytest.approx(71.2, abs=0.1)
    assert PUBLISHED[65536]["Llama-3.1-8B-Instruct"].reasoning == 40.1
    assert PUBLISHED[524288]["Qwen2.5-7B-Instruct-1M"].trustworthy is None
