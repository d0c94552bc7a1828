"""`farspan eval` and `farspan report` on evaluations, from the command line to the files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farspan.cli import main
from tests.evals.results import evaluation, task
from tests.evals.scripted_server import scripted


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def asked(url: str, out: Path, *more: object) -> tuple[object, ...]:
    return ("eval", "lines", "--endpoint", url, "--model", "m", "--lengths", "400,800", "--n", 6, "--out", out, *more)


def test_an_address_is_evaluated_and_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    with scripted(lambda count, prompt: "answer") as server:
        assert run(*asked(server.url, out, "--limit", 5)) == 0
        assert run(*asked(server.url, out)) == 0
        assert len(server.requests) == 12
    said = capsys.readouterr()
    assert "which has 5 answers" in " ".join(said.err.split())
    assert "100% (n=6)" in said.out
    assert {path.name for path in out.iterdir()} == {"answers.jsonl", "scores.json", "logs", "report.html", "tables"}
    assert json.loads((out / "scores.json").read_text(encoding="utf-8"))["model"] == "m"
    assert run("report", out) == 0


def test_a_run_that_means_nothing_is_kept_but_not_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    with scripted(lambda count, prompt: "empty") as server:
        assert run(*asked(server.url, out)) == 2
    assert "all 12 answers are empty" in capsys.readouterr().err
    assert {path.name for path in out.iterdir()} == {"answers.jsonl", "scores.json"}
    assert run("report", out) == 2


def test_a_forecast_asks_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(lambda count, prompt: "answer") as server:
        assert run(*asked(server.url, tmp_path / "run", "--dry-run", "--price", "2,10")) == 0
        assert not server.requests
    said = " ".join(capsys.readouterr().err.split())
    assert "this run: 12 questions on 12 contexts" in said
    assert "at the prices given" in said


def test_the_reference_model_is_evaluated_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    command = ("eval", "lines", "--lengths", "256,384", "--n", "2", "--out", out)
    assert run(*command) == 0
    first = (out / "scores.json").read_text(encoding="utf-8")
    assert run(*command) == 0
    assert (out / "scores.json").read_text(encoding="utf-8") == first
    assert "which has 4 answers" in " ".join(capsys.readouterr().err.split())
    assert run("eval", "lines", "--lengths", "256", "--n", "2", "--dry-run") == 0
    assert "of reading" in capsys.readouterr().err


def test_runs_are_shown_side_by_side(tmp_path: Path) -> None:
    for name, rates in (("a", (1.0, 0.5, 0.1)), ("b", (1.0, 0.9, 0.8))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scores.json").write_text(evaluation(task(rates)).model_dump_json(), encoding="utf-8")
    assert run("report", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c") == 0
    assert "b against a" in (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    assert run("report", tmp_path / "a", tmp_path / "c") == 2
    assert run("report", tmp_path / "a", tmp_path / "a") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--endpoint", "localhost:80"), "no address"),
        (("--endpoint", "http://localhost:9/v1", "--recipe", "yarn:factor=2"), "a recipe needs a local model"),
        (("--price", "2", "--endpoint", "http://localhost:9/v1"), "is no price"),
        (("--knob", "key"), "is not a knob"),
    ],
)
def test_wrong_arguments_are_refused_in_a_line(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("eval", "lines", "--lengths", "400", *arguments) == 2
    assert said in " ".join(capsys.readouterr().err.split())
