"""From a record to files: the page and a CSV of every figure, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from farspan.report.page import render
from farspan.report.record import RecordError, RunRecord, write_atomically
from farspan.report.tables import write_tables

REPORT_NAME = "report.html"
TABLES_NAME = "tables"


def build_report(record: RunRecord, out_dir: Path) -> Path:
    """Write `report.html` and `tables/*.csv` of a run and return the page's path.

    Equal records give equal bytes. Nothing outside `out_dir` is written.

    Parameters
    ----------
    record : what the run left behind
    out_dir : folder to write into, made if missing

    Raises
    ------
    RecordError : the folder cannot be written.
    """
    page = out_dir / REPORT_NAME
    text = render(record)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        write_tables(record, out_dir / TABLES_NAME)
        write_atomically(page, text)
    except OSError as error:
        raise RecordError(f"cannot write the report to {out_dir}: {error.strerror or error}") from error
    return page
