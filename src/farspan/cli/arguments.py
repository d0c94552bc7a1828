"""Reading what a user types: lengths, durations, folders to write in.

Plain functions from text to value. They serve as `parser=` of an option or are called with a string; a value that is
read already passes through, since defaults take the same way as typed text.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import yaml

from farspan.errors import FarspanError

_LENGTH = re.compile(r"(\d+(?:\.\d+)?|\.\d+)([km]?)", re.IGNORECASE)
_LENGTH_UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(ms|s|m|h|d)", re.IGNORECASE)
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class ArgumentError(FarspanError):
    """A value on the command line that cannot be read."""


def parse_length(text: str | int) -> int:
    """Read a length in tokens: `4096`, `4k` = 4096, `1.2k` = 1229 (rounded), `1m` = 1048576.

    Raises
    ------
    ArgumentError : the text is no positive length.
    """
    match = _LENGTH.fullmatch(str(text).strip().replace("_", ""))
    tokens = round(float(match[1]) * _LENGTH_UNITS[match[2].lower()]) if match else 0
    if tokens < 1:
        raise ArgumentError(f"'{text}' is not a length in tokens; write a positive number such as 4096, 4k or 1m")
    return tokens


def parse_lengths(text: str | Iterable[int]) -> list[int]:
    """Read lengths separated by commas or spaces, `1k,2k,4k`; ascending, each once.

    Raises
    ------
    ArgumentError : no length is given, or one of them is none.
    """
    parts: list[str] | list[int] = re.split(r"[,\s]+", text.strip(", \t\n")) if isinstance(text, str) else list(text)
    if not parts or parts == [""]:
        raise ArgumentError("no length given; write one or more, such as 1k,2k,4k")
    return sorted({parse_length(part) for part in parts})


def parse_duration(text: str | float) -> float:
    """Read a duration as seconds: `90s`, `3m`, `1h`, `1h30m`; a bare number is seconds.

    Raises
    ------
    ArgumentError : the text is no positive, finite duration.
    """
    typed = str(text).strip().replace(" ", "")
    parts = _DURATION_PART.findall(typed)
    if parts and _DURATION_PART.sub("", typed) == "":
        seconds = sum(float(number) * _DURATION_UNITS[unit.lower()] for number, unit in parts)
    else:
        try:
            seconds = float(typed)
        except ValueError:
            seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise ArgumentError(f"'{text}' is not a duration; write 90s, 3m or 1h")
    return seconds


def parse_setting(text: str) -> tuple[str, object]:
    """Read one setting of a position method, `beta_fast=16`; the value is YAML.

    Raises
    ------
    ArgumentError : no key, a value that cannot be read, or a setting that has an option of its own.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ArgumentError(f"--param '{text}' is not KEY=VALUE; write for example --param beta_fast=16")
    if key.strip() in ("factor", "compose", "layer_type"):
        raise ArgumentError(f"--param '{text}': use --target-length, --compose and --layer-type for these")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ArgumentError(f"--param '{text}': the value cannot be read") from error


def parse_knobs(typed: Iterable[str]) -> dict[str, object]:
    """Read knobs of a benchmark family, `key=value` each; values are YAML.

    Raises
    ------
    ArgumentError : no key, or a value that cannot be read.
    """
    knobs: dict[str, object] = {}
    for pair in typed:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ArgumentError(f"'{pair}' is not a knob; write --knob name=value")
        try:
            knobs[name.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ArgumentError(f"the value of --knob {pair} cannot be read") from error
    return knobs


def parse_price(text: str) -> tuple[float, float]:
    """Read two prices of a million tokens, of prompts and of answers: `2.5,10`.

    Raises
    ------
    ArgumentError : not two numbers of 0 or more.
    """
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        first = second = math.nan
    if not (first >= 0 and second >= 0):
        raise ArgumentError(f"'{text}' is no price; write that of a million tokens read and written, such as 2.5,10")
    return first, second


def output_folder(path: str | Path) -> Path:
    """Make a folder, with its parents, and check that files can be written in it.

    Raises
    ------
    ArgumentError : the folder cannot be made or written.
    """
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Permission bits lie for the superuser and on read-only mounts; only a written file proves it.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ArgumentError(
            f"cannot write in output folder {folder}: {error.strerror or error}; choose another with --out"
        ) from error
    return folder


def output_file(path: str | Path) -> Path:
    """Check that a file can be written at this path, making its folder; an existing file is left as it is.

    Raises
    ------
    ArgumentError : the path is a folder, or its folder cannot be written.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        raise ArgumentError(f"{file} is a folder; name a file with --out")
    output_folder(file.parent)
    return file
