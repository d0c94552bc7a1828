"""Runs golden files through the adapters. It knows the files' shape and no system; a new system is a new adapter file.

A golden file is `{"source": ..., "cases": [{"name", "input", "expected", ...}]}`. Its name says which adapter module
checks it; the case says which function. What no adapter knows counts as failed.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

Case = dict[str, object]
Adapter = Callable[[Case], object]

ADAPTERS_FOLDER = Path(__file__).parent / "adapters"


@dataclass(frozen=True)
class Outcome:
    """One checked case; `problem` is empty if it passed."""

    file: str
    case: str
    problem: str = ""


def golden_files(paths: Iterable[str | Path]) -> Iterator[Path]:
    """The given files, and every JSON file of the given folders."""
    for path in map(Path, paths):
        yield from sorted(path.rglob("*.json")) if path.is_dir() else [path]


def known_systems() -> list[str]:
    """Names of the adapter modules."""
    return sorted(file.stem for file in ADAPTERS_FOLDER.glob("*.py") if not file.stem.startswith("_"))


def system_of(file: Path, systems: Iterable[str]) -> str | None:
    """The longest system name that the file's name is, or starts with at a word's end; None if there is none."""
    stem = file.stem.replace("-", "_").lower()
    fitting = [system for system in systems if re.match(rf"{re.escape(system)}(?![a-z])", stem)]
    return max(fitting, key=len, default=None)


def function_of(case: Case, adapters: ModuleType) -> str | None:
    """The function a case is about: its own field, its input's, the system's default, or the case's name."""
    given = case.get("input")
    fields = given if isinstance(given, dict) else {}
    stated = (case.get("function"), fields.get("function"), fields.get("fn"), getattr(adapters, "DEFAULT", None))
    return next((name for name in (*stated, case.get("name")) if isinstance(name, str)), None)


def check_case(case: Case, adapters: ModuleType) -> str:
    """Run one case; the empty string if it passed, else what is wrong, in one line."""
    function = function_of(case, adapters)
    table: dict[str, Adapter] = adapters.ADAPTERS
    if function not in table:
        return f"no adapter for function {function!r}"
    try:
        returned = table[function](case)
    except AssertionError as error:
        return f"{function}: {_first_line(error) or 'assertion failed'}"
    except Exception as error:
        return f"{function}: {type(error).__name__}: {_first_line(error)}"
    return "" if returned is None else f"{function}: the adapter returned a value instead of checking it"


def check_file(file: Path) -> list[Outcome]:
    """Run every case of a file; a file that cannot be read, or that no adapter knows, is failures too."""
    label = file.name
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        cases = document["cases"]
        if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
            raise TypeError("'cases' is not a list of objects")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [Outcome(label, "-", f"not a golden file: {type(error).__name__}: {_first_line(error)}")]
    names = [str(case.get("name", index)) for index, case in enumerate(cases)]
    system = system_of(file, known_systems())
    if system is None:
        return [Outcome(label, name, "no adapter for this system") for name in names]
    try:
        adapters = importlib.import_module(f"tests.golden.adapters.{system}")
    except Exception as error:
        problem = f"adapter {system} cannot be loaded: {type(error).__name__}: {_first_line(error)}"
        return [Outcome(label, name, problem) for name in names]
    return [Outcome(label, name, check_case(case, adapters)) for name, case in zip(names, cases, strict=True)]


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
