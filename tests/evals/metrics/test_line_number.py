"""First and last number of a reply."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.errors import FarspanError
from farspan.evals.metrics import line_number


def test_rules_differ_when_the_key_is_repeated() -> None:
    reply = "line 7: REGISTER_CONTENT is <2416>"
    assert line_number(reply, "first") == 7
    assert line_number(reply) == 2416


@given(st.lists(st.integers(0, 99999), min_size=1))
def test_reads_the_ends_of_a_list(numbers: list[int]) -> None:
    reply = "; ".join(map(str, numbers))
    assert (line_number(reply, "first"), line_number(reply, "last")) == (numbers[0], numbers[-1])


def test_no_number_and_bad_rule() -> None:
    assert line_number("none of them") == -1
    with pytest.raises(FarspanError, match="'first' or 'last'"):
        line_number("1", "middle")  # type: ignore[arg-type]
