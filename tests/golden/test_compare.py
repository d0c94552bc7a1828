"""The comparison of nested values used by golden adapters."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.golden.compare import assert_close


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (1, 1),
        (1.0 + 1e-12, 1.0),
        ({"a": [1, 2.0], "b": None}, {"b": None, "a": [1, 2]}),
        ({8: "x"}, {"8": "x"}),
        (np.array([[1.0, 2.0]]), [[1.0, 2.0]]),
        (np.float32(0.5), 0.5),
        ((1, "a", True), [1, "a", True]),
        (math.nan, math.nan),
        (-math.inf, -math.inf),
    ],
)
def test_agrees(actual: object, expected: object) -> None:
    assert_close(actual, expected)


@pytest.mark.parametrize(
    ("actual", "expected", "place"),
    [
        (1.001, 1.0, "value"),
        (1, 2, "value"),
        (True, 1, "value"),
        ("1", 1, "value"),
        (None, 0, "value"),
        (0.0, math.nan, "value"),
        (math.nan, 0.0, "value"),
        (math.inf, -math.inf, "value"),
        ([1, 2], [1], "length 2"),
        ([], [1], "length 0"),
        ("ab", ["a", "b"], "value"),
        ({"a": 1, "c": 2}, {"a": 1, "b": 2}, "missing keys ['b']"),
        ({"a": [0, {"b": 1}]}, {"a": [0, {"b": 2}]}, "value.a[1].b"),
    ],
)
def test_disagrees_and_names_the_place(actual: object, expected: object, place: str) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_close(actual, expected)
    assert place in str(caught.value)


def test_tolerances() -> None:
    assert_close(100.5, 100.0, rtol=0.01)
    assert_close(1e-9, 0.0, atol=1e-8)
    with pytest.raises(AssertionError):
        assert_close(1e-9, 0.0, rtol=1.0)
