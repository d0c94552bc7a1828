"""The benchmark of squeezed decoding runs through, at the smallest size."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "squeezed.py"


@pytest.mark.slow
def test_it_writes_speed_and_recall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "squeezed.json"
    sizes = "--length 2560 --contexts 1 --rounds 1 --iterations 1"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *sizes.split(), "--out", str(out)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    record = json.loads(out.read_text())
    assert set(record["recall"]) >= {"dense", "squeezed 0.7", "squeezed 0.9"}
    steps = record["decoding"]
    assert all(seconds > 0 for seconds in steps["median_seconds_a_step"].values())
    assert 0 < steps["kept_of_context"]["squeezed 0.9"] < steps["kept_of_context"]["squeezed 0.7"] < 1
