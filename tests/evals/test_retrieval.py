"""Chunks lose nothing, and those with a question's words are found and kept in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.errors import FarspanError
from farspan.evals.retrieval import best_chunks, chunks, piece_ends, terms


@given(st.text(alphabet="ab 山村,.\n", max_size=200), st.integers(1, 9))
def test_chunks_hold_the_text_and_no_more_than_their_size(text: str, size: int) -> None:
    parts = chunks(text, size)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(len(piece_ends(part)) <= size for part in parts)
    assert all(len(piece_ends(part)) == size for part in parts[:-1])


def test_pieces_are_words_ideographs_and_marks() -> None:
    assert piece_ends("Ada's 山村.") == [3, 4, 5, 7, 8, 9]
    assert terms("Ada's 山村, ADA.") == ["ada", "s", "山", "村", "ada"]


def test_the_chunks_with_the_words_of_the_question_come_in_the_order_of_the_text() -> None:
    parts = [f"filler number {i} of nothing" for i in range(20)]
    parts[3], parts[17] = "the lighthouse keeper was Ida", "Ida left the lighthouse"
    found = best_chunks("Who kept the lighthouse? Ida", parts, 2)
    assert (found.indices, found.total) == ((3, 17), 20)
    assert found.texts == (parts[3], parts[17])


def test_without_a_known_word_the_beginning_is_read() -> None:
    parts = ["one", "two", "three"]
    assert best_chunks("zebra", parts, 2).indices == (0, 1)
    assert best_chunks("three", parts, 9).indices == (0, 1, 2)
    assert best_chunks("x", [], 2).total == 0


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(FarspanError, match="1 or more"):
        chunks("a", 0)
    with pytest.raises(FarspanError, match="1 or more"):
        best_chunks("a", ["a"], 0)
