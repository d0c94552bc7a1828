"""The benchmark of position levers runs through at its smallest size, walks the table of levers, and goes on; its
tables are those of its record, and its claims follow from the figures."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from farspan.recipe import lever_class, lever_table

FOLDER = Path(__file__).parent.parent / "benchmarks"
RECORD = FOLDER / "results" / "positions.json"


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return lambda name: importlib.import_module(name)


def _run(folder: Path) -> dict[str, Any]:
    out = folder / "positions.json"
    places = ["--out", str(out), "--picture", str(folder / "positions.svg"), "--runs", str(folder / "runs")]
    command = [sys.executable, str(FOLDER / "positions.py"), "--quick", *places]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    record: dict[str, Any] = json.loads(out.read_text())
    return record


@pytest.mark.slow
def test_every_lever_is_measured_and_a_second_run_measures_nothing(tmp_path: Path) -> None:
    record = _run(tmp_path)
    cells = record["cells"]
    assert not [key for key, cell in cells.items() if "failed" in cell]
    known = {name for name in lever_table() if lever_class(name).slot == "positions"} - set(record["left_out"])
    plain, trained = ({cell["method"] for cell in cells.values() if cell.get("trained") is on} for on in (False, True))
    assert plain | set(record["like_another"]) == known | {"none", "e2-ntk"}
    assert trained == known | {"none", "e2-ntk"}
    for key, cell in cells.items():
        if "method" in cell:
            assert 0 <= cell["score_lo"] <= cell["score"] <= cell["score_hi"] <= 1, key
            assert ("tokens" in cell["learning"]) is cell["trained"], key
            assert str(tmp_path) not in json.dumps(cell), key
    assert {cells[key]["learning"]["tokens"] for key in cells if cells[key].get("trained")} == {2048}
    assert "<svg" in (tmp_path / "positions.svg").read_text()
    assert _run(tmp_path) == record


def test_the_tables_kept_are_those_of_the_record(part: Any) -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    claims = part("positions_directions").directions(record["cells"])
    assert record["directions"] == claims
    tables = part("positions_tables").tables(record["cells"], claims)
    assert RECORD.with_suffix(".md").read_text(encoding="utf-8") == tables
    names = {cell["method"] for cell in record["cells"].values() if "method" in cell}
    assert all(f"| `{name}` |" in tables for name in names)


def _cell(score: float, *losses: float) -> dict[str, object]:
    return {"score": score, "loss_beyond": sum(losses) / len(losses), "loss_beyond_by_text": list(losses)}


def test_claims_follow_from_the_figures_and_are_open_where_these_are_missing(part: Any) -> None:
    directions = part("positions_directions").directions
    cells = {
        "windows x2": _cell(0, 2.0, 2.2),
        "none x2 as it is": _cell(0.3, 3.0, 3.1),
        "linear x2 trained": _cell(0.6, 2.1, 2.2),
        "ntk x2 as it is": _cell(0.5, 2.1, 2.5),
        "e2 x2 trained": _cell(0.55, 2.15, 2.25),
        "between 1.5 clex": _cell(0.5, 2.0, 2.0),
        "between 1.5 linear, trained at 2, served at 2": _cell(0.4, 2.5, 2.5),
        "between 1.5 linear, trained at 2, served at 1.5": _cell(0.6, 2.6, 2.6),
    }
    found = {claim["claim"]: claim for claim in directions(cells)}
    assert [claim["holds"] for claim in found.values()] == [True, None, False, True, None, False]
    interpolated, _, held, one_run, _, between = found.values()
    assert interpolated["score"] == {"trained": 0.6, "as it is": 0.3}
    assert held["ratio"] == pytest.approx(2.718281828**0.2, abs=1e-4)
    assert one_run["loss_more"] == pytest.approx(0.05)
    assert between["loss_less"] == pytest.approx(0.5)
    assert between["score_more"] == pytest.approx(-0.1)
    worse = cells | {"none x2 trained": _cell(0.7, 2.0, 2.1)}
    assert directions(worse)[0]["holds"] is False
    assert directions({"windows x2": _cell(0, 2.0)})[0]["holds"] is None


def test_a_picture_leaves_missing_cells_out(part: Any) -> None:
    picture = part("positions_picture").picture
    assert "<svg" in picture({})
    side = {
        **_cell(0.5, 2.0),
        "method": "ntk",
        "factor": 2,
        "trained": False,
        "loss_by_position": {"0-64": 3.0, "64-96": 2.5, "96-128": 2.0},
    }
    drawn = picture({"windows x2": {"loss_by_position": {"64-96": 2.0, "96-128": 2.0}}, "ntk x2 as it is": side})
    # two places, one score, and its mark in the legend
    assert drawn.count("<circle") == 4
    assert ">ntk</text>" in drawn
