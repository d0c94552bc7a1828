"""Scoring of identifier answers: extraction, shares, order, and near misses."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.errors import FarspanError
from farspan.evals.metrics import copy_errors, extract_uuids, uuid_match
from farspan.evals.tasks.uuid_threads import uuid_haystack

UUIDS = [key for key, _ in uuid_haystack(0, 8)]


def test_extracts_in_order_and_lower_case() -> None:
    assert extract_uuids(f'["{UUIDS[0].upper()}", {UUIDS[1]}].') == UUIDS[:2]


def test_embedded_in_longer_hex_is_none() -> None:
    assert extract_uuids("a" + UUIDS[0]) == []
    assert extract_uuids(UUIDS[0] + "0") == []


def test_last_counts_the_last_one_only() -> None:
    assert uuid_match(f"first {UUIDS[1]} then {UUIDS[0]}", [UUIDS[0]])["score"] == 1.0
    assert uuid_match(f"first {UUIDS[0]} then {UUIDS[1]}", [UUIDS[0]])["score"] == 0.0


@given(found=st.sets(st.integers(0, 7)), asked=st.sets(st.integers(0, 7), min_size=1), shuffle=st.randoms())
@settings(max_examples=60, deadline=None)
def test_all_is_the_share_of_answers_whatever_the_order(found: set[int], asked: set[int], shuffle: Random) -> None:
    listed = [UUIDS[i] for i in found] * 2
    shuffle.shuffle(listed)
    result = uuid_match(", ".join(listed), [UUIDS[i] for i in sorted(asked)], "all")
    assert result["score"] == len(found & asked) / len(asked)
    assert result["n_predicted"] == len(found)
    assert result["precision"] == (len(found & asked) / len(found) if found else 0.0)
    assert result["all_correct"] == (asked <= found)
    assert result["no_answer"] == (not found)


def test_exact_order() -> None:
    assert uuid_match(" ".join(UUIDS[:3]), UUIDS[:3], "all")["exact_order"]
    assert not uuid_match(" ".join(UUIDS[2::-1]), UUIDS[:3], "all")["exact_order"]


@pytest.mark.parametrize(
    "damage", [lambda u: u[:-1] + ("0" if u[-1] != "0" else "1"), lambda u: u[:-1], lambda u: u + "a", lambda u: u[2:]]
)
def test_a_miscopied_answer_is_wrong_but_counted(damage) -> None:  # type: ignore[no-untyped-def]
    result = uuid_match(f"It is {damage(UUIDS[0])}.", [UUIDS[0]])
    assert result["score"] == 0.0
    assert result["copy_errors"] == 1


def test_a_different_identifier_is_no_copy_error() -> None:
    assert copy_errors(UUIDS[1], [UUIDS[0]]) == 0
    assert copy_errors(UUIDS[0], [UUIDS[0]]) == 0


def test_bad_input_names_the_choices() -> None:
    with pytest.raises(FarspanError, match="'last' or 'all'"):
        uuid_match("", UUIDS[:1], "any")  # type: ignore[arg-type]
    with pytest.raises(FarspanError, match="at least one answer"):
        uuid_match("x", [])
