"""Writing the report, and `farspan report`."""

from __future__ import annotations

from pathlib import Path

import pytest

from farspan.cli import main
from farspan.report import RecordError, build_report
from tests.report.examples import minimal_record, winner_record


def test_build_writes_the_page_and_a_table_for_every_figure(built: dict[str, Path]) -> None:
    folder = built["winner"].parent
    assert {path.name for path in folder.iterdir()} == {"report.html", "tables"}
    assert len(list((folder / "tables").glob("*.csv"))) == 8
    linked = built["winner"].read_text(encoding="utf-8")
    for table in (folder / "tables").iterdir():
        if table.stem not in ("ablation", "levers"):
            assert f'href="tables/{table.name}"' in linked


def test_page_is_small_enough_to_mail(built: dict[str, Path]) -> None:
    assert built["winner"].stat().st_size < 3_000_000


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot write the report to") as caught:
        build_report(minimal_record(), tmp_path / "file" / "run")
    assert "\n" not in str(caught.value)


def test_command_rebuilds_page_and_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    winner_record(trials=4).save(tmp_path / "run")
    with pytest.raises(SystemExit) as done:
        main(["report", str(tmp_path / "run")])
    assert done.value.code == 0
    page = tmp_path / "run" / "report.html"
    assert capsys.readouterr().out.strip() == str(page)
    first = page.read_bytes()
    page.unlink()
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path / "run" / "run.json")])
    assert page.read_bytes() == first


def test_command_can_write_elsewhere(tmp_path: Path) -> None:
    minimal_record().save(tmp_path / "run")
    with pytest.raises(SystemExit) as done:
        main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "other")])
    assert done.value.code == 0
    assert (tmp_path / "other" / "report.html").is_file()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


def test_command_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["report", str(tmp_path)])
    assert done.value.code == 2
    assert capsys.readouterr().err.startswith(f"farspan: no run record at {tmp_path / 'run.json'}")
