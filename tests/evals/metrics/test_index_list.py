"""Lists of item numbers in answers: both readings, bounds, and the floor of naming everything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.evals.metrics.index_list import all_wrong_f1, longins_f1, num_errors, parse_index_list

ITEMS = st.sets(st.integers(0, 500), min_size=1, max_size=20)


@given(ITEMS)
def test_a_plain_list_is_read_alike_by_both(items: set[int]) -> None:
    response = f"The wrong ones are {sorted(items)}."
    for mode in ("official", "lenient"):
        assert parse_index_list(response, mode) == sorted(items)
        assert longins_f1(response, items, mode)["f1"] == 1.0


@given(st.text(), ITEMS)
def test_any_answer_has_a_score(response: str, items: set[int]) -> None:
    for mode in ("official", "lenient"):
        found = longins_f1(response, items, mode)
        assert all(0.0 <= float(str(found[name])) <= 1.0 for name in ("f1", "precision", "recall"))


def test_the_lenient_reading_forgives_form() -> None:
    thinking = "Item [3] says 4 and is right. Item [5] is wrong.\nSo: [5,\n 7-9]"
    assert parse_index_list(thinking) == [3, 5]
    assert parse_index_list(thinking, "lenient") == [5, 7, 8, 9]
    assert parse_index_list("［3、5］", "lenient") == [3, 5]
    assert parse_index_list("[] none", "lenient") == []
    assert parse_index_list("[1-999999999]", "lenient") == [1, 999999999]


@pytest.mark.parametrize("n", [1, 9, 40, 230])
def test_naming_everything_is_a_floor(n: int) -> None:
    errors = num_errors(n)
    everything = longins_f1(str(list(range(n))), set(range(errors)))
    assert everything["f1"] == pytest.approx(all_wrong_f1(n, errors))
