"""The run record: round trip, and one clear line for everything that can be wrong with a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from farspan.report import Cell, Effective, RecordError, RunRecord
from farspan.report.record import SCHEMA_VERSION
from tests.report.conftest import EXAMPLES
from tests.report.examples import minimal_record, winner_record


@pytest.mark.parametrize("name", EXAMPLES)
def test_round_trip(name: str, tmp_path: Path) -> None:
    record = EXAMPLES[name]()
    path = record.save(tmp_path / "deep" / "run")
    assert path == tmp_path / "deep" / "run" / "run.json"
    assert RunRecord.load(path) == record
    assert RunRecord.load(path.parent) == record
    assert [entry.name for entry in path.parent.iterdir()] == ["run.json"]


def test_lengths_stay_numbers_after_a_round_trip(tmp_path: Path) -> None:
    task = RunRecord.load(winner_record().save(tmp_path)).baseline.tasks["lines"]
    assert task.effective is not None
    assert sorted(task.effective.n_per_length) == [256, 512, 1024, 2048, 4096]


def test_a_failed_write_leaves_the_last_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = minimal_record().save(tmp_path)
    before = path.read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RecordError, match="No space left"):
        winner_record().save(tmp_path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_records_are_frozen_and_refuse_what_they_do_not_know() -> None:
    cell = Cell(length=256, n=8, mean=0.5)
    with pytest.raises(ValidationError):
        cell.mean = 1.0  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Cell.model_validate({"length": 256, "n": 8, "avg": 0.5})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_refused(value: float) -> None:
    with pytest.raises(ValidationError):
        Effective(value=value, threshold=0.75)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "no schema_version"),
        ("{}", "no schema_version"),
        (json.dumps({"schema_version": SCHEMA_VERSION + 1}), "upgrade farspan"),
        (json.dumps({"schema_version": SCHEMA_VERSION, "created": "now"}), "farspan_version: Field required"),
    ],
)
def test_bad_files_are_named_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=message) as caught:
        RunRecord.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_record_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="give the --out folder"):
        RunRecord.load(tmp_path)


def test_headline_is_the_named_task_else_the_first() -> None:
    record = winner_record()
    assert record.headline == "lines"
    assert record.model_copy(update={"headline_task": None, "tasks": ["two_hop"]}).headline == "two_hop"
    assert record.model_copy(update={"headline_task": None, "tasks": []}).headline == "lines"
