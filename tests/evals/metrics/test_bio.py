"""Hits, pairs, citations and refusals of biographies, beyond the golden values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from farspan.evals.metrics.bio import bio_hit, citation_hits, cut_base_reply, idk_score, twodiff_hit

PEOPLE = [("Ava Bea Cole", 61), ("Dan Eli Fox", 43), ("Gus Hal Ives", 43)]


def test_zero_counts_unless_the_official_rule_is_wanted() -> None:
    assert bio_hit("|40 - 40| = 0", 0) == 1
    assert bio_hit("|40 - 40| = 0", 0, official=True) == 0
    assert bio_hit("none", 0) == 0


@given(st.lists(st.text("abc ", min_size=1, max_size=4), min_size=1, max_size=5), st.text("abc ", max_size=5))
def test_a_list_in_its_order_is_found(items: list[str], between: str) -> None:
    assert bio_hit(between.join(items), items) == 1
    assert bio_hit(between.join(items), [*items, "d"]) == 0


def test_replies_end_where_the_next_question_begins() -> None:
    assert cut_base_reply("tea\n\nQuestion: next") == "tea\n\n"
    assert cut_base_reply("tea") == "tea"
    assert cut_base_reply("tea", official=True) == "te"


def test_pairs_need_two_names() -> None:
    assert twodiff_hit("Ava Bea Cole and Dan Eli Fox", PEOPLE, 18) == (1, 18)
    assert twodiff_hit("Ava Bea Cole, Ava Bea Cole", PEOPLE, 18) == (0, None)
    assert twodiff_hit("", PEOPLE, 18) == (0, None)


def test_citations_and_refusals() -> None:
    assert citation_hits("Iowa [4], Lima [9]", ["Iowa", "Lima"], ["[4]", "[9]"]) == (1, 1)
    assert citation_hits("Iowa, Lima", ["Iowa", "Lima"], ["[4]", "[9]"]) == (1, 0)
    assert [idk_score(intact, refused) for intact in (0, 1) for refused in (0, 1)] == [0, 0, 0, 1]
