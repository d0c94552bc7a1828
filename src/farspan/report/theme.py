"""How figures look: one palette in two lights, and the few layout pieces all figures share.

Figures are drawn with the light palette. The page holds the pairs of light and dark colours and swaps them when the
reader's screen is dark, so every colour used in a figure must come from `LIGHT` (the scale of heat maps excepted: its
colours mean values and stay). Before and after differ in shape, dash and lightness too, so that no reader has to tell
two hues apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.colors import sequential

from farspan.report import units

LIGHT: dict[str, str] = {
    "paper": "#ffffff",
    "ink": "#171a1e",
    "muted": "#59616c",
    "grid": "#e8eaed",
    "line": "#c3c8cf",
    "before": "#717985",
    "before_band": "rgba(113, 121, 133, 0.16)",
    "after": "#0a5dc2",
    "after_band": "rgba(10, 93, 194, 0.16)",
    "run0": "#1560b0",
    "run1": "#a8480a",
    "run2": "#0b7457",
    "run3": "#7a3ea3",
    "run4": "#7d6600",
    "run5": "#a92350",
    "run0_band": "rgba(21, 96, 176, 0.14)",
    "run1_band": "rgba(168, 72, 10, 0.14)",
    "run2_band": "rgba(11, 116, 87, 0.14)",
    "run3_band": "rgba(122, 62, 163, 0.14)",
    "run4_band": "rgba(125, 102, 0, 0.14)",
    "run5_band": "rgba(169, 35, 80, 0.14)",
    "quiet": "#9aa2ad",
    "guide": "#868f9b",
    "hatch": "#b9bfc8",
    "hover": "#fdfdfe",
}
DARK: dict[str, str] = {
    "paper": "#101317",
    "ink": "#e9ebee",
    "muted": "#a5adb8",
    "grid": "#23282f",
    "line": "#454d57",
    "before": "#8d97a4",
    "before_band": "rgba(141, 151, 164, 0.20)",
    "after": "#66b0ff",
    "after_band": "rgba(102, 176, 255, 0.20)",
    "run0": "#6cb1f7",
    "run1": "#f2a25f",
    "run2": "#55cda5",
    "run3": "#cf9bea",
    "run4": "#d6c14f",
    "run5": "#f489a8",
    "run0_band": "rgba(108, 177, 247, 0.18)",
    "run1_band": "rgba(242, 162, 95, 0.18)",
    "run2_band": "rgba(85, 205, 165, 0.18)",
    "run3_band": "rgba(207, 155, 234, 0.18)",
    "run4_band": "rgba(214, 193, 79, 0.18)",
    "run5_band": "rgba(244, 137, 168, 0.18)",
    "quiet": "#79828e",
    "guide": "#7f8895",
    "hatch": "#4d5560",
    "hover": "#1b2026",
}
HEAT: tuple[str, ...] = tuple(sequential.Cividis)
MOST_RUNS = 6
RUN_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")
RUN_DASHES = ("solid", "6px,3px", "2px,3px", "9px,3px,2px,3px", "12px,4px", "1px,2px")
"""Runs side by side differ in symbol and dash too."""
FONT = '-apple-system, BlinkMacSystemFont, "Segoe UI", Roboto, "Noto Sans", "Helvetica Neue", Arial, sans-serif'


def figure(height: int, *, left: int = 46, right: int = 14, top: int = 12, bottom: int = 42) -> go.Figure:
    """An empty figure in the house style; its width is the page's business.

    Parameters
    ----------
    height, left, right, top, bottom : pixels; the margins hold the axes' labels
    """
    return go.Figure(
        layout={
            "template": go.layout.Template(),
            "height": height,
            "margin": {"l": left, "r": right, "t": top, "b": bottom, "pad": 0},
            "paper_bgcolor": LIGHT["paper"],
            "plot_bgcolor": LIGHT["paper"],
            "font": {"family": FONT, "size": 12, "color": LIGHT["muted"]},
            "showlegend": False,
            "dragmode": False,
            "hovermode": "closest",
            "hoverlabel": {
                "bgcolor": LIGHT["hover"],
                "bordercolor": LIGHT["line"],
                "font": {"family": FONT, "size": 12, "color": LIGHT["ink"]},
                "align": "left",
                "namelength": 0,
            },
        }
    )


def axis(title: str = "", *, grid: bool = True, line: bool = True) -> dict[str, object]:
    """Settings every axis shares."""
    return {
        "title": {"text": title, "standoff": 8, "font": {"size": 12, "color": LIGHT["muted"]}},
        "showgrid": grid,
        "gridcolor": LIGHT["grid"],
        "gridwidth": 1,
        "showline": line,
        "linecolor": LIGHT["line"],
        "zeroline": False,
        "ticks": "",
        "ticklabelstandoff": 4,
        "tickfont": {"size": 12, "color": LIGHT["muted"]},
        "fixedrange": True,
    }


def length_axis(
    lengths: Sequence[float], title: str = "context length, tokens", *, room: float = 1.18
) -> dict[str, object]:
    """A logarithmic axis over lengths, labelled at the lengths themselves.

    room : factor left free beyond the shortest and the longest length
    """
    ticks = thin(sorted(set(lengths)), 7)
    edge = max(room, 1.4) if len(ticks) == 1 else room
    return axis(title, grid=False) | {
        "type": "log",
        "tickvals": list(ticks),
        "ticktext": [units.length(tick) for tick in ticks],
        "range": [math.log10(ticks[0] / edge), math.log10(ticks[-1] * edge)],
    }


def thin(ticks: Sequence[float], most: int) -> list[float]:
    """At most so many of the ticks, evenly spaced, the last one always among them."""
    step = -(-len(ticks) // most)
    return list(ticks[::-1][::step][::-1])


def log_ticks(lo: float, hi: float) -> list[float]:
    """Ticks of a logarithmic axis at 1, 2 and 5 times powers of ten, or at powers of ten over many decades."""
    first, last = math.floor(math.log10(lo)), math.ceil(math.log10(hi))
    steps = (1.0, 2.0, 5.0) if math.log10(hi / lo) < 2.2 else (1.0,)
    every = max(1, -(-(last - first) // 6))
    ticks = [step * 10.0**power for power in range(first, last + 1, every) for step in steps]
    return [tick for tick in ticks if lo / 1.02 <= tick <= hi * 1.02]


def guide(plot: go.Figure, *, x: float | None = None, y: float | None = None, text: str = "") -> None:
    """A thin reference line across the figure at one x or one y; words, if any, stand in the margin at its end."""
    style = {"line": {"color": LIGHT["guide"], "width": 1, "dash": "3px,3px"}, "layer": "between"}
    label = {"text": text, "showarrow": False, "font": {"size": 12, "color": LIGHT["muted"]}}
    if x is not None:
        plot.add_shape(type="line", x0=x, x1=x, yref="paper", y0=0, y1=1, **style)
        place = math.log10(x) if plot.layout.xaxis.type == "log" else x
        plot.add_annotation(x=place, y=1, yref="paper", xanchor="center", yanchor="bottom", **label)
    if y is not None:
        plot.add_shape(type="line", xref="paper", x0=0, x1=1, y0=y, y1=y, **style)
        plot.add_annotation(x=0, xref="paper", y=y, xanchor="right", yanchor="middle", xshift=-3, **label)


def band(x: Sequence[float], lo: Sequence[float | None], hi: Sequence[float | None], side: str) -> list[go.Scatter]:
    """The shaded interval around a curve, one closed shape for every stretch without gaps."""
    shapes: list[go.Scatter] = []
    run: list[tuple[float, float, float]] = []
    for place, low, high in [*zip(x, lo, hi, strict=True), (0.0, None, None)]:
        if low is not None and high is not None:
            run.append((place, low, high))
            continue
        if len(run) > 1:
            shapes.append(
                go.Scatter(
                    x=[point[0] for point in run] + [point[0] for point in reversed(run)],
                    y=[point[2] for point in run] + [point[1] for point in reversed(run)],
                    fill="toself",
                    fillcolor=LIGHT[f"{side}_band"],
                    line={"width": 0},
                    mode="lines",
                    hoverinfo="skip",
                )
            )
        run = []
    return shapes


def curve(
    x: Sequence[float],
    y: Sequence[float | None],
    side: str,
    hover: Sequence[str],
    lo: Sequence[float | None],
    hi: Sequence[float | None],
) -> list[go.Scatter]:
    """One curve of the pair before and after, with its interval as a band, and as a bar where it has one point only."""
    alone = sum(value is not None for value in y) == 1
    error = None
    if alone and all(
        low is None or high is None or value is not None for low, value, high in zip(lo, y, hi, strict=True)
    ):
        up = [
            high - value if high is not None and value is not None else 0.0 for high, value in zip(hi, y, strict=True)
        ]
        down = [value - low if low is not None and value is not None else 0.0 for low, value in zip(lo, y, strict=True)]
        error = {"type": "data", "array": up, "arrayminus": down, "symmetric": False, "thickness": 1.5, "width": 0}
    line = go.Scatter(
        x=list(x),
        y=list(y),
        mode="lines+markers",
        line={"color": LIGHT[side], "width": 2, "dash": "4px,3px" if side == "before" else "solid"},
        marker=mark(side),
        hovertext=list(hover),
        hoverinfo="text",
        error_y=error,
    )
    return [*band(x, lo, hi, side), line]


def mark(side: str, size: float = 8) -> dict[str, object]:
    """The marker of a side: a hollow circle before, a full one after."""
    fill = LIGHT["paper"] if side == "before" else LIGHT["after"]
    return {"symbol": "circle", "size": size, "color": fill, "line": {"color": LIGHT[side], "width": 2}}
