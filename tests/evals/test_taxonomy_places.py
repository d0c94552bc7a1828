"""The plane of scope and dispersion: tasks stand where their rows expect them, and longer tasks of one kind move."""

from __future__ import annotations

from pathlib import Path

import pytest

from farspan.cli import main
from farspan.evals.generate import TokenCounter
from farspan.evals.tasks import TASKS
from farspan.evals.tasks.family import family_class
from farspan.evals.taxonomy_places import annotation_of, place_task

LENGTH = 4096


@pytest.fixture(scope="module")
def counter() -> TokenCounter:
    return TokenCounter(lambda text: range(-(-len(text) // 4)), cache=False)


@pytest.mark.parametrize(
    ("family", "task"),
    [
        ("lines", "single"),
        ("ruler", "niah_single_2"),
        ("ruler", "vt"),
        ("ruler", "cwe"),
        ("needle_threading", "thread"),
        ("longbiobench", "standard"),
        ("wikiqa", "intact"),
        ("longins", "gist"),
        ("longgenbench", "gen_choice"),
    ],
)
def test_tasks_stand_where_their_rows_expect_them(family: str, task: str, counter: TokenCounter) -> None:
    found = place_task(family_class(family)(counter), task, LENGTH, n=3)
    assert found.n == 3
    assert found.in_expected_cell() == 1.0, (found.scope.median, found.dispersion.median, found.annotation)
    assert not [text for text in found.differences() if "expected" in text]


def test_naming_every_wrong_item_takes_more_of_the_sheet_than_finding_one_line(counter: TokenCounter) -> None:
    line = place_task(family_class("lines")(counter), "single", LENGTH, n=3)
    sheet = place_task(family_class("longins")(counter), "gist", LENGTH, n=3)
    assert sheet.scope.median > 2 * line.scope.median


def test_equal_arguments_give_equal_places(counter: TokenCounter) -> None:
    one, other = (place_task(family_class("lines")(counter), "multi", LENGTH, n=2, seed=3) for _ in range(2))
    assert one == other


def test_every_family_has_rows() -> None:
    for family in TASKS:
        rows = [annotation_of(family, task) for task in family_class(family).default_tasks()]
        assert any(row.note or row.unit != "auto" for row in rows), family


def test_the_command_writes_a_page_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["taxonomy", "lines", "--length", "2k", "-n", "2", "--out", str(tmp_path)])
    assert left.value.code == 0
    assert "lines:single" in capsys.readouterr().out
    assert (tmp_path / "taxonomy.html").stat().st_size > 10_000
    assert (tmp_path / "tables" / "taxonomy.csv").read_text(encoding="utf-8").count("\n") > 1
