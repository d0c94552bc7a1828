from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.evals.effective import (
    EffectiveLengthError,
    ScoreRecord,
    compare_effective_lengths,
    effective_length,
    relative_threshold,
)

LENGTHS = [1024, 2048, 4096, 8192, 16384, 32768]


def records(scores: dict[int, Sequence[float]], **more: object) -> list[ScoreRecord]:
    """Records with ids that are equal between models."""
    return [
        ScoreRecord(length, score, sample_id=f"{length}/{i}", **more)  # type: ignore[arg-type]
        for length, row in scores.items()
        for i, score in enumerate(row)
    ]


def simulated(rng: np.random.Generator, middle: float, slope: float, n: int = 40) -> list[ScoreRecord]:
    """Right-or-wrong answers of a model whose score falls like a logistic in log2 of the length."""
    chances = 1 / (1 + np.exp(slope * (np.log2(LENGTHS) - middle)))
    return records({length: (rng.random(n) < chance).tolist() for length, chance in zip(LENGTHS, chances, strict=True)})


def test_a_clear_curve_gives_a_narrow_interval() -> None:
    found = effective_length(records({1024: [1] * 200, 2048: [1] * 200, 4096: [0] * 200}), 0.75)
    assert found.value == pytest.approx(2 ** (11 + 0.25))
    assert found.lo == found.hi == found.value
    assert (found.censoring, found.certified, found.grid) == ("none", 2048, 2048)
    assert found.n_per_length == (200, 200, 200)
    assert found.means == (1, 1, 0)
    assert "n >= 200 a length" in str(found)


def test_both_ends_are_censored() -> None:
    left = effective_length(records({1024: [0] * 20, 2048: [1] * 20}), 0.75, isotonic=False)
    assert (left.value, left.censoring, left.p_left_censored, str(left)[:5]) == (0, "left", 1, "<1024")
    right = effective_length(records({1024: [1] * 20, 2048: [1] * 20}), 0.75)
    assert (right.value, right.censoring, right.p_right_censored, str(right)[:5]) == (2048, "right", 1, ">2048")


def test_the_order_of_records_of_other_lengths_does_not_matter() -> None:
    rows = simulated(np.random.default_rng(0), 13, 1.0)
    backwards = [row for length in reversed(LENGTHS) for row in rows if row.length == length]
    assert effective_length(rows, 0.75) == effective_length(backwards, 0.75)


def test_methods_name_the_value() -> None:
    rows = simulated(np.random.default_rng(1), 13, 1.0)
    crossing = effective_length(rows, 0.75)
    grid = effective_length(rows, 0.75, method="grid")
    certified = effective_length(rows, 0.75, method="certified")
    assert grid.value == crossing.grid
    assert certified.value == crossing.certified <= grid.value
    assert grid.lo in (0, *LENGTHS)


def test_tasks_are_averaged_and_resampled_within_themselves() -> None:
    easy = [ScoreRecord(1024, 1.0, task="easy")] * 30 + [ScoreRecord(2048, 1.0, task="easy")] * 30
    hard = [ScoreRecord(1024, 1.0, task="hard")] * 3 + [ScoreRecord(2048, 0.0, task="hard")] * 3
    found = effective_length(easy + hard, 0.75)
    assert found.means == (1.0, 0.5)
    assert found.lo == found.hi == pytest.approx(2**10.5)
    with pytest.raises(EffectiveLengthError, match="'hard' has no scores at length 2048"):
        effective_length(easy + hard[:3], 0.75)


def test_samples_of_one_document_count_as_one() -> None:
    rng = np.random.default_rng(2)
    rows = []
    for length, chance in ((1024, 0.95), (2048, 0.7)):
        for document in range(12):
            right = float(rng.random() < chance)
            rows += [ScoreRecord(length, right, cluster=document) for _ in range(8)]
    clustered = effective_length(rows, 0.75)
    alone = effective_length(rows, 0.75, cluster=False)
    assert clustered.value == alone.value
    assert clustered.hi - clustered.lo > 1.5 * (alone.hi - alone.lo)
    assert clustered.certified <= alone.certified


def test_unequal_clusters_keep_the_mean_of_samples() -> None:
    rows = [ScoreRecord(1024, 1.0, cluster="a")] * 9 + [ScoreRecord(1024, 0.0, cluster="b")]
    assert effective_length(rows, 0.5).means == (0.9,)


def test_fractional_scores_are_certified_by_resampling() -> None:
    rows = records({1024: [0.9, 0.8] * 30, 2048: [0.9, 0.5] * 30})
    found = effective_length(rows, 0.75)
    assert found.certified == 1024


def test_a_relative_threshold_starts_from_the_shortest_length() -> None:
    rows = records({1024: [1, 1, 1, 0], 2048: [0] * 4})
    assert relative_threshold(rows) == pytest.approx(0.85 * 0.75)
    assert relative_threshold(rows, 0.5) == pytest.approx(0.375)


@given(
    st.dictionaries(
        st.sampled_from(LENGTHS), st.lists(st.sampled_from([0, 0.5, 1]), min_size=1, max_size=12), min_size=1
    ),
    st.floats(0.05, 0.95),
)
@settings(max_examples=60, deadline=None)
def test_results_are_in_range(scores: dict[int, list[float]], threshold: float) -> None:
    rows = records(scores)
    found = effective_length(rows, threshold, B=50)
    assert 0 <= found.lo <= found.hi <= max(scores)
    assert found.value == 0 or min(scores) <= found.value <= max(scores)
    same = compare_effective_lengths(rows, rows, threshold, B=50)
    assert (same.ratio, same.lo, same.hi) == (1, 1, 1)
    assert not same.clear


def test_paired_comparison_is_sharper_than_two_intervals() -> None:
    rng = np.random.default_rng(3)
    base = simulated(rng, 12.5, 1.2, n=60)
    # The second model answers the same samples and a few more.
    better = [row._replace(score=max(row.score, float(rng.random() < 0.35))) for row in base]
    found = compare_effective_lengths(base, better, 0.75)
    a, b = effective_length(base, 0.75), effective_length(better, 0.75)
    assert (found.value_a, found.value_b) == (a.value, b.value)
    assert found.ratio == pytest.approx(b.value / a.value)
    assert found.clear
    assert found.lo > 1
    assert found.hi / found.lo < (b.hi / a.lo) / (b.lo / a.hi)
    assert found.n_shared == 360
    back = compare_effective_lengths(better, base, 0.75)
    assert (back.lo, back.hi) == pytest.approx((1 / found.hi, 1 / found.lo))


def test_a_model_that_fails_at_once_gives_a_lower_bound() -> None:
    bad, good = records({1024: [0] * 20, 2048: [0] * 20}), records({1024: [1] * 20, 2048: [1] * 20})
    found = compare_effective_lengths(bad, good, 0.75)
    assert (found.ratio, found.lo, found.hi) == (2, 2, 2)
    assert (found.censoring_a, found.censoring_b) == ("left", "right")
    assert (found.p_left_censored_a, found.p_right_censored_b) == (1, 1)


def test_only_shared_samples_are_compared() -> None:
    a, b = records({1024: [1] * 10, 2048: [1] * 10}), records({1024: [1] * 8, 2048: [0] * 12})
    assert compare_effective_lengths(a, b, 0.75).n_shared == 18
    with pytest.raises(EffectiveLengthError, match="share no sample ids"):
        compare_effective_lengths(a, [row._replace(sample_id="") for row in b], 0.75)


def test_tokens_of_different_tokenizers_are_not_compared() -> None:
    rows = records({1024: [1] * 10})
    with pytest.raises(EffectiveLengthError, match="different tokenizers"):
        compare_effective_lengths(rows, rows, 0.75, tokenizers=("one", "other"))
    assert compare_effective_lengths(rows, rows, 0.75, tokenizers=("one", "other"), unit="chars").ratio == 1


def test_unusable_scores_are_refused() -> None:
    with pytest.raises(EffectiveLengthError, match="no scores"):
        effective_length([], 0.75)
    with pytest.raises(EffectiveLengthError, match="between 0 and 1"):
        effective_length([ScoreRecord(1024, 85.0)], 0.75)
    with pytest.raises(EffectiveLengthError, match="B >= 1"):
        effective_length([ScoreRecord(1024, 1.0)], 0.75, B=0)


@pytest.mark.slow
def test_intervals_cover_and_certificates_hold() -> None:
    rng = np.random.default_rng(2024)
    threshold = 0.75
    covered, exceeded, raw_error, smooth_error = 0, 0, [], []
    for number in range(400):
        middle, slope = rng.uniform(11.5, 14), rng.uniform(0.8, 2.5)
        true = 2 ** (middle + np.log(1 / threshold - 1) / slope)
        rows = simulated(rng, middle, slope)
        found = effective_length(rows, threshold, seed=number)
        raw = effective_length(rows, threshold, isotonic=False, B=1)
        covered += found.lo <= true <= found.hi
        exceeded += found.certified > true
        smooth_error.append(abs(np.log2(max(found.value, 512) / true)))
        raw_error.append(abs(np.log2(max(raw.value, 512) / true)))
    assert 0.90 <= covered / 400 <= 0.98
    assert exceeded / 400 <= 0.06
    assert np.mean(smooth_error) < np.mean(raw_error)


@pytest.mark.timing
def test_two_thousand_resamples_are_quick() -> None:
    rows = simulated(np.random.default_rng(5), 13, 1.0)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        effective_length(rows, 0.75, B=2000)
        best = min(best, time.perf_counter() - started)
    assert best < 0.1
