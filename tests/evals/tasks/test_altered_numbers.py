"""Altered numbers: the old one is gone, the new one stands exactly in its places, nothing else moved."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.errors import FarspanError
from farspan.evals.metrics import whole_number_pattern
from farspan.evals.tasks.altered_numbers import alter_number, altered_range, replace_number, wikiqa_row_labels

pieces = st.lists(
    st.one_of(st.integers(0, 99999).map(str), st.sampled_from(["in", "of 1,921", "3.7", "year", "1921-22", "共", "."])),
    max_size=20,
).map(" ".join)


@given(answer=st.integers(0, 99999), before=pieces, after=pieces, seed=st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_only_the_whole_number_changes(answer: int, before: str, after: str, seed: int) -> None:
    old = str(answer)
    document = f"{before} in {old} of {after}"
    new, altered = alter_number(old, document, Random(seed))
    count = len(whole_number_pattern(old).findall(document))
    assert count >= 1
    assert whole_number_pattern(old).search(altered) is None
    assert len(whole_number_pattern(new).findall(altered)) == count
    assert replace_number(altered, new, old) == document
    limits = altered_range(old)
    assert limits["lo"] <= int(new) <= limits["hi"]
    assert new != old


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7 17 70 7.", "N 17 70 N."),
        ("7.5, 3.7, 7,000 and 1,007", "7.5, 3.7, 7,000 and 1,007"),
        ("7, 7; (7)", "N, N; (N)"),
        ("7-8", "N-8"),
    ],
)
def test_whole_numbers(text: str, expected: str) -> None:
    assert replace_number(text, "7", "N") == expected


def test_a_document_that_holds_every_number_is_refused() -> None:
    with pytest.raises(FarspanError, match="every number"):
        alter_number("3", "0 1 2 3 4 5 6 7 8 9", Random(0))


@pytest.mark.parametrize("answer", ["", "ten", "3.5", "-4", "１９"])
def test_only_plain_integers(answer: str) -> None:
    with pytest.raises(FarspanError, match=re.escape("plain integers")):
        altered_range(answer)


def test_rows_come_in_blocks_of_six() -> None:
    labels = [wikiqa_row_labels(row) for row in range(6)]
    assert len({tuple(sorted(label.items())) for label in labels}) == 6
    assert wikiqa_row_labels(6) == labels[0]
