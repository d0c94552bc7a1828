"""Figures of evaluations side by side: scores over length, and over length and depth.

Runs differ in colour, symbol and dash. Published scores of single tasks stand as thin grey lines with their model's
name.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from farspan.evals.evaluation import ScoreCell
from farspan.evals.published import published_tables
from farspan.report import units
from farspan.report.evaluation_tables import EvaluationRun, lengths_of, task_titles
from farspan.report.heat import heat_map
from farspan.report.reading import Panel, cell_words
from farspan.report.record import Cell
from farspan.report.theme import LIGHT, RUN_DASHES, RUN_SYMBOLS, axis, band, figure, guide, length_axis

LANDMARKS = 3


def score_panels(runs: Sequence[EvaluationRun]) -> list[Panel]:
    """Score against length, one panel a task, all runs in it."""
    panels = []
    for name, title in task_titles(runs).items():
        plot, spoken = figure(266, top=20), []
        threshold = 0.75
        for number, run in enumerate(runs):
            task = run.task(name)
            if task is None:
                continue
            threshold = task.threshold
            cells = task.by_length()
            plot.add_traces(_curve(run.label, number, cells))
            spoken.append(
                f"{run.label} " + ", ".join(f"{units.percent(c.mean)} at {units.length(c.length)}" for c in cells)
            )
        _published_lines(plot, runs, name)
        ticks = [tick for tick in (0, 0.25, 0.5, 0.75, 1) if abs(tick - threshold) > 0.07]
        plot.update_layout(
            xaxis=length_axis(lengths_of(runs)),
            yaxis=axis()
            | {
                "range": [-0.04, 1.06],
                "tickvals": ticks,
                "ticktext": [f"{tick * 100:g}" + (" %" if tick == 1 else "") for tick in ticks],
            },
        )
        guide(plot, y=threshold, text=f"{threshold * 100:.3g}")
        panels.append(Panel(f"score-{name}", title, f"{title}, score by length: " + "; ".join(spoken), plot))
    return panels


def _curve(label: str, number: int, cells: Sequence[ScoreCell]) -> list[go.Scatter]:
    lengths = [cell.length for cell in cells]
    color = LIGHT[f"run{number}"]
    line = go.Scatter(
        x=lengths,
        y=[cell.mean for cell in cells],
        mode="lines+markers",
        line={"color": color, "width": 2, "dash": RUN_DASHES[number]},
        marker={"symbol": RUN_SYMBOLS[number], "size": 8, "color": color},
        hovertext=[f"<b>{label}</b> {cell_words(as_record(cell))}" for cell in cells],
        hoverinfo="text",
    )
    return [*band(lengths, [cell.lo for cell in cells], [cell.hi for cell in cells], f"run{number}"), line]


def _published_lines(plot: go.Figure, runs: Sequence[EvaluationRun], name: str) -> None:
    """Models whose scores on just this task were published, at lengths near those tested."""
    task = next(found for run in runs if (found := run.task(name)) is not None)
    table = published_tables().get(task.family)
    if table is None:
        return
    groups = [group for group, tasks in table.groups.items() if tasks == (task.task,)]
    tested = lengths_of(runs)
    rows = [row for row in table.scores if row.group in groups and tested[0] / 1.1 <= row.length <= tested[-1] * 1.1]
    for model in list(dict.fromkeys(row.model for row in rows))[:LANDMARKS]:
        mine = [row for row in rows if row.model == model]
        plot.add_scatter(
            x=[row.length for row in mine],
            y=[row.score / 100 for row in mine],
            mode="lines+markers",
            line={"color": LIGHT["quiet"], "width": 1, "dash": "1px,3px"},
            marker={"symbol": "circle-open", "size": 5, "color": LIGHT["quiet"]},
            hovertext=[
                f"<b>{model}</b>, published<br>{row.score:.0f} % at {units.count(row.length)} tokens" for row in mine
            ],
            hoverinfo="text",
        )


def heat_panels(runs: Sequence[EvaluationRun]) -> list[tuple[str, list[Panel]]]:
    """Score over length and depth, for every task with depths, one map a run."""
    found = []
    for name, title in task_titles(runs).items():
        cells = {run.label: task.by_depth() for run in runs if (task := run.task(name)) is not None}
        there = [cell for mine in cells.values() for cell in mine]
        lengths = sorted({cell.length for cell in there})
        depths = sorted({cell.depth for cell in there if cell.depth is not None})
        if len(depths) < 2:
            continue
        panels = []
        for number, (label, mine) in enumerate(cells.items()):
            task = next(task for run in runs if run.label == label and (task := run.task(name)) is not None)
            plot = heat_map([as_record(cell) for cell in mine], lengths, depths, task.threshold)
            words = f"{title}, {label}: mean score by context length and depth of the evidence"
            panels.append(Panel(f"heat-{name}-{number}", label, words, plot))
        found.append((title, panels))
    return found


def as_record(cell: ScoreCell) -> Cell:
    """A measured cell as the figures of this room take it."""
    return Cell(length=cell.length, depth=cell.depth, n=cell.n, mean=cell.mean, lo=cell.lo, hi=cell.hi)
