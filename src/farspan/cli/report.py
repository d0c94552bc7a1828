"""`farspan report`: make a run's page and tables again from its record, without measuring anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a `farspan tune` run, or its run.json.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write here instead of into the run's folder.")
    ] = None,
) -> None:
    """Make the report of a run again: report.html, and the numbers of every figure as CSV in tables/.

    Nothing is measured; everything comes from the run's run.json.

    Example:

        farspan report runs/first
    """
    from farspan.report import RunRecord, build_report

    record = RunRecord.load(run)
    typer.echo(build_report(record, out if out is not None else run if run.is_dir() else run.parent))
