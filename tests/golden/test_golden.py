"""Every golden file passes, and no adapter passes a wrong value."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from tests.golden.__main__ import main
from tests.golden.checker import check_file, system_of

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.glob("*.json"))
SYSTEMS = ["giraffe", "giraffe_tasks", "longbench", "longbench_pro", "l_eval"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_golden_file_passes(file: Path) -> None:
    failures = [f"{outcome.case}: {outcome.problem}" for outcome in check_file(file) if outcome.problem]
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_adapter_rejects_wrong_values(file: Path, tmp_path: Path) -> None:
    document = json.loads(file.read_text(encoding="utf-8"))
    for case in document["cases"]:
        case["expected"] = _spoil(copy.deepcopy(case["expected"]))
    spoiled = tmp_path / file.name
    spoiled.write_text(json.dumps(document), encoding="utf-8")
    accepted = [outcome.case for outcome in check_file(spoiled) if not outcome.problem]
    assert not accepted


def _spoil(value: object) -> object:
    """The same shape with every leaf wrong."""
    if isinstance(value, dict):
        return {key: _spoil(item) for key, item in value.items()} or {"wrong": 1}
    if isinstance(value, list):
        return [_spoil(item) for item in value] or [1]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 17 if abs(value) < 1e6 else value * 2
    return "wrong" if value is None else f"{value}-wrong"


@pytest.mark.parametrize(
    ("name", "system"),
    [
        ("giraffe.json", "giraffe"),
        ("giraffe-tasks.json", "giraffe_tasks"),
        ("giraffe_2.json", "giraffe"),
        ("giraffe-tasks-heldout.json", "giraffe_tasks"),
        ("longbench-pro_b.json", "longbench_pro"),
        ("l-eval.json", "l_eval"),
        ("giraffes.json", None),
        ("unknown.json", None),
    ],
)
def test_file_name_picks_the_longest_system(name: str, system: str | None) -> None:
    assert system_of(Path(name), SYSTEMS) == system


def _write(path: Path, cases: list[dict[str, object]]) -> Path:
    path.write_text(json.dumps({"source": "test", "cases": cases}), encoding="utf-8")
    return path


def test_unknown_functions_and_systems_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path / "survey-map.json", [{"name": "a", "function": "no_such", "input": {}, "expected": 1}])
    _write(tmp_path / "nobody.json", [{"name": "b", "input": {}, "expected": 1}])
    assert main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "0 passed, 2 failed"
    assert sum(line.startswith("FAILED") for line in lines) == 2


def test_unreadable_files_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "survey-map.json").write_text("{", encoding="utf-8")
    assert main([str(tmp_path), str(tmp_path / "missing.json")]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "0 passed, 2 failed"


def test_an_empty_folder_is_no_success(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 1
