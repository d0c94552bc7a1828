"""`farspan rank`: a table, a file of ranks, a first stage, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farspan.cli import main


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["rank", *map(str, arguments)])
    return int(ended.value.code or 0)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    file = tmp_path / "documents.jsonl"
    texts = ["The lighthouse keeper sleeps by day.", "A red key lies in the box.", "Boats leave at noon.", "Key of C."]
    file.write_text("".join(json.dumps({"doc_id": f"d{n}", "text": text}) + "\n" for n, text in enumerate(texts)))
    return file


def test_documents_are_ranked_and_written(documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ranks.jsonl"
    assert run("reference", "--query", "Where is the red key?", "--documents", documents, "--out", out) == 0
    shown = capsys.readouterr().out
    assert "4 of 4 documents" in shown
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["doc_id"] for row in rows} == {"d0", "d1", "d2", "d3"}
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)


def test_a_first_stage_leaves_the_best(documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ranks.jsonl"
    query = ("--query", "red key box", "--first-stage", "2", "--layer", "1")
    assert run("reference", *query, "--documents", documents, "--out", out) == 0
    assert "2 of 4 documents, layer 1" in capsys.readouterr().out
    assert {json.loads(line)["doc_id"] for line in out.read_text().splitlines()} == {"d1", "d3"}


def test_wrong_input_is_one_line(documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("reference", "--query", "x", "--documents", tmp_path / "none.txt") == 2
    assert "none.txt" in capsys.readouterr().err
    assert run("reference", "--query", "x", "--documents", documents, "--layer", "9") == 2
    assert "layers 0 to 3" in capsys.readouterr().err
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    assert run("reference", "--query", "x", "--documents", empty) == 2
    assert "no document" in capsys.readouterr().err
