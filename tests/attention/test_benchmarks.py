"""The benchmarks of attention run, at a size that says nothing, and write what they promise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    sizes = ("--lengths", "1k", "--rounds", "1", "--densities", "0.5", "1", "--backends", "gather")
    done = run("attention_cpu.py", "--parts", "executors", "pbs", *sizes, "--dtypes", "float32", "--out", str(out))
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(out.read_text())["results"]
    executors = results["executors"]["1024 float32"]
    assert set(executors["times_faster_than_dense"]) == {"gather 50%", "gather 100%", "gather single keys"}
    assert executors["largest_difference_to_dense"]["gather 100%"] < 1e-4
    assert executors["cell_density"]["50%"] < 0.6 < executors["cell_density"]["100%"] == 1.0
    assert results["pbs"]["1024"]["times_faster_than_dense"]["pbs"] > 0
    assert len(results["pbs"]["1024"]["cell_density_by_layer"]) == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_said() -> None:
    done = run("attention_gpu.py")
    assert done.returncode == 2
    assert done.stderr.startswith("no GPU: ")
