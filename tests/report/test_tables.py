"""The CSV of every figure."""

from __future__ import annotations

import csv
from pathlib import Path

from farspan.report import tables
from tests.report.examples import LENGTHS, minimal_record, nothing_helps_record, winner_record


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_tables_hold_the_numbers_of_the_record(tmp_path: Path) -> None:
    record = winner_record()
    names = {path.stem for path in tables.write_tables(record, tmp_path)}
    assert names == {
        *("effective_lengths", "scores_by_length", "scores_by_depth", "text_loss", "profile"),
        *("trials", "ablation", "levers"),
    }
    rows = read(tmp_path / "effective_lengths.csv")
    assert [row["measured"] for row in rows] == ["before"] * 4 + ["after"] * 4
    assert (rows[4]["effective_tokens"], rows[4]["censoring"]) == ("4096.0", "right")
    depth = read(tmp_path / "scores_by_depth.csv")
    assert len(depth) == 2 * 4 * len(LENGTHS) * 5
    missing = [row for row in depth if row["n"] == "0"]
    assert len(missing) == 2
    assert all(row["mean_score"] == "" for row in missing)
    trials = read(tmp_path / "trials.csv")
    assert len(trials) == len(record.trials)
    assert trials[-1]["recipe"] == record.trials[-1].recipe
    assert [float(row["ttft_s"]) for row in read(tmp_path / "profile.csv")[:5]] == [
        row.ttft_s for row in record.baseline.profile
    ]


def test_empty_tables_are_not_written(tmp_path: Path) -> None:
    names = {path.stem for path in tables.write_tables(minimal_record(), tmp_path)}
    assert names == {"effective_lengths", "scores_by_length"}
    assert "text_loss" not in {table.name for table in tables.all_tables(nothing_helps_record())}


def test_levers_tried_sums_trials_up() -> None:
    record = winner_record()
    rows = {row.lever: row for row in tables.levers_tried(record)}
    for name, row in rows.items():
        with_it = [trial for trial in record.trials if name in trial.levers]
        assert row.trials == len(with_it)
        assert row.kept == sum(trial.kept for trial in with_it)
        ended = [t.ratio_to_baseline for t in with_it if t.state == "complete" and t.ratio_to_baseline is not None]
        assert row.best is not None
        assert row.best.ratio_to_baseline == max(ended)
    assert next(iter(rows)) == "fine-tune"


def test_a_lever_whose_trials_all_stopped_has_no_best() -> None:
    rows = tables.levers_tried(nothing_helps_record())
    assert rows
    assert all(row.best is None and row.kept == 0 for row in rows)
