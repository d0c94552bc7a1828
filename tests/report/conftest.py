"""The three example records and their built reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from farspan.report import RunRecord, build_report
from tests.report.examples import minimal_record, nothing_helps_record, winner_record

EXAMPLES: dict[str, Callable[[], RunRecord]] = {
    "winner": winner_record,
    "nothing": nothing_helps_record,
    "minimal": minimal_record,
}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Paths of the report pages of the three examples."""
    folder = tmp_path_factory.mktemp("reports")
    return {name: build_report(make(), folder / name) for name, make in EXAMPLES.items()}


@pytest.fixture(scope="session")
def pages(built: dict[str, Path]) -> dict[str, str]:
    """The three pages as text."""
    return {name: path.read_text(encoding="utf-8") for name, path in built.items()}
