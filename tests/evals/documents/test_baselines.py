"""Answers that no model made: what they are, and what they score."""

from __future__ import annotations

from pathlib import Path

import pytest

from farspan.evals.documents import BenchmarkError, benchmark
from farspan.evals.documents.asking import Fitter
from farspan.evals.documents.baselines import BaselineVoice
from farspan.evals.documents.run import DocumentRun, run_documents
from tests.evals.tasks.document_rows import write_jsonl

FILLER = "山村很远。" * 90
ROWS = [{"context": f"第{i}章。{FILLER}第{i}章完。", "summary": f"第{i}个故事的摘要"} for i in range(3)]


def run(folder: Path, name: str) -> DocumentRun:
    write_jsonl(folder / "cnnsum_L_16k.jsonl", ROWS)
    made = benchmark("cnnsum", checked=False)
    return run_documents(Fitter(made, "fixed"), BaselineVoice(name, made, folder), made.chosen(["L"]), data_dir=folder)


def test_beginnings_ends_and_the_answers_of_the_next(tmp_path: Path) -> None:
    lead, last, following = (
        [one.prediction for one in run(tmp_path, name).scored if one.sample.task == "L-IE"]
        for name in ("lead-400", "last-4", "next-reference")
    )
    assert lead == [row["context"][:400] for row in ROWS]
    assert last == [row["context"][-4:] for row in ROWS]
    assert following == [ROWS[i]["summary"] for i in (1, 2, 0)]


def test_the_level_of_chance_stands_in_every_table(tmp_path: Path) -> None:
    chance = run(tmp_path, "next-reference").table
    for order in ("IE", "IB"):
        level = chance.value("L", f"{order}, summaries of the next excerpts")
        assert level is not None
        assert 0 < level < 100
        assert run(tmp_path, "lead-400").table.value("L", f"{order}, summaries of the next excerpts") == level
        assert chance.value("L", order) == level
    assert run(tmp_path, "lead-400").table.value("L", "IE, copied from the excerpt") == 100.0


@pytest.mark.parametrize("name", ["lead", "lead-0", "last-x", "first-4", "next"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(BenchmarkError, match="lead-400"):
        BaselineVoice(name, benchmark("cnnsum"))


def test_one_document_has_no_next(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "cnnsum_L_16k.jsonl", ROWS[:1])
    made = benchmark("cnnsum", checked=False)
    with pytest.raises(BenchmarkError, match="needs two"):
        run_documents(
            Fitter(made, "fixed"),
            BaselineVoice("next-reference", made, tmp_path),
            made.chosen(["L"]),
            data_dir=tmp_path,
        )
