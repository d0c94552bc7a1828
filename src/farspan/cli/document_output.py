"""Tables of document benchmarks on the screen."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farspan.evals.documents.run import DocumentRun


def show(found: DocumentRun, *, title: str = "") -> None:
    """Every group of rows as a table, then what must be known before believing them."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    reading = "as published" if found.reading == "official" else "fixed"
    console.print(f"{found.benchmark.title}, {reading}{', ' + title if title else ''}", style="bold")
    for group, rows in groupby(found.table.rows, key=lambda row: row.group):
        table = Table(group.replace("_", " "), "score, %", "standard error", "n")
        for row in rows:
            value = "-" if row.value is None else f"{row.value:.2f}"
            error = "" if row.stderr is None else f"±{row.stderr:.2f}"
            table.add_row(row.name, value, error, f"{row.n:,}" if row.n else "")
        console.print(table)
    for note in found.table.notes:
        console.print(f"note: {note}", style="yellow", highlight=False)
