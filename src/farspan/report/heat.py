"""Heat maps of where a model reads: mean score over context length and depth of the evidence, before and after.

Cells carry their number in text as well as in colour, cells that were not measured are hatched, and a line separates
what reaches the threshold from what does not, so nothing has to be read from colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from farspan.report import units
from farspan.report.reading import Panel, cell_words, task_titles
from farspan.report.record import Cell, RunRecord, TaskMeasure
from farspan.report.tables import sides
from farspan.report.theme import HEAT, LIGHT, axis, figure

# Text on heat map cells keeps its colour when the page turns dark, as the cells do; so these are not the palette's.
INK_ON_DARK, INK_ON_LIGHT = "#fefefe", "#010101"
DARK_BELOW = 0.465  # scores whose cells are dark enough for light text, at a contrast of 4.5 or more on either side


def heat_maps(record: RunRecord) -> list[tuple[str, list[Panel]]]:
    """Score over length and depth, one pair of maps for every task that varies the depth."""
    found = []
    for name, title in task_titles(record).items():
        pair = []
        for side, measured in sides(record):
            cells = [cell for cell in _task_cells(measured.tasks.get(name)) if cell.depth is not None]
            if cells:
                pair.append((side, cells))
        if pair:
            grid = sorted({cell.length for _, cells in pair for cell in cells})
            depths = sorted({cell.depth for _, cells in pair for cell in cells if cell.depth is not None})
            panels = [
                Panel(
                    f"heat-{name}-{side}",
                    side,
                    f"{title}, {side}: mean score by context length and depth of the evidence",
                    heat_map(cells, grid, depths, record.threshold),
                )
                for side, cells in pair
            ]
            found.append((title, panels))
    return found


def heat_map(cells: Sequence[Cell], lengths: Sequence[int], depths: Sequence[float], threshold: float) -> go.Figure:
    """One map; cells that are not there are hatched."""
    by_place = {(cell.length, cell.depth): cell for cell in cells if cell.mean is not None}
    grid = [[by_place.get((length, depth)) for length in lengths] for depth in depths]
    plot = figure(max(180, 27 * len(depths) + 62), left=62, right=4, top=4)
    plot.add_heatmap(
        z=[[cell and cell.mean for cell in row] for row in grid],
        zmin=0,
        zmax=1,
        colorscale=list(HEAT),
        showscale=False,
        xgap=2,
        ygap=2,
        hoverongaps=False,
        hovertext=[[cell_words(cell) if cell else "" for cell in row] for row in grid],
        hoverinfo="text",
    )
    if len(lengths) <= 12:
        for dark, color in ((True, INK_ON_DARK), (False, INK_ON_LIGHT)):
            inside = [
                (x, y, cell.mean)
                for y, row in enumerate(grid)
                for x, cell in enumerate(row)
                if cell is not None and cell.mean is not None and (cell.mean < DARK_BELOW) is dark
            ]
            plot.add_scatter(
                x=[x for x, _, _ in inside],
                y=[y for _, y, _ in inside],
                text=[f"{mean * 100:.0f}" for _, _, mean in inside],
                mode="text",
                textfont={"size": 12 if len(lengths) <= 8 else 10, "color": color},
                hoverinfo="skip",
            )
    missing = [(x, y) for y, row in enumerate(grid) for x, cell in enumerate(row) if cell is None]
    if missing:
        plot.add_bar(
            x=[x for x, _ in missing],
            y=[0.92] * len(missing),
            base=[y - 0.46 for _, y in missing],
            width=0.94,
            marker={
                "color": LIGHT["paper"],
                "line": {"width": 0},
                "pattern": {
                    "shape": "/",
                    "fgcolor": LIGHT["hatch"],
                    "bgcolor": LIGHT["paper"],
                    "size": 6,
                    "solidity": 0.25,
                },
            },
            hovertext=[f"{units.length(lengths[x])} tokens, depth {depths[y]:g} %: not measured" for x, y in missing],
            hoverinfo="text",
        )
    x_edge, y_edge = threshold_edges(grid, threshold)
    if x_edge:
        for color, width in ((LIGHT["paper"], 5), (LIGHT["ink"], 2)):
            plot.add_scatter(x=x_edge, y=y_edge, mode="lines", line={"color": color, "width": width}, hoverinfo="skip")
    every = -(-len(depths) // 7)
    plot.update_layout(
        barmode="overlay",
        xaxis=axis("context length, tokens", grid=False, line=False)
        | {
            "tickvals": list(range(len(lengths)))[:: -(-len(lengths) // 9)],
            "ticktext": [units.length(length) for length in lengths][:: -(-len(lengths) // 9)],
            "range": [-0.5, len(lengths) - 0.5],
        },
        yaxis=axis("depth", grid=False, line=False)
        | {
            "title": {"text": "depth", "standoff": 6, "font": {"size": 12, "color": LIGHT["muted"]}},
            "tickvals": list(range(len(depths)))[::every],
            "ticktext": [f"{depth:g} %" for depth in depths][::every],
            "range": [len(depths) - 0.5, -0.5],
        },
    )
    return plot


def threshold_edges(
    grid: Sequence[Sequence[Cell | None]], threshold: float
) -> tuple[list[float | None], list[float | None]]:
    """The polyline between cells that reach the threshold and cells that do not, in cell coordinates.

    Cell (row, column) has its centre at (x=column, y=row). Pieces are separated by `None`. Cells not measured have no
    edge: nothing is known there.
    """
    passed = [[None if cell is None or cell.mean is None else cell.mean >= threshold for cell in row] for row in grid]
    x: list[float | None] = []
    y: list[float | None] = []
    for row, flags in enumerate(passed):
        for column, flag in enumerate(flags):
            right = flags[column + 1] if column + 1 < len(flags) else None
            below = passed[row + 1][column] if row + 1 < len(passed) else None
            if None not in (flag, right) and flag != right:
                x += [column + 0.5, column + 0.5, None]
                y += [row - 0.5, row + 0.5, None]
            if None not in (flag, below) and flag != below:
                x += [column - 0.5, column + 0.5, None]
                y += [row + 0.5, row + 0.5, None]
    return x, y


def _task_cells(task: TaskMeasure | None) -> list[Cell]:
    return task.cells if task else []
