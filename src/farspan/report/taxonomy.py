"""The plane of scope and dispersion with tasks on it, as a page: a picture, and a table of claims and places.

It draws places that are given; where they come from is the evals room's business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import plotly.graph_objects as go

from farspan.evals.taxonomy import HIGH_DISPERSION, HIGH_SCOPE
from farspan.report import listing, units
from farspan.report.document import document, figures, section, swatch
from farspan.report.listing import Column
from farspan.report.reading import Panel
from farspan.report.record import RecordError, write_atomically
from farspan.report.tables import Table, Value
from farspan.report.theme import LIGHT, MOST_RUNS, RUN_SYMBOLS, axis, figure

if TYPE_CHECKING:
    from farspan.evals.taxonomy_places import Spread, TaskPlace

PAGE_NAME = "taxonomy.html"
TABLES_NAME = "tables"
ScopeKind = Literal["witness", "verification"]
LEAST_SCOPE = 1e-5
PARTS = ("obscurity", "interspersion", "chain", "non_redundancy", "spread_entropy", "query_overlap")
_SHAPES = {
    "circle": '<circle cx="7" cy="6" r="4.5" {paint}/>',
    "square": '<path d="M3 2h8v8H3z" {paint}/>',
    "diamond": '<path d="M7 .5 12.5 6 7 11.5 1.5 6z" {paint}/>',
    "triangle-up": '<path d="M7 1.5 12 10.5H2z" {paint}/>',
    "x": '<path d="M3 2 11 10M11 2 3 10" {paint}/>',
    "cross": '<path d="M7 1v10M2 6h10" {paint}/>',
}


@dataclass(frozen=True)
class TaxonomyView:
    """What a page shows.

    places : tasks; those that are not on the plane stand in the table alone
    scope : whether scope means the smallest evidence, or all that must be read to be sure
    """

    places: Sequence[TaskPlace]
    scope: ScopeKind = "witness"

    @property
    def on_plane(self) -> list[TaskPlace]:
        """Tasks that have evidence."""
        return [place for place in self.places if place.annotation.plane]

    def spread(self, place: TaskPlace) -> Spread:
        """The scope of a task, of the kind that is shown."""
        return place.scope if self.scope == "witness" else place.verification

    @property
    def benchmarks(self) -> list[str]:
        """Names in the order of their first task."""
        return list(dict.fromkeys(place.annotation.benchmark for place in self.places))


def cell_words(scope: float, dispersion: float, *, short: bool = False) -> str:
    """A cell of the plane in words: `low scope, high dispersion`, or short `low/high`."""
    first, second = ("high" if scope >= HIGH_SCOPE else "low"), ("high" if dispersion >= HIGH_DISPERSION else "low")
    return f"{first}/{second}" if short else f"{first} scope, {second} dispersion"


def build_taxonomy_page(view: TaxonomyView, out_dir: Path) -> Path:
    """Write `taxonomy.html` and `tables/taxonomy.csv`, and return the page's path. Equal views give equal bytes.

    Raises
    ------
    RecordError : the folder cannot be written.
    """
    text = render_taxonomy(view)
    try:
        folder = out_dir / TABLES_NAME
        folder.mkdir(parents=True, exist_ok=True)
        table = place_table(view)
        write_atomically(folder / f"{table.name}.csv", table.to_csv())
        write_atomically(out_dir / PAGE_NAME, text)
    except OSError as error:
        raise RecordError(
            f"cannot write to {out_dir}: {error.strerror or error}; choose another --out folder"
        ) from error
    return out_dir / PAGE_NAME


def place_table(view: TaxonomyView) -> Table:
    """Every task with its place, the parts of it, and what was expected."""
    columns = (
        *("benchmark", "task", "skill", "unit", "length_tokens", "n", "evidence", "scope_tokens_mean"),
        *("scope_share", "scope_lo", "scope_hi", "verification_share"),
        *("dispersion", "dispersion_lo", "dispersion_hi", *PARTS),
        *("expected_scope", "expected_dispersion", "paper_class", "in_expected_cell", "differences"),
    )
    rows: list[tuple[Value, ...]] = []
    for place in view.places:
        known = place.annotation
        rows.append(
            (
                *(known.benchmark, known.task, place.skill, known.unit, place.length or None, place.n),
                *(place.scores[0].evidence_source, place.mean("scope_tokens")),
                *(place.scope.median, place.scope.lo, place.scope.hi, place.verification.median),
                *(place.dispersion.median, place.dispersion.lo, place.dispersion.hi),
                *(place.mean(part) for part in PARTS),
                *(known.expected_scope, known.expected_dispersion, known.paper_class),
                *(place.in_expected_cell() if known.plane else None, "; ".join(place.differences())),
            )
        )
    return Table("taxonomy", columns, tuple(rows))


def plane_panel(view: TaxonomyView) -> Panel:
    """One marker a task, with the quartiles of its samples as a cross; hollow where evidence was guessed."""
    plot = figure(520, left=56, right=16, top=26, bottom=48)
    styles = _styles(view)
    for name in view.benchmarks:
        color, symbol = styles[name]
        mine = [place for place in view.on_plane if place.annotation.benchmark == name]
        if not mine:
            continue
        across = [view.spread(place) for place in mine]
        up = [place.dispersion for place in mine]
        x = [max(spread.median, LEAST_SCOPE) for spread in across]
        plot.add_trace(
            go.Scatter(
                x=x,
                y=[spread.median for spread in up],
                mode="markers",
                marker={
                    "symbol": [f"{symbol}-open" if place.estimated else symbol for place in mine],
                    "size": 10,
                    "color": LIGHT[color],
                    "line": {"color": LIGHT[color], "width": 1.5},
                },
                error_x=_cross(
                    color,
                    [max(s.hi, LEAST_SCOPE) - at for s, at in zip(across, x, strict=True)],
                    [at - max(s.lo, LEAST_SCOPE) for s, at in zip(across, x, strict=True)],
                ),
                error_y=_cross(color, [s.hi - s.median for s in up], [s.median - s.lo for s in up]),
                hovertext=[_hover(view, place) for place in mine],
                hoverinfo="text",
            )
        )
    ticks = [10.0**power for power in range(-5, 1)]
    plot.update_layout(
        xaxis=axis("share of the context that is needed" if view.scope == "witness" else "share that must be read")
        | {
            "type": "log",
            "range": [math.log10(LEAST_SCOPE) - 0.1, 0.1],
            "tickvals": ticks,
            "ticktext": ["0.001 %", "0.01 %", "0.1 %", "1 %", "10 %", "100 %"],
        },
        yaxis=axis("dispersion") | {"range": [-0.03, 1.03], "tickvals": [0, 0.2, 0.4, 0.6, 0.8, 1.0]},
    )
    _thresholds(plot)
    counts = dict.fromkeys(_CELLS, 0)
    for place in view.on_plane:
        counts[cell_words(view.spread(place).median, place.dispersion.median)] += 1
    spoken = "tasks by scope and dispersion: " + ", ".join(f"{n} with {words}" for words, n in counts.items())
    return Panel("plane", "", spoken, plot)


_CELLS = tuple(cell_words(scope, dispersion) for scope in (0.0, 1.0) for dispersion in (0.0, 1.0))


def _thresholds(plot: go.Figure) -> None:
    line = {"color": LIGHT["guide"], "width": 1, "dash": "3px,3px"}
    plot.add_shape(type="line", x0=HIGH_SCOPE, x1=HIGH_SCOPE, yref="paper", y0=0, y1=1, line=line, layer="between")
    plot.add_shape(
        type="line", xref="paper", x0=0, x1=1, y0=HIGH_DISPERSION, y1=HIGH_DISPERSION, line=line, layer="between"
    )
    font = {"size": 12, "color": LIGHT["muted"]}
    for x, anchor, text in ((0.0, "left", "low scope"), (1.0, "right", "high scope")):
        plot.add_annotation(
            x=x,
            xref="paper",
            y=1,
            yref="paper",
            xanchor=anchor,
            yanchor="bottom",
            text=text,
            showarrow=False,
            font=font,
        )
    for y, anchor, text in ((HIGH_DISPERSION, "bottom", "high dispersion"), (HIGH_DISPERSION, "top", "low dispersion")):
        plot.add_annotation(
            x=0, xref="paper", y=y, xanchor="left", yanchor=anchor, text=text, showarrow=False, font=font, xshift=4
        )


def _cross(color: str, more: Sequence[float], less: Sequence[float]) -> dict[str, object]:
    return {
        "type": "data",
        "symmetric": False,
        "array": list(more),
        "arrayminus": list(less),
        "thickness": 1,
        "width": 0,
        "color": LIGHT[color],
    }


def _styles(view: TaxonomyView) -> dict[str, tuple[str, str]]:
    """Colour and symbol of each benchmark; where colours come again, symbols are shifted."""
    return {
        name: (f"run{i % MOST_RUNS}", RUN_SYMBOLS[(i + i // MOST_RUNS) % len(RUN_SYMBOLS)])
        for i, name in enumerate(view.benchmarks)
    }


def _hover(view: TaxonomyView, place: TaskPlace) -> str:
    spread, up = view.spread(place), place.dispersion
    return (
        f"{place.name}<br>scope {_share(spread.median)} ({_share(spread.lo)} to {_share(spread.hi)})<br>"
        f"dispersion {up.median:.2f} ({up.lo:.2f} to {up.hi:.2f})<br>n = {place.n}"
    )


def _share(value: float) -> str:
    return f"{units.significant(100 * value, 2)}{units.SPACE}%"


def verdict(view: TaxonomyView) -> str:
    """What the page says, in one sentence."""
    known = view.on_plane
    both = sum(view.spread(p).median >= HIGH_SCOPE and p.dispersion.median >= HIGH_DISPERSION for p in known)
    neither = sum(view.spread(p).median < HIGH_SCOPE and p.dispersion.median < HIGH_DISPERSION for p in known)
    return (
        f"Of {len(known)} tasks, {neither} need little of their context and point straight to it, {both} need much of "
        "it and hide it"
    )


def render_taxonomy(view: TaxonomyView) -> str:
    """The page as HTML text."""
    drawn: dict[str, Panel] = {}
    said = verdict(view)
    lengths = sorted({place.length for place in view.places if place.length})
    seen = units.samples([place.n for place in view.places], "per task")
    shown = f"{', '.join(map(units.count, lengths))} tokens" if lengths else "samples as given"
    origin = [f"<b>{escape(shown)}</b>", escape(seen), "farspan taxonomy"]
    head = (
        f'<header><p class="origin">{"".join(f"<span>{part}</span>" for part in origin)}</p>'
        f"<h1>{escape(said)}</h1></header>"
    )
    needed = (
        "the smallest part of the context from which the answer follows"
        if view.scope == "witness"
        else "all of the context that must be read to be sure of the answer"
    )
    lead = (
        f"Scope is the share of the context that a question needs: {needed}. Dispersion says how hard that is to find: "
        "it grows with evidence that words of the question do not lead to, that lies in pieces, that is found step by "
        "step, and that stands there only once. Crosses span the middle half of the samples."
    )
    plane = section(
        "plane",
        "Scope and dispersion",
        lead,
        _legend(view),
        figures([plane_panel(view)], drawn),
        listing.numbers(place_table(view)),
    )
    main = plane + _flagged(view) + _all_tasks(view)
    foot = (
        "<footer><p>Made by <code>farspan taxonomy</code>. The numbers are in <code>tables/taxonomy.csv</code>.</p>"
        "</footer>"
    )
    return document("Scope and dispersion of tasks", said, f"{head}<main>{main}</main>{foot}", drawn)


def _legend(view: TaxonomyView) -> str:
    keys = []
    for name, (color, symbol) in _styles(view).items():
        paint = f'stroke="var(--{color})" fill="{"none" if symbol in ("x", "cross") else f"var(--{color})"}"'
        keys.append(f"<span>{swatch(16, _SHAPES[symbol].format(paint=paint))}{escape(name.replace('_', ' '))}</span>")
    if any(place.estimated for place in view.on_plane):
        keys.append("<span>hollow: evidence guessed from the answers</span>")
    return f'<p class="legend">{"".join(keys)}</p>'


def _flagged(view: TaxonomyView) -> str:
    found = [place for place in view.places if place.differences()]
    columns = (Column("Task", "head"), Column("Place"), Column("Differs", "why"))
    rows = [
        listing.html_row(
            columns,
            [
                f"<code>{escape(place.name)}</code>",
                cell_words(place.scope.median, place.dispersion.median),
                "<br>".join(map(escape, place.differences())),
            ],
        )
        for place in found
    ]
    lead = "What a task says it takes, or where it was expected, against where its samples put it."
    return section(
        "differences", "Claims and places that differ", lead, listing.html_table(columns, rows) if rows else ""
    )


def _all_tasks(view: TaxonomyView) -> str:
    columns = (
        *(Column("Task", "head"), Column("Skill"), Column("Scope", "num"), Column("To be sure", "num")),
        *(Column("Dispersion", "num"), Column("Evidence", "num"), Column("Place"), Column("Note", "why")),
    )
    rows = []
    for place in view.places:
        known = place.annotation
        needed = units.significant(place.mean("n_evidence_units"))
        rows.append(
            listing.html_row(
                columns,
                [
                    f"<code>{escape(place.name)}</code>",
                    escape(place.skill) or units.MISSING,
                    _share(place.scope.median) if known.plane else units.MISSING,
                    _share(place.verification.median),
                    f"{place.dispersion.median:.2f}" if known.plane else units.MISSING,
                    f"{needed} {_plural(known.unit)}",
                    cell_words(place.scope.median, place.dispersion.median) if known.plane else "not on the plane",
                    escape(known.note),
                ],
            )
        )
    lead = "Medians over samples. A task without evidence has no place, only what must be read to be sure."
    return section("tasks", "All tasks", lead, listing.html_table(columns, rows))


def _plural(unit: str) -> str:
    return "units" if unit == "auto" else f"{unit}s"
