"""Means and effective lengths of outcomes with known scores."""

from __future__ import annotations

import pytest

from farspan.errors import FarspanError
from farspan.evals.tasks.needle_threading_summary import Outcome, overall, summarize

LENGTHS = (2000, 4000, 8000)


def single(scores: dict[float, tuple[float, float, float]], repeats: int = 4) -> list[Outcome]:
    return [
        Outcome("single", length, {"depth": depth, "haystack_seed": repeat}, score)
        for depth, row in scores.items()
        for length, score in zip(LENGTHS, row, strict=True)
        for repeat in range(repeats)
    ]


def test_single_needles_take_the_worst_depth() -> None:
    summary = summarize(single({0.0: (1, 1, 1), 50.0: (1, 0.5, 0)}))["single"]
    assert summary.mean == {2000: 1.0, 4000: 0.75, 8000: 0.5}
    assert summary.n == {2000: 8, 4000: 8, 8000: 8}
    assert summary.effective == 3000
    assert summary.censored == "none"
    low, high = summary.interval[2000]
    assert 0.6 < low < 0.75
    assert high == 1.0


def test_never_failing_and_always_failing_are_censored() -> None:
    assert summarize(single({0.0: (1, 1, 1)}))["single"].censored == "right"
    failing = summarize(single({0.0: (0.5, 1, 1)}))["single"]
    assert (failing.effective, failing.censored) == (0, "left")


def test_other_tasks_take_their_reported_row_and_cells_count_equally() -> None:
    outcomes = [Outcome("thread", 2000, {"thread_length": 5, "direction": d}, 1.0) for d in ("forward", "backward")]
    outcomes += [Outcome("thread", 4000, {"thread_length": 5, "direction": "forward"}, 0.5)]
    outcomes += [
        Outcome("thread", length, {"thread_length": 2, "direction": "forward"}, 0.0) for length in (2000, 4000)
    ] * 9
    summary = summarize(outcomes)["thread"]
    assert summary.effective == 3000
    assert summary.mean == {2000: pytest.approx(2 / 3), 4000: 0.25}
    assert summarize([Outcome("multi", 2000, {"n_needles": 3}, 1.0)])["multi"].effective is None


def test_overall_is_the_mean_of_tasks_over_shared_lengths() -> None:
    threads = [Outcome("thread", length, {"thread_length": 5}, 1.0) for length in (2000, 16_000)]
    summaries = summarize([*single({0.0: (0.5, 1, 0)}), *threads])
    assert overall(summaries) == {2000: 0.75}
    with pytest.raises(FarspanError, match="nothing to summarise"):
        summarize([])
