"""`farspan profile attention` and `farspan profile mixers` from arguments to tables and files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from farspan.cli import main
from farspan.cli.profile_methods import _levers
from farspan.profiling import Profile
from farspan.recipe import lever_class, lever_table
from tests.engine.conftest import CONFIGS, make_model, make_tokenizer


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements of a test are its own."""
    monkeypatch.setenv("FARSPAN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_model(CONFIGS["llama"]()).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        main(["profile", *arguments])
    captured = capsys.readouterr()
    assert isinstance(done.value.code, int)
    return done.value.code, captured.out, captured.err


WINDOW = "sink-window:block_size=16,sinks=16,window=16"


def test_a_model_with_methods_of_attention_and_of_the_cache(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "methods"
    code, text, _ = run(
        capsys,
        *("attention", str(folder), "--methods", f"dense,{WINDOW},knorm", "--lengths", "64,128", "--rounds", "1"),
        *("--backend", "gather", "--layers", "2", "--out", str(out)),
    )
    assert code == 0
    assert "128 tokens: attention of 2 layers alone, medians of 1 runs; dense by torch" in text
    assert "64 tokens: the whole model, medians of 1 runs" in text
    assert f"{WINDOW}: computed by gather" in text
    rows = list(csv.DictReader((out / "attention.csv").open(encoding="utf-8")))
    assert [(row["method"], row["length"]) for row in rows] == [
        (method, length) for length in ("64", "128") for method in ("dense", WINDOW)
    ]
    assert 0 < float(rows[3]["density"]) < float(rows[1]["density"]) <= 1
    profiles = Profile.load(out / "model.json")
    assert [profile.recipe for profile in profiles] == ["dense", WINDOW, "knorm"]
    caches = [profile.points[1].memory.kv_cache for profile in profiles if profile.points[1].memory]
    assert caches[0] == caches[1] > caches[2]
    assert sorted(file.name for file in out.iterdir()) == [
        f"{name}.{kind}" for name in ("attention", "model") for kind in ("csv", "json")
    ]


def test_made_attention(capsys: pytest.CaptureFixture[str]) -> None:
    methods = f"{WINDOW},mean-pool:block_size=16,knorm"
    shape = ("--shape", "4,2,16", "--lengths", "96", "--rounds", "1", "--backend", "gather")
    code, text, _ = run(capsys, "attention", "--methods", methods, *shape, "--no-memory")
    assert code == 0
    assert "attention of 1 layers alone" in text
    assert "left out: knorm does not choose what attention reads" in text
    assert "the whole model" not in text


@pytest.mark.slow
def test_scores_stand_beside_costs(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--task", "single_lines", "-n", "2", "--no-whole", "--no-memory", "--rounds", "1", "--backend", "gather")
    code, text, _ = run(capsys, "attention", "reference", "--methods", WINDOW, "--lengths", "256", *asked)
    assert code == 0
    assert "256 tokens: the whole model, n=2 questions a task" in text
    (dense,) = [
        line.split() for line in text.splitlines() if line.strip().startswith("dense") and len(line.split()) == 2
    ]
    assert dense[1] == "100.0%"


def test_all_methods_that_need_nothing() -> None:
    levers, left_out = _levers(["all", "pbs:threshold=0.5,block_size=64", "dense"])
    known = {name for name in lever_table() if lever_class(name).slot == "attention"}
    assert set(levers) | set(left_out) == known | {"pbs:block_size=64,threshold=0.5"}
    assert set(left_out) >= {"blockrank", "squeezed"}
    assert all(lever.min_length == 0 for lever in levers.values())  # type: ignore[attr-defined]


def test_mixers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ("--mixers", "linear_attention,fourier", "--lengths", "32", "--hidden", "32", "--rounds", "1")
    code, text, _ = run(capsys, "mixers", *arguments, "--out", str(tmp_path / "mixers"))
    assert code == 0
    assert "fourier (not causal)" in text
    rows = json.loads((tmp_path / "mixers" / "mixers.json").read_text())
    assert [row["mixer"] for row in rows] == ["linear_attention", "fourier"]
    assert (tmp_path / "mixers" / "mixers.csv").read_text().count("\n") == 3


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["attention", "--methods", "nonsense"], "nonsense"),
        (["attention", "--methods", "yarn:factor=2"], "yarn"),
        (["attention", "--shape", "3,2,16"], "--shape 3,2,16"),
        (["attention", "--backend", "fast"], "fast"),
        (["attention", "--dtype", "float4"], "float4"),
        (["attention", "--task", "single_lines"], "--task"),
        (["attention", "{folder}", "--recipe", "pbs"], "--recipe"),
        (["mixers", "--mixers", "nonsense"], "nonsense"),
        (["mixers", "--hidden", "30", "--heads", "4"], "30"),
        (["mixers", "--device", "tpu"], "tpu"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], folder: Path, arguments: list[str], named: str
) -> None:
    code, _, err = run(capsys, *(argument.format(folder=folder) for argument in arguments))
    assert code == 2
    assert err.startswith("farspan: ")
    assert err.count("\n") == 1
    assert named in err
