"""Kinds of odd predictions, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.evals.documents.kinds import HUGE_CHARACTERS, prediction_kinds


@pytest.mark.parametrize(
    ("text", "language", "kinds"),
    [
        ("", "en", ("empty",)),
        (" \n\t", "zh", ("empty",)),
        ("Ida Brandt", "en", ()),
        ("北京", "en", ()),
        ("这是一个很长的中文回答，不是英文", "en", ("wrong_script",)),
        ("this is an English answer", "zh", ("wrong_script",)),
        ("这是中文 with some English", "zh", ()),
        ("return x", "code", ()),
        ("это длинный ответ", "code", ()),
        ('{"a": 1}', "en", ()),
        ('{"a": ', "en", ("half_json",)),
        ("[1] as the first source says", "en", ()),
        ("tab\tand\nline", "en", ()),
        ("bell\x07", "en", ("control_characters",)),
        ("half \ud800", "en", ("control_characters",)),
        ("x" * (HUGE_CHARACTERS + 1), "en", ("huge",)),
    ],
)
def test_kinds(text: str, language: str, kinds: tuple[str, ...]) -> None:
    assert prediction_kinds(text, language) == kinds


@given(text=st.text(), language=st.sampled_from(["en", "zh", "code", "xx"]))
def test_any_text_has_kinds(text: str, language: str) -> None:
    assert set(prediction_kinds(text, language)) <= {
        "empty",
        "huge",
        "control_characters",
        "wrong_script",
        "half_json",
    }
