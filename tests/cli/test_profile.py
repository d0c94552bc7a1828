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
