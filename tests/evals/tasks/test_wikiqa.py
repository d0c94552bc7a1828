"""Questions on documents: pairs that differ in one number, bands, both places of the question, and who remembers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farspan.evals.generate import TokenCounter
from farspan.evals.metrics import whole_number_pattern
from farspan.evals.rows import RowError
from farspan.evals.tasks.altered_numbers import altered_range
from farspan.evals.tasks.family import KnobError
from farspan.evals.tasks.wikiqa import BANDS, WikiQA, context_reliance, read_wikiqa


@pytest.fixture(scope="module")
def family(byte_counter: TokenCounter) -> WikiQA:
    return WikiQA(byte_counter)


@pytest.mark.parametrize("index", range(12))
def test_intact_and_altered_documents_differ_in_the_number_alone(family: WikiQA, index: int) -> None:
    intact, altered = (family.sample(task, 2048, index, 3) for task in ("intact", "altered"))
    (known,), (changed,) = intact.answers, altered.answers
    assert intact.question == altered.question
    assert intact.metadata["memory_answer"] == altered.metadata["memory_answer"] == known != changed
    limits = altered_range(known)
    assert limits["lo"] <= int(changed) <= limits["hi"]
    assert whole_number_pattern(known).sub(changed, intact.text) == altered.text
    assert len(whole_number_pattern(known).findall(intact.text)) == 1
    assert whole_number_pattern(known).search(altered.text) is None
    for sample in (intact, altered):
        assert family.counter.count(sample.text) == sample.metadata["n_context_tokens"]
        (span,) = sample.evidence_spans
        assert sample.answers[0] in sample.text[span.start_char : span.end_char]


def test_who_remembers_is_told_from_who_reads(family: WikiQA) -> None:
    pairs = [[family.sample(task, 2048, index, 0) for task in ("intact", "altered")] for index in range(8)]
    remembered = [family.scores(sample, str(sample.metadata["memory_answer"])) for pair in pairs for sample in pair]
    assert [figures["score"] for figures in remembered] == [1.0, 0.0] * 8
    assert [figures["memory"] for figures in remembered] == [0.0, 1.0] * 8
    copied = family.scores(pairs[0][1], pairs[0][1].text)
    assert copied["score"] == 1
    assert copied["answer_chars"] > 3000
    assert context_reliance(3, 1) == 0.75
    assert context_reliance(0, 0) is None
    assert family.scores(pairs[0][1], "")["no_answer"] == 1


@pytest.mark.parametrize("place", ["start", "random", "end"])
def test_the_answer_stands_in_its_band(family: WikiQA, place: str) -> None:
    low, high = BANDS[place]
    for index in range(10):
        sample = family.sample("ffqa", 3000, index, 0, answer_position=place)
        (span,) = sample.evidence_spans
        assert low - 1 <= 100 * span.start_char / len(sample.text) <= high + 1
        assert sample.text.count(sample.answers[0]) == 1
        assert family.solve(sample) == sample.answers


def test_six_variants_of_an_item_share_question_answer_and_sentences(family: WikiQA) -> None:
    variants = [
        family.sample("ffqa", 3000, 4, 0, answer_position=answer, question_position=question)
        for answer in ("start", "random", "end")
        for question in ("start", "end")
    ]
    assert len({tuple(sample.answers) for sample in variants}) == 1
    assert len({str(sample.metadata["asked"]) for sample in variants}) == 1
    first = [sample for sample in variants if sample.metadata["question_position"] == "start"]
    assert all(not sample.question and "Question: " in sample.text[:200] for sample in first)
    assert all(family.solve(sample) == sample.answers for sample in variants)
    one, other = (set(sample.text.split("\n")[-2].split(". ")) for sample in first[:2])
    assert len(one ^ other) <= 4


def test_an_answer_can_be_said_several_times(family: WikiQA) -> None:
    sample = family.sample("altered", 3000, 0, 0, mentions=3)
    assert len(whole_number_pattern(sample.answers[0]).findall(sample.text)) == 3
    assert len(sample.evidence_spans) == 3


def test_what_cannot_be_made_is_refused(family: WikiQA) -> None:
    with pytest.raises(KnobError, match="one question a document"):
        family.sample("ffqa", 2048, 0, 0, questions_per_context=2)
    with pytest.raises(KnobError, match="use a longer one"):
        [family.sample("ffqa", 180, index, 0, answer_position="random") for index in range(40)]


def test_published_rows_and_own_documents_are_read(tmp_path: Path) -> None:
    rows = [{"conversations": [{"value": f"prompt {i}", "tok_len": 100 * i}, {"value": " 7 "}]} for i in range(6)]
    published = tmp_path / "rows.jsonl"
    published.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = list(read_wikiqa(str(published), "altered", tok_limit=400))
    assert [sample.text for sample in found] == [f"prompt {i}" for i in range(5)]
    assert [sample.metadata["question_position"] for sample in found[:2]] == ["end", "start"]
    assert found[0].answers == ["7"]
    own = tmp_path / "own.jsonl"
    own.write_text('{"document": "A is 7.", "question": "What is A?", "answer": "7"}', encoding="utf-8")
    (sample,) = read_wikiqa(str(own), "ffqa")
    assert sample.text.endswith("A is 7.\n")
    assert WikiQA.scores(sample, "It is 7.")["score"] == 1
    own.write_text('{"document": "A"}', encoding="utf-8")
    with pytest.raises(RowError, match="row 0 has neither"):
        list(read_wikiqa(str(own), "ffqa"))
