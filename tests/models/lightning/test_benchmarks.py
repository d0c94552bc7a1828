"""The benchmarks of mixers and distributed attention run, at a size that says nothing, and write what they promise."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[3] / "benchmarks"


def _run(name: str, out: Path, *arguments: str) -> dict[str, dict[str, dict[str, object]]]:
    command = [sys.executable, str(FOLDER / name), *arguments, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    record: dict[str, dict[str, dict[str, object]]] = json.loads(out.read_text())
    return record


@pytest.mark.slow
def test_lightning_attention(tmp_path: Path) -> None:
    sizes = ("--hidden", "32", "--layers", "2", "--context", "32", "--rows", "4", "--softmax-every", "2")
    text = ("--text-files", "8")
    out = tmp_path / "record.json"
    record = _run("lightning_attention.py", out, "--tokens", "512", "--lengths", "256", "--rounds", "1", *sizes, *text)
    assert set(record["speed"]["256"]["times_faster_than_dense"]) == {"forward", "forward and backward", "decode"}
    training = record["training"]
    counts = [training[name]["parameters"] for name in ("transformer", "hybrid", "lightning alone")]
    assert max(counts) <= 1.01 * min(counts)  # type: ignore[type-var, operator]
    assert training["tokens"] == 512
    assert 0 <= training["hybrid"]["recall"]["accuracy"] <= 1  # type: ignore[index]


@pytest.mark.slow
def test_mixers(tmp_path: Path) -> None:
    sizes = ("--hidden", "32", "--layers", "1", "--context", "32", "--rows", "4")
    record = _run("mixers.py", tmp_path / "record.json", "--tokens", "256", "--mixers", "average_pool", *sizes)
    found = record["mixers"]["average_pool"]
    assert set(found) == {"traits", "flops", "state_bytes", "recall", "copy"}
    assert set(found["copy"]["accuracy_by_context"]) == {"4", "8", "16", "32"}  # type: ignore[index]


@pytest.mark.slow
def test_mixers_go_on_where_a_run_ended(tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    same = ("--tokens", "256", "--tasks", "copy", "--hidden", "32", "--layers", "1", "--context", "32", "--rows", "4")
    first = _run("mixers.py", out, "--mixers", "average_pool", *same)["mixers"]["average_pool"]
    both = _run("mixers.py", out, "--mixers", "average_pool", "linear_attention", *same)["mixers"]
    assert both["average_pool"] == first  # seconds too, so it was not measured again
    assert set(both) == {"average_pool", "linear_attention"}
    other = _run("mixers.py", out, "--mixers", "linear_attention", "--seed", "1", *same)["mixers"]
    assert set(other) == {"linear_attention"}


@pytest.mark.slow
def test_distributed_attention(tmp_path: Path) -> None:
    out, two = tmp_path / "record.json", ("--strategies", "ring", "ulysses")
    record = _run("distributed_attention.py", out, "--length", "256", "--processes", "2", "4", "--rounds", "1", *two)
    assert len(record["results"]) == 4
    assert all(row["largest_error"] < 1e-5 for row in record["results"].values())  # type: ignore[operator]


@pytest.mark.slow
def test_a_hybrid_looks_up_what_lightning_alone_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    shared = importlib.import_module("mixer_training")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sizes = shared.Sizes(hidden=64, layers=2, heads=2, vocabulary=64, length=32, rows=32)
        tests = [shared.made_rows(shared.recall_rows, sizes, "test", index, rows=64) for index in range(4)]
        accuracy = {}
        for name, mixers in (("hybrid", ["lightning", "softmax_attention"]), ("lightning", ["lightning"])):
            model = shared.build(mixers, sizes, 110_900, 0)
            batches = lambda step: [shared.made_rows(shared.recall_rows, sizes, "train", step, rows=32)]  # noqa: E731
            shared.train(model, batches, 700)
            accuracy[name] = shared.score(model, tests)["accuracy"]
    finally:
        torch.set_num_threads(threads)
    assert accuracy["hybrid"] > 0.8, accuracy
    assert accuracy["lightning"] < 0.5, accuracy
