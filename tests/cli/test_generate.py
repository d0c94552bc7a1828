from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from farspan.cli import main
from farspan.evals.generate import TokenCounter
from farspan.evals.schema import ContextRef, read_samples
from tests.evals.generate.conftest import train_byte_level

FAMILY = "tests.evals.generate.passkey:Passkey"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_byte_level()


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tokenizer; the family of the tests stands in the table."""
    monkeypatch.setenv("FARSPAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("farspan.evals.tasks.TASKS", {"passkey": FAMILY})
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def run(folder: Path, *arguments: str) -> int:
    """The exit code of the command."""
    standing = ["--tokenizer", str(folder / "tokenizer.json"), "--out", str(folder / "x.jsonl")]
    with pytest.raises(SystemExit) as left:
        main(["generate", *arguments, *standing])
    return int(str(left.value.code or 0))


def test_samples_fit_their_lengths(folder: Path, tokenizer: Tokenizer) -> None:
    assert run(folder, "passkey:hidden", "--length", "400,600", "-n", "3", "--knob", "depth=10") == 0
    samples = list(read_samples(folder / "x.jsonl"))
    assert [(sample.length, sample.metadata["index"]) for sample in samples] == [
        (length, index) for length in (400, 600) for index in range(3)
    ]
    counter = TokenCounter(tokenizer)
    for sample in samples:
        total = counter.count(sample.text + sample.question + sample.answer_prefix) + (sample.max_new_tokens or 0)
        assert sample.length - 40 < total <= sample.length
        assert sample.depth == 10


def test_an_interrupted_file_is_gone_on_with(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("passkey", "--length", "400", "-n", "5")
    assert run(folder, *arguments) == 0
    whole = (folder / "x.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (folder / "x.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:50])
    assert run(folder, *arguments) == 0
    assert (folder / "x.jsonl").read_bytes() == whole
    assert "2 of them were there" in capsys.readouterr().out


def test_other_samples_are_not_overwritten_unasked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "passkey", "--length", "400", "-n", "2") == 0
    before = (folder / "x.jsonl").read_bytes()
    assert run(folder, "passkey", "--length", "400", "-n", "2", "--seed", "1") == 2
    assert "holds other samples" in capsys.readouterr().err
    assert (folder / "x.jsonl").read_bytes() == before
    assert run(folder, "passkey", "--length", "400", "-n", "2", "--seed", "1", "--overwrite") == 0
    assert (folder / "x.jsonl").read_bytes() != before


def test_lazy_files_rebuild_their_contexts(folder: Path) -> None:
    assert run(folder, "passkey", "--length", "400", "-n", "1", "--lazy") == 0
    (sample,) = read_samples(folder / "x.jsonl")
    assert isinstance(sample.context, ContextRef)
    assert sample.answers[0] in sample.text


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("passkye", "--length", "1k"), "unknown task family 'passkye'; did you mean passkey?"),
        (("passkey:hiden", "--length", "1k"), "no task 'hiden'; did you mean hidden?"),
        (("passkey", "--length", "long"), "'long' is not a length"),
        (("passkey", "--length", "30"), "the smallest feasible length is"),
        (("passkey", "--length", "1k", "--knob", "deep=1"), "no knob 'deep'; it has: depth=50.0"),
        (("passkey", "--length", "1k", "--knob", "deep"), "'deep' is not a knob"),
        (("passkey", "--length", "1k", "--chat"), "no chat template"),
    ],
)
def test_bad_input_gives_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], line: str
) -> None:
    assert run(folder, *arguments) == 2
    shown = capsys.readouterr().err.strip()
    assert line in shown
    assert len(shown.splitlines()) == 1
    assert not (folder / "x.jsonl").exists()
