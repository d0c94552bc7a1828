"""`farspan score` and document benchmarks under `farspan eval`, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farspan.cli import main
from tests.evals.documents.stand_ins import write_longbench, write_predictions
from tests.evals.scripted_server import scripted


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


def test_answers_are_judged_as_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [{"Q": f"Who is number {i}?", "A": "Ada", "S": "x"} for i in range(2)]
    row = {"qa_pairs": pairs, "llm_output": ["Ada", "Ben"], "output": ["Ada", "Ada"]}
    folder, out = write_predictions(tmp_path / "pred", {"longdep_qa": [row]}), tmp_path / "scores.json"
    asked = ("score", str(folder), "--benchmark", "loogle", "--fixed", "--out", str(out), "--judge")
    with scripted(lambda turn, prompt: "bad" if "number 1" in prompt else "wrong") as server:
        code, shown, _ = typed(capsys, *asked, f"m@{server.url}")
    assert code == 0
    assert "judge: 1 of 2 answers got no reply" in shown.replace("\n", " ")
    record = json.loads(out.read_text(encoding="utf-8"))["judge"]
    assert (record["verdicts"], record["judge_unreadable"], record["judge_silent"]) == (1, 1, 1)
    kept = tmp_path / "scores.judgements.jsonl"
    assert len(kept.read_text(encoding="utf-8").splitlines()) == 2


def test_a_baseline_and_a_judge_under_eval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"id": i, "context": f"Ada built mill {i}.", "question": "Who?", "answer": f"Ada {i}", "type": "computation"}
        for i in range(2)
    ]
    (tmp_path / "longdep_qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = tmp_path / "out"
    asked = ("eval", "loogle:longdep_qa", "--model", "baseline:lead-9", "--data-dir", str(tmp_path), "--out", str(out))
    with scripted(lambda turn, prompt: "wrong") as server:
        code, shown, _ = typed(capsys, *asked, "--judge", f"m@{server.url}")
        assert code == 0
        assert "judge" in shown
        code, _, error = typed(capsys, *asked, "--recipe", "yarn:factor=2")
        assert (code, "asks no model" in error) == (2, True)
    record = json.loads((out / "loogle" / "scores.json").read_text(encoding="utf-8"))
    assert record["judge"]["judge_unreadable"] == 2
    assert record["settings"]["model"] == "baseline:lead-9"
    said = (out / "loogle" / "predictions.jsonl").read_text(encoding="utf-8")
    assert "Ada built" in said
    assert len((out / "loogle" / "judgements.jsonl").read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval", "longbench:lcc", "--judge", "mockllm/model"), "none of these sets is for a judge"),
        (("eval", "l-eval:open", "--judge", "mockllm/model"), "baseline=FILE"),
        (("eval", "lines", "--judge", "mockllm/model"), "scored by rules"),
        (("eval", "loogle", "--judge", "http://host/v1"), "NAME@http://host/v1"),
        (("eval", "cnnsum", "--model", "baseline:first-4"), "lead-400"),
    ],
)
def test_wrong_judges_and_baselines_are_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = typed(capsys, *arguments)
    assert code == 2
    assert message in error
    assert error.strip().count("\n") == 0


def test_a_run_is_compared_with_an_earlier_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_longbench(tmp_path)
    asked = ("eval", "longbench:hotpotqa", "--data-dir", str(tmp_path), "--model")
    code, _, _ = typed(capsys, *asked, "baseline:lead-5", "--out", str(tmp_path / "old"))
    assert code == 0
    code, shown, _ = typed(capsys, *asked, "baseline:next-reference", "--against", str(tmp_path / "old"))
    assert code == 0
    assert "hotpotqa: +100.00, 95 % interval +100.00 to +100.00 over 3 answers on 3 documents" in shown
    code, _, error = typed(capsys, *asked, "baseline:lead-5", "--against", str(tmp_path / "nowhere"))
    assert (code, "is no folder of a run" in error) == (2, True)
    code, _, error = typed(capsys, "eval", "lines", "--against", "x")
    assert (code, "farspan report" in error) == (2, True)
