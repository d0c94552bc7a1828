"""The ranking benchmark runs through, at the smallest size."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "blockrank.py"


@pytest.mark.slow
def test_it_writes_quality_and_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "blockrank.json"
    sizes = "--steps 1 --batch 1 --examples 4 --queries 4 --documents 5 --grid 4,8 --full-up-to 4 --rounds 1"
    monkeypatch.setattr(
        sys, "argv", [str(SCRIPT), *sizes.split(), "--out", str(out), "--save", str(tmp_path / "model")]
    )
    runpy.run_path(str(SCRIPT), run_name="__main__")
    record = json.loads(out.read_text())
    assert set(record["quality"]) >= {"bm25", "untrained", "trained"}
    assert all(0 <= value <= 1 for values in record["quality"].values() for value in values.values())
    assert set(record["cost"]["median_seconds"]["blocks"]) == {"4", "8"}
    assert set(record["cost"]["median_seconds"]["full"]) == {"4"}
    assert list(record["cost"]["exponent"]) == ["blocks"]
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["farspan_blockrank"]["layer"] == record["problem"]["layer"]
