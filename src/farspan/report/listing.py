"""The report's tables in HTML: what each lever bought and cost, every trial, every lever tried, and raw numbers.

On a wide screen these are ordinary tables; the style sheet turns every row into a block on a narrow one, for which each
cell carries the name of its column.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from farspan.report import units
from farspan.report.cost import is_winner, trial_length_words
from farspan.report.record import AblationRow, RunRecord, TrialRecord
from farspan.report.tables import Table, Value, levers_tried

SHOWN_TRIALS = 12


@dataclass(frozen=True)
class Column:
    """A column's name and the CSS classes of its cells."""

    name: str
    kind: str = ""


def lever_table(record: RunRecord) -> str:
    """What each lever of the winner bought and cost, grouped by where the field's map places it."""
    if not record.ablation:
        return ""
    columns = (
        *(Column("Lever", "head"), Column("Bought", "range"), Column("Time to first token", "num")),
        *(Column("Peak memory", "num"), Column("Learned in", "num"), Column("Note", "why")),
    )
    ends = [end for row in record.ablation for end in (row.bought, row.bought_lo, row.bought_hi) if end]
    span = (min([1.0, *ends]), max([1.0, *ends]))
    grouped = {row.perspective for row in record.ablation} != {None}
    body = []
    for perspective, rows in groupby(sorted(record.ablation, key=_perspective), key=_perspective):
        if grouped:
            body.append(f'<tr class="group"><th colspan="{len(columns)}">{escape(perspective or "Other")}</th></tr>')
        body += [html_row(columns, _ablation_cells(row, span)) for row in rows]
    return html_table(columns, body)


def _perspective(row: AblationRow) -> str:
    return row.perspective or ""


def _ablation_cells(row: AblationRow, span: tuple[float, float]) -> list[str]:
    interval = units.ratio_interval(row.bought_lo, row.bought_hi)
    aside = ", ".join(filter(None, (interval, units.samples([row.n]) if row.n else "")))
    bought = f"{units.ratio(row.bought)} effective length" if row.bought is not None else units.MISSING
    return [
        recipe_code(row.lever),
        bought + _sub(aside) + _range_mark(row, span),
        units.ratio(row.ttft_ratio),
        units.ratio(row.memory_ratio),
        "nothing to learn" if row.fit_seconds == 0 else units.seconds(row.fit_seconds),
        escape(row.note),
    ]


def _range_mark(row: AblationRow, span: tuple[float, float], width: int = 150) -> str:
    if row.bought is None or row.bought <= 0 or span[0] <= 0 or span[1] <= span[0]:
        return ""

    def place(value: float) -> float:
        share = math.log(max(value, span[0]) / span[0]) / math.log(span[1] / span[0])
        return round(6 + share * (width - 12), 1)

    ends = ""
    if row.bought_lo is not None and row.bought_hi is not None:
        ends = f'<line x1="{place(row.bought_lo)}" x2="{place(row.bought_hi)}" y1="8" y2="8"/>'
    return (
        f'<svg class="range-mark" width="{width}" height="16" aria-hidden="true">'
        f'<line class="one" x1="{place(1.0)}" x2="{place(1.0)}" y1="1" y2="15"/>{ends}'
        f'<circle cx="{place(row.bought)}" cy="8" r="4"/></svg>'
    )


def trial_table(record: RunRecord) -> str:
    """Every trial, the kept ones first and the best on top; a long tail is folded away on screen and open in print."""
    ordered = sorted(
        (trial for trial in record.trials if trial.state != "baseline"),
        key=lambda t: (
            not is_winner(t, record),
            not t.kept,
            ("complete", "pruned", "failed").index(t.state),
            -(t.effective_length or 0.0),
            t.number,
        ),
    )
    ordered = [trial for trial in record.trials if trial.state == "baseline"] + ordered
    every = (
        *(Column("Recipe", "recipe head"), Column("Outcome", "state"), Column("Effective length", "num")),
        *(Column("Against baseline", "num"), Column("Time to first token", "num"), Column("Peak memory", "num")),
        *(Column("Took", "num"), Column("Why", "why")),
    )
    columns = [column for column in every if _known(column, ordered)]
    rows = [html_row(columns, _trial_cells(trial, record, columns), _trial_class(trial, record)) for trial in ordered]
    if len(rows) <= SHOWN_TRIALS + 2:
        return html_table(columns, rows)
    rest = rows[SHOWN_TRIALS:]
    return (
        html_table(columns, rows[:SHOWN_TRIALS])
        + f'<details class="more"><summary>{len(rest)} more trials</summary>{html_table(columns, rest)}</details>'
    )


def shared_length(record: RunRecord) -> int | None:
    """The length at which the cost of every trial was measured, or `None` if there is no single one."""
    lengths = {trial.length for trial in record.trials if trial.length is not None}
    return lengths.pop() if len(lengths) == 1 else None


def _known(column: Column, trials: Sequence[TrialRecord]) -> bool:
    return {
        "Time to first token": any(trial.ttft_s is not None for trial in trials),
        "Peak memory": any(trial.peak_memory_bytes is not None for trial in trials),
        "Took": any(trial.seconds is not None for trial in trials),
        "Why": any(trial.reason for trial in trials),
    }.get(column.name, True)


def _trial_class(trial: TrialRecord, record: RunRecord) -> str:
    return "winner" if is_winner(trial, record) else trial.state


def _trial_cells(trial: TrialRecord, record: RunRecord, columns: Sequence[Column]) -> list[str]:
    value, interval = trial_length_words(trial, record)
    n = units.samples([trial.n]) if trial.n and trial.effective_length is not None else ""
    lengths = _sub(", ".join(filter(None, (escape(interval) if interval != value else "", n))))
    ratios = units.ratio_interval(trial.ratio_lo, trial.ratio_hi)
    at = f"at {units.count(trial.length)} tokens" if trial.length and shared_length(record) is None else ""
    cells = {
        "Recipe": f'<span class="numbered"><span>{trial.number}</span>'
        + (recipe_code(trial.recipe) if trial.recipe else "no lever")
        + "</span>",
        "Outcome": _outcome(trial, record),
        "Effective length": (f"{escape(value)} tokens" if trial.effective_length is not None else value) + lengths,
        "Against baseline": units.ratio(trial.ratio_to_baseline) + _sub(ratios),
        "Time to first token": units.seconds(trial.ttft_s) + (_sub(at) if trial.ttft_s is not None else ""),
        "Peak memory": units.size(trial.peak_memory_bytes),
        "Took": units.seconds(trial.seconds),
        "Why": escape(trial.reason),
    }
    return [cells[column.name] for column in columns]


def _outcome(trial: TrialRecord, record: RunRecord) -> str:
    if is_winner(trial, record):
        return '<span class="state good">winner</span>'
    if trial.kept:
        return '<span class="state good">kept</span>'
    words = {"baseline": "baseline", "complete": "not kept", "pruned": "stopped early", "failed": "failed"}
    return f'<span class="state">{words[trial.state]}</span>'


def tried_table(record: RunRecord) -> str:
    """Every lever that was tried, with how often and how far its best trial went."""
    tried = levers_tried(record)
    if not tried:
        return ""
    columns = (
        *(Column("Lever"), Column("Trials", "num"), Column("Kept", "num")),
        *(Column("Best against baseline", "num"), Column("In trial", "num")),
    )
    rows = []
    for row in tried:
        best = row.best
        ratios = units.ratio_interval(best.ratio_lo, best.ratio_hi) if best else ""
        cells = [
            recipe_code(row.lever),
            str(row.trials),
            str(row.kept),
            (units.ratio(best.ratio_to_baseline) if best else units.MISSING) + _sub(ratios),
            str(best.number) if best else units.MISSING,
        ]
        rows.append(html_row(columns, cells))
    return html_table(columns, rows, "small")


def numbers(table: Table) -> str:
    """A folded table of raw numbers with a link to the same as CSV."""
    head = "".join(f"<th>{escape(column.replace('_', ' '))}</th>" for column in table.columns)
    body = "".join("<tr>" + "".join(f"<td>{_raw(value)}</td>" for value in row) + "</tr>" for row in table.rows)
    link = f'<a href="tables/{table.name}.csv">tables/{table.name}.csv</a>'
    return (
        f'<details class="numbers"><summary>Numbers</summary><p class="muted">Also in {link}</p>'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>'
    )


def _raw(value: Value) -> str:
    if value is None:
        return units.MISSING
    return escape(f"{value:.6g}" if isinstance(value, float) else str(value))


def recipe_code(recipe: str) -> str:
    """A recipe or lever as code that breaks between its settings and not inside them, while that is possible."""
    parts = recipe.replace(",", ",\0").split("\0")
    return "<code>" + "".join(f'<span class="part">{escape(part)}</span>' for part in parts) + "</code>"


def _sub(text: str) -> str:
    return f' <span class="sub">{text}</span>' if text else ""


def html_row(columns: Sequence[Column], cells: Iterable[str], kind: str = "") -> str:
    """A row of cells, which are HTML, for `html_table`."""
    inner = "".join(
        f'<td class="{column.kind}" data-name="{escape(column.name)}"><div>{cell}</div></td>'
        for column, cell in zip(columns, cells, strict=True)
    )
    return f'<tr class="{kind}">{inner}</tr>' if kind else f"<tr>{inner}</tr>"


def html_table(columns: Sequence[Column], rows: Sequence[str], kind: str = "stack") -> str:
    """A table of rows that `html_row` made; on narrow screens every row becomes a block."""
    head = "".join(f'<th class="{column.kind}" scope="col">{escape(column.name)}</th>' for column in columns)
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
