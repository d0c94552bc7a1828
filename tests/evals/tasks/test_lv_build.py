"""Levels built out of one's own documents: lengths, what shorter levels hold, replacements and confusing facts."""

from __future__ import annotations

from itertools import pairwise

import pytest

from farspan.evals.schema import LongSample
from farspan.evals.tasks.lv_build import LevelError, Question, build_leveled, build_recall, count_chars, count_words

QUESTION = Question(
    question="Who built the mill again?",
    answers=("Ada Winter",),
    documents=(
        "The mill burned down. Ada Winter built it again. It stands today.",
        "Ada Winter came from Oslo. She was 30.",
    ),
    keywords="Ada Winter",
    confusing_facts=("Ben Winter never built a mill.", "Ada Winter sold a house."),
    replacements={"Ada Winter": "Kim Vale", "Oslo": "Turku"},
)
OTHERS = [f"Report {i}. " + f"The harbour of town {i} was dug in year {1500 + i}. " * 3 for i in range(60)]
LEVELS = {"200": 200, "400": 400, "800": 800}


def built(**settings: object) -> list[LongSample]:
    return list(build_leveled([QUESTION], OTHERS, LEVELS, **settings))  # type: ignore[arg-type]


def body(sample: LongSample) -> list[str]:
    return [part.split("\n", 1)[1] for part in sample.text.split("\n\n")]


def test_levels_are_full_to_within_a_document_and_hold_the_shorter_ones() -> None:
    found = built()
    longest = max(map(count_words, OTHERS))
    for sample, length in zip(found, LEVELS.values(), strict=True):
        words = sum(map(count_words, body(sample)))
        assert length - longest < words - sum(map(count_words, QUESTION.confusing_facts)) <= length
    for shorter, longer in pairwise(found):
        kept = [text for text in body(longer) if text in set(body(shorter))]
        assert kept == body(shorter)
    for sample in found:
        positions = sample.metadata["positions"]
        assert isinstance(positions, list)
        assert all("Kim Vale" in body(sample)[place] for place in positions)


def test_replaced_words_are_gone_and_facts_stand_once() -> None:
    for sample in built():
        assert (sample.answers, sample.answer_keywords) == (["Kim Vale"], "Kim Vale")
        assert "Ada" not in sample.text
        assert "Turku" in sample.text
        for fact in ("Ben Winter never built a mill.", "Kim Vale sold a house."):
            assert sample.text.count(fact) == 1


@pytest.mark.parametrize("facts", [True, False])
@pytest.mark.parametrize("replace", [True, False])
def test_the_two_switches_give_four_versions_of_the_same_questions(facts: bool, replace: bool) -> None:
    sample = built(confusing_facts=facts, replace_keywords=replace)[0]
    assert ("never built" in sample.text) == facts
    assert ("Kim Vale" in sample.text) == replace == ("Ada Winter" not in sample.text)


def test_seeds_reproduce() -> None:
    assert built(seed=3) == built(seed=3) != built(seed=4)


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(LevelError, match="needs more text"):
        list(build_leveled([QUESTION], OTHERS[:2], {"1k": 1000}))
    with pytest.raises(LevelError, match="already have"):
        list(build_leveled([QUESTION], OTHERS, {"tiny": 10}))
    known = QUESTION.model_copy(update={"replacements": {"Oslo": "Report"}})
    with pytest.raises(LevelError, match="'Report' stands in the text"):
        list(build_leveled([known], OTHERS, LEVELS))
    with pytest.raises(LevelError, match="two or more"):
        list(build_recall("x", "q", ["a"], OTHERS, 100, positions=1))


def test_chinese_words_are_replaced_inside_sentences_and_counted_by_characters() -> None:
    question = Question(
        question="谁造了桥？", answers=("林海",), documents=("桥是林海造的。它很长。",), replacements={"林海": "周明"}
    )
    texts = [f"第{i}号港口建于{1500 + i}年。它很深。" for i in range(40)]
    (sample,) = build_leveled([question], texts, {"100": 100}, count=count_chars, language="zh")
    assert "桥是周明造的。" in sample.text
    assert sample.answers == ["周明"]


def test_a_fact_walks_through_the_same_text() -> None:
    sentences = [f"Sentence {i} is here." for i in range(50)]
    found = list(build_recall("The bell is green.", "What colour?", ["green"], sentences, 120, positions=5))
    assert [sample.depth for sample in found] == [0.0, 25.0, 50.0, 75.0, 100.0]
    assert found[0].text.startswith("The bell")
    assert found[-1].text.endswith("The bell is green.")
    assert (
        len({sample.text.replace("The bell is green. ", "").replace(" The bell is green.", "") for sample in found})
        == 1
    )
