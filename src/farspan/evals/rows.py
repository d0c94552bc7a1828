"""Reading rows of published data files: jsonl, json arrays, and parquet. No network; files are named by the user."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from farspan.errors import FarspanError


class RowError(FarspanError):
    """A data file that cannot be read, or a row that lacks a field."""


def read_rows(path: str | Path) -> Iterator[dict[str, object]]:
    """The rows of a file in order, each a mapping.

    A `.parquet` file is read as such; anything else is JSON: one array of objects, or one object a line.

    Raises
    ------
    RowError : missing or unreadable file, or something that is no object (line or row number named).
    """
    path = Path(path)
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RowError(f"cannot read {path}: {error}") from error
    try:
        if text.lstrip().startswith("["):
            rows = json.loads(text)
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise RowError(f"{path} is neither a JSON array nor one JSON object a line: {error}") from error
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise RowError(f"{path}, row {number} is no object")
        yield row


def required(row: Mapping[str, object], name: str, *, path: str | Path, row_number: int) -> object:
    """A field of a row; `RowError` names the fields there are."""
    if name not in row:
        raise RowError(f"{path}, row {row_number} has no field '{name}', only: {', '.join(map(str, row))}")
    return row[name]


def _parquet(path: Path) -> Iterator[dict[str, object]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise RowError(f"cannot read {path}: {error}") from error
    yield from table.to_pylist()
