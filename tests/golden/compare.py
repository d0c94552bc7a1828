"""Comparing nested values within a tolerance, for golden adapters. It compares; it neither computes nor reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set


def assert_close(
    actual: object, expected: object, rtol: float = 1e-9, atol: float = 0.0, *, path: str = "value"
) -> None:
    """Raise `AssertionError`, naming the place, unless two nested values agree.

    Mappings must have the same keys (compared as text, since JSON has no others), sequences the same length. Floats
    agree if `|actual - expected| <= atol + rtol * |expected|`; NaN agrees with NaN, an infinity with itself; integers,
    booleans, texts and None only with their equals. Arrays and tensors are compared as nested lists.

    Parameters
    ----------
    actual : the computed value
    expected : the golden value, as read from JSON
    rtol, atol : tolerances relative to the expected value, and absolute
    path : name of the value in messages
    """
    actual, expected = _plain(actual), _plain(expected)
    if isinstance(expected, Mapping):
        _require(isinstance(actual, Mapping), path, actual, expected)
        left = {str(key): value for key, value in actual.items()}
        right = {str(key): value for key, value in expected.items()}
        missing, extra = sorted(right.keys() - left.keys()), sorted(left.keys() - right.keys())
        if missing or extra:
            raise AssertionError(f"{path}: missing keys {missing}, unexpected keys {extra}")
        for key, value in right.items():
            assert_close(left[key], value, rtol, atol, path=f"{path}.{key}")
    elif isinstance(expected, Sequence) and not isinstance(expected, str | bytes):
        _require(isinstance(actual, Sequence) and not isinstance(actual, str | bytes), path, actual, expected)
        if len(actual) != len(expected):
            raise AssertionError(f"{path}: length {len(actual)}, expected {len(expected)}")
        for index, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_close(one, other, rtol, atol, path=f"{path}[{index}]")
    elif _is_number(actual) and _is_number(expected):
        _require(_numbers_agree(actual, expected, rtol, atol), path, actual, expected)
    else:
        _require(type(actual) is type(expected) and actual == expected, path, actual, expected)


def _plain(value: object) -> object:
    to_list = getattr(value, "tolist", None)
    if callable(to_list):
        return to_list()
    return sorted(value) if isinstance(value, Set) else value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers_agree(actual: float, expected: float, rtol: float, atol: float) -> bool:
    if isinstance(actual, int) and isinstance(expected, int):
        return actual == expected
    if math.isnan(expected):
        return math.isnan(actual)
    if math.isinf(expected) or math.isinf(actual):
        return actual == expected
    return abs(actual - expected) <= atol + rtol * abs(expected)


def _require(agrees: bool, path: str, actual: object, expected: object) -> None:
    if not agrees:
        raise AssertionError(f"{path}: {_short(actual)}, expected {_short(expected)}")


def _short(value: object, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
