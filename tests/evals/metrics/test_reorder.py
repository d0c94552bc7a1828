"""Deviations of orders: identities, maxima over all permutations, and labels read out of answers."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.evals.metrics import reorder

DEVIATIONS = ("location_square_deviation", "location_mean_deviation", "swap_deviation", "swap_distance_deviation")


@given(st.permutations([str(i) for i in range(1, 9)]), st.integers(2, 8))
def test_deviations_keep_their_identities(order: list[str], n: int) -> None:
    right = [str(i) for i in range(1, n + 1)]
    given_order = [label for label in order if int(label) <= n]
    values = [getattr(reorder, name)(right, given_order) for name in DEVIATIONS]
    assert all((value == 0) == (given_order == right) for value in values)
    assert values[3] == pytest.approx(n * values[1] / 2)
    for name, value in zip(DEVIATIONS, values, strict=True):
        assert value <= getattr(reorder, f"max_{name}")(n) + 1e-12


@pytest.mark.parametrize("n", range(2, 7))
def test_maxima_are_reached(n: int) -> None:
    right = [str(i) for i in range(n)]
    for name in DEVIATIONS:
        most = max(getattr(reorder, name)(right, list(order)) for order in permutations(right))
        assert most == pytest.approx(getattr(reorder, f"max_{name}")(n))


def test_swaps_are_the_fewest_that_sort() -> None:
    right = list("1234")

    def fewest(order: tuple[str, ...]) -> int:
        reached, steps = {order}, 0
        while tuple(right) not in reached:
            reached |= {
                tuple(o[j] if k == i else o[i] if k == j else o[k] for k in range(4))
                for o in reached
                for i in range(4)
                for j in range(i)
            }
            steps += 1
        return steps

    for order in permutations(right):
        assert reorder.swap_deviation(right, list(order)) == fewest(order)


def test_labels_are_read_in_either_writing() -> None:
    assert reorder.order_labels("II, then IV and finally I; IV again") == ["2", "4", "1"]
    assert reorder.order_labels("3,5,1,4,2") == ["3", "5", "1", "4", "2"]
    assert reorder.order_labels("In 1999, first 2 and then 3.", among=["2", "3"]) == ["2", "3"]


def test_scores_of_whole_answers() -> None:
    scores = reorder.reorder_scores("3,5,1,4,2", "2, 4, 1, 5, 3")
    assert scores == {
        "location_square": 0.0, "location_mean": 0.0, "swap": 0.5, "swap_distance": 0.0, "exact": 0.0, "valid": 1.0
    }  # fmt: skip
    assert set(reorder.reorder_scores("II,I,III", "The order is 2, 1, 3.").values()) == {1.0}
    assert set(reorder.reorder_scores("1,2,3", "I do not know").values()) == {0.0}
    assert set(reorder.reorder_scores("1,2,3", "").values()) == {0.0}
