"""Published files of LongBioBench, made up here in their form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from farspan.evals.rows import RowError
from farspan.evals.tasks.family import score_sample
from farspan.evals.tasks.longbiobench import LongBioBench, haystack_budget

BIOS = [
    "The biography of Ava Bea Cole. Ava Bea Cole is 61 years old. Ava Bea Cole likes chess. The end.",
    "The biography of Dan Eli Fox. Dan Eli Fox is 43 years old. Dan Eli Fox likes archery. The end.",
    "The biography of Gus Hal Ives. Gus Hal Ives is 30 years old. Gus Hal Ives likes pottery. The end.",
]


def item(question: str, answer: object, **fields: object) -> dict[str, Any]:
    return {"Question": question, "Question_prefix": "the hobby is", "Answer": answer, "Rationale": "", **fields}


def write(folder: Path, skill: str, *asked: dict[str, Any]) -> None:
    record = {"context": BIOS, "token_length": 2048, "questions": {"NLG": list(asked)}}
    (folder / f"data_{skill}.json").write_text(json.dumps([record, record]), encoding="utf-8")


def test_values_lists_and_examples(tmp_path: Path) -> None:
    start = BIOS[1].index("Dan Eli Fox likes")
    span = [[start, start + len("Dan Eli Fox likes archery. ")]]
    where = {"position_in_list": [1], "position_in_bios": span}
    write(tmp_path, "standard", item("What does Dan Eli Fox like?", "archery", **where))
    samples = list(LongBioBench.read_published(str(tmp_path), "standard"))
    assert len(samples) == 2
    assert samples[0].text == "\n".join(BIOS) + "\n"
    assert samples[0].length == 2048
    assert score_sample(samples[0], "Archery!")["score"] == 1.0
    (sample, _) = LongBioBench.read_published(str(tmp_path), "idk")
    (intact,) = LongBioBench.companions(sample)
    assert "archery" not in sample.text
    assert intact.text == samples[0].text
    assert score_sample(sample, "That is not stated.", ["archery"])["score"] == 1.0
    assert score_sample(sample, "That is not stated.", ["chess"])["score"] == 0.0
    shown = item("And Ava Bea Cole?", ["chess", "go"], Rationale="It is chess, then go.")
    write(tmp_path, "multi_standard", item("Which?", ["archery", "pottery"]), shown)
    (several, _) = LongBioBench.read_published(str(tmp_path), "multi_standard_2")
    assert several.question == "Question: And Ava Bea Cole?\nAnswer: It is chess, then go.\n\nQuestion: Which?\n"
    assert score_sample(several, "archery and pottery")["score"] == 1.0
    assert score_sample(several, "pottery and archery")["score"] == 0.0


def test_ages_pairs_and_citations(tmp_path: Path) -> None:
    write(tmp_path, "calculation", item("How far apart?", 18))
    write(tmp_path, "twodiff", item("Which two?", {"age_difference": 18, "ref_names": ["Ava Bea Cole", "Dan Eli Fox"]}))
    write(tmp_path, "citation", item("What?", ["archery"], position_in_list=[1]))
    (numbers, _) = LongBioBench.read_published(str(tmp_path), "calculation")
    assert score_sample(numbers, "61 - 43 = 18")["score"] == 1.0
    (pair, _) = LongBioBench.read_published(str(tmp_path / "data_twodiff.json"), "twodiff")
    assert score_sample(pair, "Ava Bea Cole and Dan Eli Fox")["score"] == 1.0
    assert score_sample(pair, "Ava Bea Cole and Gus Hal Ives")["score"] == 0.0
    (cited, _) = LongBioBench.read_published(str(tmp_path), "citation_1")
    assert cited.text.startswith("[0] The biography of Ava")
    assert score_sample(cited, "archery [1]")["score"] == 1.0
    assert score_sample(cited, "archery [2]")["score"] == 0.0


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RowError, match="no published file of 'rank_2'"):
        list(LongBioBench.read_published(str(tmp_path), "rank_2"))
    (tmp_path / "data_rank.json").write_text('[{"context": "text", "questions": {}}]', encoding="utf-8")
    with pytest.raises(RowError, match="row 0: 'context' is a list"):
        list(LongBioBench.read_published(str(tmp_path), "rank_2"))


def test_budget() -> None:
    assert haystack_budget(128, 1, False) == {"total_needles": 1, "haystack_tokens": 130_722}
