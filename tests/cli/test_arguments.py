"""Lengths, durations and output folders as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.cli.arguments import (
    ArgumentError,
    output_file,
    output_folder,
    parse_duration,
    parse_length,
    parse_lengths,
)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("4096", 4096),
        ("4k", 4096),
        ("4K", 4096),
        (" 1k ", 1024),
        ("1.2k", 1229),
        (".5k", 512),
        ("1m", 1048576),
        ("0.5M", 524288),
        ("1_000", 1000),
        (512, 512),
    ],
)
def test_lengths_are_read(text: str | int, tokens: int) -> None:
    assert parse_length(text) == tokens


@pytest.mark.parametrize("text", ["", "0", "-4", "4kk", "k", "4g", "four", "1e3", "4 096", "0.0001k", "nan", "1.k"])
def test_other_lengths_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="is not a length"):
        parse_length(text)


@given(st.integers(1, 10**12))
def test_every_positive_integer_is_a_length(tokens: int) -> None:
    assert parse_length(str(tokens)) == parse_length(tokens) == tokens
    assert parse_length(f"{tokens}k") == 1024 * tokens


def test_lists_of_lengths_are_sorted_sets() -> None:
    assert parse_lengths("4k, 1k,2k,1024") == [1024, 2048, 4096]
    assert parse_lengths("1k 2k") == [1024, 2048]
    assert parse_lengths([8, 4]) == [4, 8]
    for nothing in ("", " , ", []):
        with pytest.raises(ArgumentError, match="no length given"):
            parse_lengths(nothing)
    with pytest.raises(ArgumentError, match="'x'"):
        parse_lengths("1k,x")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("3m", 180),
        ("3M", 180),
        ("1h", 3600),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1 h 5 s", 3605),
        ("250ms", 0.25),
        ("2d", 172800),
        ("45", 45),
        (180.0, 180),
    ],
)
def test_durations_are_read(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "0s", "-3m", "3x", "m", "3m4", "nan", "inf", "1h-3m", "soon"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="is not a duration"):
        parse_duration(text)


def test_output_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    folder = output_folder(str(tmp_path / "a" / "b"))
    assert folder.is_dir()
    assert list(folder.iterdir()) == []
    assert output_folder(folder) == folder


def test_an_unwritable_folder_is_named_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "below", Path("/proc"), Path("/proc/nowhere")):
        with pytest.raises(ArgumentError) as caught:
            output_folder(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_output_file(tmp_path: Path) -> None:
    path = output_file(tmp_path / "new" / "x.jsonl")
    assert path.parent.is_dir()
    assert not path.exists()
    path.write_text("kept")
    assert output_file(path).read_text() == "kept"
    with pytest.raises(ArgumentError, match="is a folder"):
        output_file(tmp_path)
    with pytest.raises(ArgumentError, match="cannot write"):
        output_file(path / "y.jsonl")
