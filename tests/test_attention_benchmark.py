"""The benchmark of attention levers runs through at its smallest size, walks the table of levers, and goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from farspan.recipe import lever_class, lever_table

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "attention.py"


def _run(folder: Path, *arguments: str) -> dict[str, dict[str, dict[str, object]]]:
    out = folder / "attention.json"
    command = [sys.executable, str(SCRIPT), "--quick", "--out", str(out), "--picture", str(folder / "attention.svg")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    record: dict[str, dict[str, dict[str, object]]] = json.loads(out.read_text())
    return record


@pytest.mark.slow
def test_every_lever_is_measured_and_a_second_run_measures_nothing(tmp_path: Path) -> None:
    record = _run(tmp_path)
    cells = record["cells"]
    assert not [key for key, cell in cells.items() if "failed" in cell]
    known = {name for name in lever_table() if lever_class(name).slot == "attention"}
    for kind in ("attention", "forward", "scores"):
        tried = {key.rsplit(" ", 1)[1].split(":")[0] for key in cells if key.startswith(f"{kind} ")} - {"dense"}
        assert tried | set(record["left_out"]) == known
    for key, cell in cells.items():
        assert 0 < cell["density"] <= 1 + 1e-6, key  # type: ignore[operator]
        if key.startswith("attention"):
            assert 0 <= cell["relative_error"] < 1, key  # type: ignore[operator]
        if key.startswith("scores"):
            assert 0 <= cell["core"] <= 1, key  # type: ignore[operator]
    assert "<svg" in (tmp_path / "attention.svg").read_text()
    assert _run(tmp_path) == record


@pytest.mark.slow
def test_made_attention_as_on_a_gpu(tmp_path: Path) -> None:
    cells = _run(tmp_path, "--made")["cells"]
    assert not [key for key, cell in cells.items() if "failed" in cell]
    assert cells["dense 512"]["median_seconds"]
    assert {key.split(" ")[0] for key in cells} == {"dense", "attention", "executor"}
