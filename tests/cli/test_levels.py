"""`farspan levels` and what `farspan eval own-levels` makes of its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farspan.cli import main
from farspan.evals.documents import BenchmarkError, benchmark
from farspan.evals.documents.asking import Asked, Fitter
from farspan.evals.documents.run import run_documents
from farspan.evals.schema import read_samples
from tests.evals.documents.stand_ins import ScriptedVoice

QUESTION = {
    "question": "Who built the mill again?",
    "answers": ["Ada Winter"],
    "documents": ["The mill burned down. Ada Winter built it again. It stands today."],
    "keywords": "Ada Winter",
    "confusing_facts": ["Ben Winter never built a mill."],
    "replacements": {"Ada Winter": "Kim Vale"},
}


def typed(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    code = done.value.code
    captured = capsys.readouterr()
    return (code if isinstance(code, int) else 0), captured.out, captured.err


@pytest.fixture
def given(tmp_path: Path) -> Path:
    (tmp_path / "questions.jsonl").write_text(json.dumps(QUESTION) + "\n", encoding="utf-8")
    (tmp_path / "texts").mkdir()
    for i in range(60):
        text = f"Report {i}. " + f"The harbour of town {i} was dug in {1500 + i}. " * 3
        (tmp_path / "texts" / f"{i:02}.txt").write_text(text, encoding="utf-8")
    return tmp_path


def written(capsys: pytest.CaptureFixture[str], folder: Path, *more: object) -> Path:
    file = folder / "mine" / "levels.jsonl"
    asked = ("levels", folder / "questions.jsonl", "--distractors", folder / "texts", "--levels", "200,400")
    code, shown, error = typed(capsys, *asked, "--out", file, *more)
    assert code == 0, error
    assert "questions at 200, 400" in shown
    return file


def test_questions_are_written_at_every_level_and_asked(given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(capsys, given)
    samples = list(read_samples(file))
    assert [sample.metadata["length_level"] for sample in samples] == ["200", "400"]
    assert all("Kim Vale" in sample.text and "Ada" not in sample.text for sample in samples)
    assert file.read_bytes() == written(capsys, given).read_bytes()

    def script(asked: Asked) -> str:
        return "Kim Vale" if asked.sample.metadata["length_level"] == "200" else "Ben Winter"

    made, voice = benchmark("own_levels"), ScriptedVoice(script)
    found = run_documents(Fitter(made, "fixed"), voice, made.chosen([]), data_dir=file.parent)
    assert [found.table.value("level", level) for level in ("200", "400")] == [100.0, 0.0]
    assert any("at 200: 200" in note for note in found.table.notes)
    assert all(asked.user.count(asked.sample.text) == 1 for asked in voice.heard)


def test_switches_and_units(given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = next(read_samples(written(capsys, given, "--no-confusing-facts", "--no-replace-keywords")))
    assert "Ada Winter" in plain.text
    assert "never built" not in plain.text
    characters = next(read_samples(written(capsys, given, "--count", "chars")))
    tokens = next(read_samples(written(capsys, given, "--count", "reference")))
    assert len(characters.text) < len(tokens.text) < len(plain.text)


def test_a_fact_walks_through_the_texts(given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(capsys, given, "--positions", "5")
    samples = list(read_samples(file))
    assert [sample.depth for sample in samples] == [0.0, 25.0, 50.0, 75.0, 100.0] * 2
    assert len({sample.id for sample in samples}) == 10
    made = benchmark("own_levels")
    voice = ScriptedVoice(lambda asked: "Ada Winter" if (asked.sample.depth or 0) < 50 else "no")
    table = run_documents(Fitter(made, "fixed"), voice, made.chosen([]), data_dir=file.parent).table
    depths = {row.name: row.value for row in table.rows if row.group == "depth"}
    assert depths == {"0 to 10 %": 100, "20 to 30 %": 100, "50 to 60 %": 0, "70 to 80 %": 0, "90 to 100 %": 0}


def test_wrong_input_is_one_line_and_leaves_no_file(given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = given / "mine" / "levels.jsonl"
    (given / "bad.jsonl").write_text(json.dumps({**QUESTION, "answers": []}) + "\n", encoding="utf-8")
    (given / "two.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in (QUESTION, {**QUESTION, "documents": ["word " * 900]})),
        encoding="utf-8",
    )
    (given / "none").mkdir()
    for questions, texts, levels, message in (
        ("nowhere.jsonl", "texts", "200", "there is no file"),
        ("bad.jsonl", "texts", "200", "question 1, 'answers'"),
        ("questions.jsonl", "nowhere", "200", "no folder or file"),
        ("questions.jsonl", "none", "200", "holds no text"),
        ("questions.jsonl", "texts/00.txt", "200", "is one file"),
        ("questions.jsonl", "texts", "9k", "needs more text"),
        ("two.jsonl", "texts", "200", "already have"),
    ):
        asked = ("levels", given / questions, "--distractors", given / texts, "--levels", levels, "--out", out)
        code, _, error = typed(capsys, *asked)
        assert code == 2
        assert message in error
        assert error.strip().count("\n") == 0
        assert not list((given / "mine").glob("*"))


def test_without_a_file_the_way_to_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FARSPAN_DATA", raising=False)
    made = benchmark("own_levels")
    for folder in (None, tmp_path):
        with pytest.raises(BenchmarkError, match="write it with farspan levels"):
            list(made.load(made.datasets["all"], folder))
    (tmp_path / "levels.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(BenchmarkError, match="row 1 was not written"):
        list(made.load(made.datasets["all"], tmp_path))
