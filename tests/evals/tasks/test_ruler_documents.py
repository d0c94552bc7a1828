"""Documents of institutes and towns: every question is answered by the text, and only with the documents it needs."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.errors import FarspanError
from farspan.evals.tasks.ruler_documents import answer_from_text, institute, one_hop, town, two_hop

WORDS = {"adjectives": ["calm", "old"], "nouns": ["garden", "lamp"], "verbs": ["sing", "skate"]}


@given(st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_the_text_answers_both_kinds_of_questions(seed: int) -> None:
    rng = Random(seed)
    home = town(rng, WORDS)
    entry = institute(rng, WORDS, home.name)
    others = [institute(rng, WORDS) for _ in range(3)] + [town(rng, WORDS) for _ in range(3)]
    texts = [one.text for one in (*others, entry, home)]
    rng.shuffle(texts)
    context = "\n".join(texts)
    for asked in (one_hop(entry, rng), two_hop(entry, home, rng)):
        assert answer_from_text(context, asked.question) == asked.answer
        assert context.count(asked.answer) == 1
        assert asked.question.startswith("Question: ")
        assert asked.question.endswith("?\n")
        assert asked.answer not in asked.question + asked.answer_prefix


def test_two_hops_need_both_documents() -> None:
    rng = Random(1)
    home = town(rng, WORDS)
    entry = institute(rng, WORDS, home.name)
    asked = two_hop(entry, home, rng)
    for missing in (entry.text, home.text):
        with pytest.raises(FarspanError, match="do not say"):
            answer_from_text(missing, asked.question)


def test_documents_depend_on_the_seed_alone() -> None:
    assert institute(Random(5), WORDS) == institute(Random(5), WORDS)
    assert institute(Random(5), WORDS) != institute(Random(6), WORDS)


def test_other_questions_are_refused() -> None:
    with pytest.raises(FarspanError, match="no question"):
        answer_from_text("", "Question: why?\n")
