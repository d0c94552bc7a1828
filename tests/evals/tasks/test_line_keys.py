"""Keys of lines: distinct, of their kind, and extending one another."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.errors import FarspanError
from farspan.evals.tasks.line_keys import KEY_OPTIONS, line_index, line_keys


@given(option=st.sampled_from(KEY_OPTIONS), n=st.integers(0, 140), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_keys_are_distinct_and_extend_the_shorter_record(option: str, n: int, seed: int) -> None:
    keys = line_keys(option, n, Random(seed))
    assert len(set(keys)) == len(keys) == n
    assert line_keys(option, n + 1, Random(seed))[:n] == keys


def test_codes_count_in_letters_up_to_their_limit() -> None:
    codes = line_index("abc", 6**6)
    assert codes[0] == "AAAAAA"
    assert codes[-1] == "FFFFFF"
    assert codes == sorted(codes)
    with pytest.raises(FarspanError, match="46656"):
        line_index("abc", 6**6 + 1)


def test_unknown_kind() -> None:
    with pytest.raises(FarspanError, match="nl, lrt, abc, uuid"):
        line_keys("roman", 3, Random(0))
    with pytest.raises(FarspanError, match="'lrt' and 'abc'"):
        line_index("nl", 3)
