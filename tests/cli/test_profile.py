"""`farspan profile` from arguments to table and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from farspan.cli import main
from farspan.profiling import Profile
from tests.engine.conftest import CONFIGS, make_model, make_tokenizer


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


def test_table_and_files(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    code, out, _ = run(
        capsys,
        *(str(folder), "--lengths", "64,32", "--repeats", "2", "--new-tokens", "3"),
        *("--recipe", "linear:factor=2", "--out", str(tmp_path / "cost")),
    )
    assert code == 0
    assert "linear:factor=2" in out
    assert "KiB" in out
    assert "n" in out
    (profile,) = Profile.load(tmp_path / "cost" / "profile.json")
    assert [point.length for point in profile.points] == [32, 64]
    assert (profile.repeats, profile.new_tokens, profile.recipe) == (2, 3, "linear:factor=2.0")
    assert (tmp_path / "cost" / "profile.csv").read_text().count("\n") == 3
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == ["profile.csv", "profile.json"]


def test_what_attention_read_is_said(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    sizes = ("--lengths", "64,128", "--repeats", "1", "--warmup", "0", "--no-memory", "--new-tokens", "2")
    lever = "sink-window:block_size=16,sinks=16,window=16,min_length=100,backend=gather"
    code, out, _ = run(capsys, str(folder), *sizes, "--recipe", lever)
    assert code == 0
    assert "attention by sink-window: " in out
    assert "by gather (" in out
    assert "dense because of below break-even length (" in out
    assert "calls with a single new token" in out
    code, out, _ = run(capsys, str(folder), *sizes, "--recipe", "sink-window:min_length=1000")
    assert "attention: dense in all" in out
    assert "attention" not in run(capsys, str(folder), *sizes)[1].replace("attention implementation", "")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["/nowhere/at/all"], "/nowhere/at/all"),
        (["{folder}", "--lengths", "abc"], "abc"),
        (["{folder}", "--recipe", "nonsense"], "nonsense"),
        (["{folder}", "--repeats", "0"], "repeats"),
        (["{folder}", "--recipe", "missing.yaml"], "missing.yaml"),
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
