"""`farspan systems` on the screen."""

from __future__ import annotations

import pytest

from farspan.cli import main
from farspan.cli.systems import to_markdown


def _shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["systems", *arguments])
    assert not ended.value.code
    return capsys.readouterr().out


def test_everything(capsys: pytest.CaptureFixture[str]) -> None:
    shown = _shown(capsys)
    assert "46 systems:" in shown
    assert shown.count("giraffe ") == 1


def test_below_a_place(capsys: pytest.CaptureFixture[str]) -> None:
    shown = _shown(capsys, "A3")
    assert "A3.4  Text-based, writable" in shown
    assert "supo" in shown
    assert "giraffe" not in shown
    assert "6 systems" in shown


def test_of_a_question(capsys: pytest.CaptureFixture[str]) -> None:
    shown = _shown(capsys, "--question", "4")
    assert shown.startswith("Question 4, long context or retrieval")
    assert "blockrank" in shown
    assert "siri" not in shown


def test_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert _shown(capsys, "--markdown") == to_markdown()


@pytest.mark.parametrize("arguments", [["Q"], ["--question", "0"], ["--question", "x"]])
def test_what_is_not_there(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["systems", *arguments])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
