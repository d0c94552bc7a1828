"""`farspan squeeze`: writes a context and a recipe, uses them again, and says what is wrong in one line."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from farspan.attention import Squeezed, load_prefix
from farspan.cli import main
from farspan.recipe import Recipe


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["squeeze", *map(str, arguments)])
    return int(ended.value.code or 0)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    rng = random.Random(0)
    lines = [f"line {n}: REGISTER_CONTENT is <{rng.randrange(50000)}>\n" for n in rng.sample(range(10, 99), 20)]
    file = tmp_path / "context.txt"
    file.write_text("".join(lines))
    return file


def test_a_context_is_read_once_and_asked_again(
    context: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ("reference", "--context", context, "--out", out, "--sparsity", "0.5", "--hierarchical")
    assert run(*command) == 0
    shown = capsys.readouterr().out
    assert "4 layers clustered, 0 dense" in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("at other sparsities")]
    shares = {float(sparsity): int(share) for sparsity, share in re.findall(r"(0\.\d) (\d+)% \(", line)}
    assert list(shares) == [0.5, 0.7, 0.8, 0.9]
    assert sorted(shares.values(), reverse=True) == list(shares.values())
    (lever,) = Recipe.from_yaml(out / "recipe.yaml")
    assert isinstance(lever, Squeezed)
    assert (lever.sparsity, lever.hierarchical) == (0.5, True)
    written = (out / "context" / "prefix.safetensors").stat().st_mtime_ns
    questions = ("--ask", "line 30: REGISTER_CONTENT is <", "--ask", "line 61:", "--max-new-tokens", "4")
    answers = []
    for _ in range(2):
        assert run(*command, *questions) == 0
        lines = capsys.readouterr().out.splitlines()
        answers.append([line for line in lines if not line.startswith("(")])
    assert answers[0] == answers[1]
    assert (out / "context" / "prefix.safetensors").stat().st_mtime_ns == written
    assert len(load_prefix(out / "context")) > 200


def test_wrong_input_is_one_line(context: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run("reference", "--context", context, "--out", out, "--recipe", "pbs") == 2
    assert "leave attention levers out" in capsys.readouterr().err
    short = tmp_path / "short.txt"
    short.write_text("a few words")
    assert run("reference", "--context", short, "--out", out) == 2
    assert "needs at least 120" in capsys.readouterr().err
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n")
    assert run("reference", "--context", empty, "--out", out) == 2
    assert "is empty" in capsys.readouterr().err
    long = tmp_path / "long.txt"
    long.write_text(context.read_text() * 4)
    assert run("reference", "--context", long, "--out", out) == 2
    assert "stretch the window with --recipe yarn:factor=" in capsys.readouterr().err
    assert run("reference", "--context", tmp_path / "none.txt", "--out", out) == 2
