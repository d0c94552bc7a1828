"""The page of a graph tracing probe: how a model comes to follow a graph with more context, and how its states lie.

It draws a report that is given; measuring is the evals room's business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from farspan.report import listing, units
from farspan.report.document import document, figures, section, swatch
from farspan.report.reading import Panel
from farspan.report.record import RecordError, write_atomically
from farspan.report.tables import Table
from farspan.report.theme import LIGHT, RUN_DASHES, axis, figure, length_axis

if TYPE_CHECKING:
    from farspan.evals.graph_probe import GraphTracingReport

PAGE_NAME = "probe.html"
TABLES_NAME = "tables"
COMPARED = ("bigram", "memorised once", "uniform")
"""Baselines that are drawn; all of them stand in the table."""


def build_probe_page(report: GraphTracingReport, out_dir: Path) -> Path:
    """Write `probe.html`, `probe.json` and `tables/probe.csv`, and return the page's path.

    Raises
    ------
    RecordError : the folder cannot be written.
    """
    text = render_probe(report)
    try:
        folder = out_dir / TABLES_NAME
        folder.mkdir(parents=True, exist_ok=True)
        table = probe_table(report)
        write_atomically(folder / f"{table.name}.csv", table.to_csv())
        write_atomically(out_dir / "probe.json", report.model_dump_json(indent=1) + "\n")
        write_atomically(out_dir / PAGE_NAME, text)
    except OSError as error:
        raise RecordError(
            f"cannot write to {out_dir}: {error.strerror or error}; choose another --out folder"
        ) from error
    return out_dir / PAGE_NAME


def probe_table(report: GraphTracingReport) -> Table:
    """Accuracy, baselines, and of the pictured layer energy and alignment, at each context."""
    layer = report.layers.index(report.pictured_layer)
    rows = [
        (
            size,
            _known(report.accuracy[place]),
            *(_known(curve[place]) for curve in report.baselines.values()),
            report.energy[layer][place],
            report.normalized[layer][place],
            report.alignment[layer][place],
        )
        for place, size in enumerate(report.contexts)
    ]
    names = tuple(name.replace(" ", "_") for name in report.baselines)
    columns = ("context_tokens", "accuracy", *names, "energy", "normalized_energy", "alignment")
    return Table("probe", columns, tuple(rows))


def verdict(report: GraphTracingReport) -> str:
    """What the page says, in one sentence."""
    last, plain = report.accuracy[-1], report.baselines["bigram"][-1]
    most = units.count(report.contexts[-1])
    found = f"puts {100 * last:.0f} % on neighbours after {most} tokens, where counting pairs gives {100 * plain:.0f} %"
    if report.critical.value is not None:
        found += f"; accuracy bends at about {units.count(round(report.critical.value))} tokens"
    return f"{report.model} {found}"


def accuracy_panel(report: GraphTracingReport) -> Panel:
    """Probability on neighbours by context, beside what plain memory of the context gives."""
    plot = figure(340, left=52, right=16, top=18)
    curves = {"model": report.accuracy} | {name: report.baselines[name] for name in COMPARED}
    for place, (name, values) in enumerate(curves.items()):
        color = LIGHT["after"] if name == "model" else LIGHT[f"run{place}"]
        plot.add_trace(
            go.Scatter(
                x=list(report.contexts),
                y=[_known(value) for value in values],
                mode="lines+markers" if name == "model" else "lines",
                line={"color": color, "width": 2.5 if name == "model" else 1.5, "dash": RUN_DASHES[place]},
                marker={"size": 7},
                hovertemplate=f"{name}: %{{y:.2f}} at %{{x}} tokens<extra></extra>",
            )
        )
    plot.update_layout(
        xaxis=length_axis(report.contexts), yaxis=axis("probability on neighbours") | {"range": [-0.02, 1.02]}
    )
    spoken = f"probability on neighbours from {report.accuracy[0]:.2f} to {report.accuracy[-1]:.2f}"
    return Panel("accuracy", "Following the graph", spoken, plot)


def picture_panel(report: GraphTracingReport) -> Panel | None:
    """Mean states of the words on their first two principal components, neighbours joined; None without them."""
    if report.coordinates is None or report.explained is None:
        return None
    plot = figure(340, left=20, right=20, top=18, bottom=20)
    for one, row in enumerate(report.adjacency):
        for other in range(one + 1, len(row)):
            if row[other]:
                ends = [report.coordinates[one], report.coordinates[other]]
                plot.add_trace(
                    go.Scatter(
                        x=[end[0] for end in ends],
                        y=[end[1] for end in ends],
                        mode="lines",
                        line={"color": LIGHT["line"], "width": 1},
                        hoverinfo="skip",
                    )
                )
    plot.add_trace(
        go.Scatter(
            x=[point[0] for point in report.coordinates],
            y=[point[1] for point in report.coordinates],
            mode="markers+text",
            text=list(report.words),
            textposition="top center",
            textfont={"size": 12, "color": LIGHT["ink"]},
            marker={"size": 9, "color": LIGHT["after"]},
            hoverinfo="text",
        )
    )
    bare = {"visible": False}
    plot.update_layout(xaxis=bare, yaxis=bare)
    share = sum(report.explained[:2])
    title = f"Where layer {report.pictured_layer} puts the words"
    return Panel("picture", title, f"two components that explain {100 * share:.0f} % of the spread", plot)


def render_probe(report: GraphTracingReport) -> str:
    """The page as HTML text."""
    drawn: dict[str, Panel] = {}
    said = verdict(report)
    origin = [f"<b>{escape(report.model)}</b>", escape(report.graph), f"n = {report.sequences} walks", "farspan probe"]
    head = (
        f'<header><p class="origin">{"".join(f"<span>{part}</span>" for part in origin)}</p>'
        f"<h1>{escape(said)}</h1></header>"
    )
    lead = (
        "Words walk over a hidden graph; the curve is the probability that the model puts on words that can come next. "
        "Counting the pairs that stand in the text, and knowing every edge once seen, are drawn beside it."
    )
    curve = section(
        "following",
        "How much context it takes",
        lead,
        _legend(),
        figures([accuracy_panel(report)], drawn),
        listing.numbers(probe_table(report)),
    )
    picture, (energy, alignment) = picture_panel(report), report.mixed
    layer = report.layers.index(report.pictured_layer)
    own = (report.normalized[layer][-1], report.alignment[layer][-1])
    shown = "not every word occurs in the window" if None in own else f"energy {own[0]:.2f}, alignment {own[1]:.2f}"
    lead = (
        f"Mean states of the words, at the end of the context: {shown}. A picture alone proves little: unrelated "
        f"points, each mixed once with its neighbours, have energy {energy:.2f} and alignment {alignment:.2f}."
    )
    placed = figures([picture], drawn) if picture else "<p>No picture: a word does not occur at the end.</p>"
    states = section("states", "How its states lie", escape(lead), placed)
    foot = (
        "<footer><p>Made by <code>farspan probe</code>. The numbers are in <code>probe.json</code> and "
        "<code>tables/probe.csv</code>.</p></footer>"
    )
    return document("Graph tracing", said, f"{head}<main>{curve}{states}</main>{foot}", drawn)


def _legend() -> str:
    keys = []
    for place, name in enumerate(("model", *COMPARED)):
        color = "after" if name == "model" else f"run{place}"
        dash = RUN_DASHES[place].replace("px", "").replace(",", " ")
        dashes = "" if dash == "solid" else f' stroke-dasharray="{dash}"'
        line = f'<path d="M0 6h26" stroke="var(--{color})"{dashes}/>'
        keys.append(f"<span>{swatch(26, line)}{escape(name)}</span>")
    return f'<p class="legend">{"".join(keys)}</p>'


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def summary(report: GraphTracingReport) -> Sequence[tuple[str, ...]]:
    """Rows for a screen: context, accuracy, two baselines, normalised energy and alignment of the pictured layer."""
    layer = report.layers.index(report.pictured_layer)

    def said(value: float | None) -> str:
        return "-" if value is None or math.isnan(value) else f"{value:.2f}"

    return [
        (
            f"{size:,}",
            said(report.accuracy[place]),
            said(report.baselines["bigram"][place]),
            said(report.baselines["memorised once"][place]),
            said(report.normalized[layer][place]),
            said(report.alignment[layer][place]),
        )
        for place, size in enumerate(report.contexts)
    ]
