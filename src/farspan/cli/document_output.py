"""Tables of document benchmarks on the screen."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

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
    _show_published(console, found)
    for note in (*found.data_notes, *found.table.notes):
        console.print(f"note: {note}", style="yellow", highlight=False)


def _show_published(console: Console, found: DocumentRun) -> None:
    """Published scores in the rows of `overall`, where every question of a row could be asked."""
    from rich.table import Table

    from farspan.evals.documents.published import published_scores

    known = published_scores(found.benchmark.name)
    rows = [
        row
        for row in found.table.rows
        if row.group == "overall" and known is not None and known.of("overall", row.name)
    ]
    if known is None or not rows:
        return
    table = Table("published", *(row.name for row in rows), title=known.source)
    for model, groups in known.scores.items():
        values = groups.get("overall", {})
        if values:
            table.add_row(model, *(f"{values[row.name]:.1f}" if row.name in values else "-" for row in rows))
    console.print(table)
