"""Masks filled by an answer: what is read, what is never run, and how hits are counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.evals.metrics.cloze import cloze_exact_match, cloze_folded_match, cloze_partial_match, read_mapping

REFERENCE = {"<mask-0>": "Ann Lee", "<mask-1>": "Oslo"}


@given(st.dictionaries(st.text(min_size=1), st.text(), min_size=1))
def test_the_reference_itself_hits_every_mask(mapping: dict[str, str]) -> None:
    assert read_mapping(repr(mapping)) == mapping
    assert cloze_exact_match(mapping, repr(mapping)) == (len(mapping), len(mapping))


@given(st.text())
def test_any_text_is_read_or_counted_as_no_hit(text: str) -> None:
    for score in (cloze_exact_match, cloze_partial_match, cloze_folded_match):
        hits, masks = score(REFERENCE, text)
        assert 0 <= hits <= masks == 2


def test_answers_are_never_run() -> None:
    assert read_mapping("{'<mask-0>': __import__('os').getcwd()}") is None
    assert read_mapping("{" * 5000 + "}" * 5000) is None


@pytest.mark.parametrize(
    ("answer", "exact", "partial", "folded"),
    [
        ("{'<mask-0>': 'Ann Lee', '<mask-1>': 'Bergen'}", 1, 1, 1),
        ('{"<mask-0>": "Lee", "<mask-1>": "oslo"}', 0, 1, 1),
        ("The answer is {'<mask-0>': 'Ann Lee', '<mask-1>': 'Oslo'}.", 0, 0, 2),
        ("['Ann Lee', 'Oslo']", 0, 0, 0),
    ],
)
def test_hits(answer: str, exact: int, partial: int, folded: int) -> None:
    assert cloze_exact_match(REFERENCE, answer) == (exact, 2)
    assert cloze_partial_match(REFERENCE, answer) == (partial, 2)
    assert cloze_folded_match(REFERENCE, answer) == (folded, 2)
