"""`farspan score` and document benchmarks under `farspan eval`, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farspan.cli import main
from tests.evals.documents.stand_ins import write_longbench, write_predictions


def typed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        main(list(arguments))
    code = done.value.code
    captured = capsys.readouterr()
    return (code if isinstance(code, int) else 0), captured.out, captured.err


def test_a_folder_of_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"pred": "Ida", "answers": ["Ida Brandt"], "all_classes": None, "length": 10}
    folder = write_predictions(tmp_path / "pred", {"hotpotqa": [row, {**row, "pred": ""}]})
    out = tmp_path / "scores.json"
    code, shown, _ = typed(capsys, "score", str(folder), "--benchmark", "longbench", "--out", str(out))
    assert code == 0
    assert "33.33" in shown
    assert "1 of 2 answers: empty" in shown
    assert json.loads(out.read_text(encoding="utf-8"))["problems"] == {"empty": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("score", "nowhere", "--benchmark", "longbench"), "no file or folder"),
        (("score", "nowhere", "--benchmark", "longbnch"), "did you mean"),
        (("eval", "longbench:hotpot"), "did you mean hotpotqa"),
        (("eval", "longbench", "lines"), "run apart"),
        (("eval", "longbench", "--knob", "colour=red"), "option 'colour'"),
        (("eval", "longbench:lcc", "--data-dir", "nowhere"), "data.zip"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = typed(capsys, *arguments)
    assert code == 2
    assert message in error
    assert error.strip().count("\n") == 0


def test_the_reference_model_from_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_longbench(tmp_path, rows=1)
    out = tmp_path / "out"
    asked = ("eval", "longbench:hotpotqa,lcc", "--data-dir", str(tmp_path), "--window", "480", "--limit", "1")
    code, shown, _ = typed(capsys, *asked, "--official", "--out", str(out))
    assert code == 2, "480 tokens less the published margin leave no room"
    code, shown, _ = typed(capsys, *asked, "--out", str(out))
    assert code == 0
    assert "hotpotqa" in shown
    assert "averages are not those of published tables" in shown.replace("\n", " ")
    record = json.loads((out / "longbench" / "scores.json").read_text(encoding="utf-8"))
    assert record["n"] == 2
    assert len((out / "longbench" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()) == 3
