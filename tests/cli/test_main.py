"""The table of commands, exit codes, and one line for what went wrong."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from farspan import __version__, cli
from farspan.cli import COMMANDS, main

HEAVY = ("torch", "transformers", "optuna", "inspect_ai", "plotly", "numpy")


@pytest.fixture
def toy_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command `toy` stands in the table."""
    monkeypatch.setitem(COMMANDS, "toy", ("tests.cli.toy_command:toy", "End as told."))


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


@pytest.mark.parametrize("arguments", [["--help"], [], ["-h"]])
def test_help_lists_every_command_without_loading_one(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "load_command", lambda name: pytest.fail(f"{name} was loaded"))
    assert _run(*arguments) == 0
    shown = capsys.readouterr().out
    for name, (_, line) in COMMANDS.items():
        assert name in shown
        assert line[:30] in shown


@pytest.mark.timing
def test_help_takes_under_half_a_second() -> None:
    script = Path(sys.executable).with_name("farspan")
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([script, "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5, seconds


def test_help_and_import_load_no_heavy_library() -> None:
    code = (
        "import contextlib, io, sys\n"
        "import farspan\n"
        "from farspan.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(['--help'])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--version") == 0
    assert capsys.readouterr().out == f"farspan {__version__}\n"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_a_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(name, "--help") == 0
    assert capsys.readouterr().out.count(f"farspan {name}") >= 2, "usage alone, no example"
    module, _, attribute = COMMANDS[name][0].partition(":")
    assert module == f"farspan.cli.{name}"
    assert callable(getattr(import_module(module), attribute))


@pytest.mark.usefixtures("toy_command")
@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["toy", "--ending", "refused"], 2, "farspan: this is refused because of two lines"),
        (["toy", "--ending", "missing"], 2, "farspan: cannot use /no/such/file: No such file or directory"),
        (["toy", "--ending", "interrupted"], 130, "farspan: interrupted"),
        (["toy", "--length", "4 miles"], 2, "'4 miles' is not a length"),
        (["toy", "--lenght", "4"], 2, "No such option"),
        (["toy", "--length"], 2, "'--length' requires an argument"),
        (["toy", "too", "many"], 2, "see farspan toy --help"),
        (["toi"], 2, "Did you mean 'toy'"),
        (["--nothing"], 2, "No such option"),
        (["toy", "--out", "/proc/no/such"], 2, "cannot write in output folder /proc/no/such"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(*arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("farspan: ")
    assert printed.err.count("\n") == 1
    assert line in printed.err


@pytest.mark.usefixtures("toy_command")
def test_help_breaks_lines_at_the_screens_width_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("toy", "--help") == 0
    shown = capsys.readouterr().out
    assert "What ends badly leaves one line on the error stream." in shown
    assert "     farspan toy --ending well" in shown


@pytest.mark.usefixtures("toy_command")
def test_good_input_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("toy", "--length", "8k") == 0
    assert capsys.readouterr().out == "length 8192\n"
    assert _run("toy", "--ending", "three") == 3


@pytest.mark.usefixtures("toy_command")
@pytest.mark.parametrize(("ending", "fault"), [("fault", RuntimeError), ("nameless", OSError)])
def test_faults_of_the_program_propagate(ending: str, fault: type[Exception]) -> None:
    with pytest.raises(fault):
        main(["toy", "--ending", ending])


def test_module_runs_as_the_script_does() -> None:
    done = subprocess.run([sys.executable, "-m", "farspan.cli", "systems", "Z9"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("farspan: no place 'Z9'")


def test_a_closed_pipe_is_no_fault() -> None:
    done = subprocess.run(
        f"'{sys.executable}' -m farspan.cli systems | head -1", shell=True, capture_output=True, text=True
    )
    assert done.stdout == "A  Architecture\n"
    assert "Traceback" not in done.stderr
