"""The three rules of presence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.errors import FarspanError
from farspan.evals.metrics import presence


@pytest.mark.parametrize(
    ("ref", "output", "official", "token", "normalised"),
    [
        ("7", "It was 17.", 1, 0, 0),
        ("7", "It was 7.", 1, 1, 1),
        ("7", "It was 7.5", 1, 0, 1),
        ("3.5", "about 3.50", 1, 0, 0),
        ("1921", "in 1921, then", 1, 1, 1),
        ("Paris", "the answer is paris", 0, 0, 1),
        ("art", "a party", 1, 0, 0),
        ("The Old Mill", "an old mill!", 0, 0, 1),
        ("Café", "Cafe\u0301 open", 0, 0, 1),
        (" Paris ", "Paris", 1, 1, 1),
        ("", "anything", 1, 1, 1),
    ],
)
def test_rules(ref: str, output: str, official: int, token: int, normalised: int) -> None:
    assert presence(ref, output) == official
    assert presence(ref, output, "token") == token
    assert presence(ref, output, "normalised") == normalised


@given(st.text(), st.text())
def test_token_presence_implies_official_presence(ref: str, output: str) -> None:
    assert presence(ref, output, "token") <= presence(ref, output)


def test_unknown_rule() -> None:
    with pytest.raises(FarspanError, match="'official', 'token' or 'normalised'"):
        presence("a", "a", "loose")  # type: ignore[arg-type]
