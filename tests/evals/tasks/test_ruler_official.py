"""Published texts of RULER from a folder made here in their form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farspan.errors import FarspanError
from farspan.evals.generate import TokenCounter
from farspan.evals.tasks.ruler import Ruler
from farspan.evals.tasks.ruler_official import essay_haystack, read_samples_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    essays = "One idea leads to another.  Work on hard problems! " * 30
    (tmp_path / "PaulGrahamEssays.json").write_text(json.dumps({"text": essays}), encoding="utf-8")
    paragraphs = [
        {
            "context": f"Paragraph {i} of the article tells that the tower has {100 + i} steps.",
            "qas": [
                {"question": f"How many steps has tower {i}?", "answers": [{"text": str(100 + i)}, {"text": "many"}]},
                {"question": "Unanswerable?", "answers": [], "is_impossible": True},
            ],
        }
        for i in range(12)
    ]
    squad = {"data": [{"paragraphs": paragraphs[:6]}, {"paragraphs": paragraphs[6:]}]}
    (tmp_path / "squad.json").write_text(json.dumps(squad), encoding="utf-8")
    hotpot = [
        {
            "question": f"Who wrote book {i}?",
            "answer": f"Author {i}",
            "supporting_facts": [[f"Book {i}", 0], [f"Author {i}", 0]],
            "context": [
                [f"Book {i}", [f"Book {i} is a novel by Author {i}."]],
                [f"Author {i}", [f"Author {i} writes."]],
                [f"Film {i}", [f"Film {i} is long."]],
            ],
        }
        for i in range(8)
    ]
    (tmp_path / "hotpotqa.json").write_text(json.dumps(hotpot), encoding="utf-8")
    return tmp_path


def test_essays_fill_the_haystack(folder: Path, byte_counter: TokenCounter) -> None:
    ruler = Ruler(byte_counter)
    sample = ruler.sample("niah_single_2", 2500, 0, 0, data_dir=str(folder))
    assert "Work on hard problems! One idea leads to another." in sample.text
    assert byte_counter.count(sample.text + sample.question + sample.answer_prefix) < 2500
    assert ruler.solve(sample) == sample.answers
    haystack = essay_haystack(str(folder))
    assert haystack.units(0, 3) == haystack.units(5, 3)


def test_published_questions_come_with_their_documents(folder: Path, byte_counter: TokenCounter) -> None:
    ruler = Ruler(byte_counter)
    one = ruler.sample("qa_1", 600, 3, 0, data_dir=str(folder))
    assert one.question == "Question: How many steps has tower 3?\n"
    assert one.answers == ["103", "many"]
    assert "Paragraph 3 of the article" in one.text
    assert one.metadata["comparability"] == "official"
    assert ruler.score(one, "It has many steps.") == 1.0
    two = ruler.sample("qa_2", 900, 2, 0, data_dir=str(folder))
    assert {"Book 2\nBook 2 is", "Author 2\nAuthor 2 writes."} <= {
        found for found in ("Book 2\nBook 2 is", "Author 2\nAuthor 2 writes.") if found in two.text
    }
    with pytest.raises(FarspanError, match="no programmatic answer"):
        ruler.solve(two)


def test_whole_files_are_read_as_they_are(folder: Path) -> None:
    rows = [
        {"index": 0, "input": "text one", "outputs": ["17"], "length": 4000, "answer_prefix": " It is"},
        {"index": 1, "input": "text two", "outputs": ["18", "19"], "length": 4000},
    ]
    path = folder / "vt" / "validation.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    first, second = read_samples_of(str(folder), "vt")
    assert (first.text, first.answer_prefix, first.answers) == ("text one", " It is", ["17"])
    assert Ruler.score(second, "19") == 0.5
    with pytest.raises(FarspanError, match="no published samples of cwe"):
        list(read_samples_of(str(folder), "cwe"))


def test_missing_and_misshapen_files_are_named(folder: Path, byte_counter: TokenCounter, tmp_path: Path) -> None:
    ruler = Ruler(byte_counter)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FarspanError, match=r"cannot read .*squad\.json"):
        ruler.sample("qa_1", 600, 0, 0, data_dir=str(empty))
    (empty / "squad.json").write_text('{"articles": []}', encoding="utf-8")
    with pytest.raises(FarspanError, match="form of the published file"):
        ruler.sample("qa_1", 600, 0, 0, data_dir=str(empty))
    (empty / "PaulGrahamEssays.json").write_text("[]", encoding="utf-8")
    with pytest.raises(FarspanError, match="under 'text'"):
        ruler.sample("niah_single_2", 600, 0, 0, data_dir=str(empty))
