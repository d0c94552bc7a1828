"""Substring recall: shares, empty predictions, listing everything, bad input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.errors import FarspanError
from farspan.evals.metrics import match_any, match_share, postprocess_pred, string_match_all, string_match_part


@given(st.lists(st.text(min_size=1), min_size=1))
def test_listing_everything_scores_full(references: list[str]) -> None:
    everything = " ".join(references)
    assert string_match_all([everything], [references]) == 100.0
    assert string_match_part([everything], [references]) == 100.0


@given(st.lists(st.text(min_size=1), min_size=1))
def test_saying_nothing_scores_nothing(references: list[str]) -> None:
    assert string_match_all([""], [references]) == 0.0
    assert string_match_part([""], [references]) == 0.0


def test_mean_of_shares_is_rounded_once() -> None:
    assert string_match_all(["a", "b"], [["a", "x", "y"], ["b"]]) == 66.67
    assert match_share("A b", ["a", "c"]) == 0.5
    assert match_any("A b", ["c", "B"]) == 1.0


@given(st.text())
def test_postprocessing_twice_changes_nothing(prediction: str) -> None:
    once = postprocess_pred(prediction)
    assert postprocess_pred(once) == once
    assert not any(ord(char) < 32 and char != "\n" for char in once)


@pytest.mark.parametrize(("predictions", "references"), [([], []), (["a"], []), (["a"], [[]])])
def test_bad_input(predictions: list[str], references: list[list[str]]) -> None:
    with pytest.raises(FarspanError):
        string_match_all(predictions, references)
    with pytest.raises(FarspanError):
        string_match_part(predictions, references)
