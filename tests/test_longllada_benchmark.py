"""The comparison of a masked-diffusion model with its twin runs through, at the smallest size."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "longllada.py"
SMALL = "--tokens 4096 --hidden-size 32 --layers 1 --window 128 --times 2 --texts 1 --samples 1 --mc-num 1 --threads 1"


@pytest.mark.slow
def test_the_script_trains_measures_and_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "found.json"
    arguments = [str(SCRIPT), *SMALL.split(), "--runs", str(tmp_path / "runs"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(SCRIPT), run_name="__main__")
    record = json.loads(out.read_text(encoding="utf-8"))
    twins = record["twins"]
    assert twins["diffusion"]["parameters"] == twins["autoregressive"]["parameters"]
    for twin in twins.values():
        assert twin["factor_2"]["rope_theta"] > twin["factor_1"]["rope_theta"]
        for factor in ("factor_1", "factor_2"):
            assert max(map(int, twin[factor]["perplexity"]["by_position"])) == 256
            assert twin[factor]["retrieval"]["lengths"] == [128, 256]
    assert twins["diffusion"]["cached_sampler"]["texts"] == 1
    held = record["directions"]
    assert len(held) == 7
    for line, holds in held.items():
        if " sees " in f" {line} " or "see farther" in line:
            # So little training teaches no retrieval, and then the figures cannot tell.
            assert holds is None
        else:
            assert isinstance(holds, bool)
