from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.evals.generate import LengthTarget, LengthTargetError, fit_units, insertion_index

COUNTS = st.lists(st.integers(0, 50), max_size=40)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("4096", 4096, "tokens"),
        (512, 512, "tokens"),
        ("4k", 4096, "tokens"),
        ("1.2k", 1229, "tokens"),
        ("1M", 1024 * 1024, "tokens"),
        ("2k chars", 2048, "chars"),
        ("25 units", 25, "units"),
    ],
)
def test_lengths_are_read_as_typed(text: str | int, value: int, unit: str) -> None:
    target = LengthTarget.parse(text)
    assert (target.value, target.unit) == (value, unit)


def test_a_family_may_count_in_thousands() -> None:
    assert LengthTarget.parse("54.4k chars", k=1000).value == 54_400


@pytest.mark.parametrize("text", ["", "k", "-4k", "4kk", "0", "4 apples", "four"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(LengthTargetError, match="is not a length"):
        LengthTarget.parse(text)


@given(COUNTS, st.integers(-5, 600))
def test_the_longest_prefix_within_the_budget_fits(counts: list[int], budget: int) -> None:
    n, tokens = fit_units(counts, budget)
    assert tokens == sum(counts[:n])
    assert tokens <= max(budget, 0)
    assert n == len(counts) or tokens + counts[n] > budget


@given(COUNTS, st.floats(0, 100))
def test_a_depth_lands_at_the_nearest_boundary(counts: list[int], depth: float) -> None:
    (boundary,) = insertion_index(counts, [depth])
    sums = np.concatenate([[0], np.cumsum(counts)]).astype(int)
    distances = abs(sums - depth / 100 * sums[-1])
    assert boundary == int(np.argmin(distances))


def test_depths_outside_the_text_are_refused() -> None:
    with pytest.raises(LengthTargetError, match="outside 0 to 100"):
        insertion_index([1, 2], [101])
