"""Figures of rotary pairs: wavelengths, divisors, disturbances, and the angles of single pairs.

Plain numbers in, panels out; the page around them is made in `rope`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from farspan.report import units
from farspan.report.reading import Panel
from farspan.report.theme import LIGHT, axis, figure, log_ticks, mark, thin

if TYPE_CHECKING:
    from farspan.positions.distribution import Distributions, PairDistribution
    from farspan.positions.pairs import PairRow

SHOWN_BINS = 36
FATES = {
    "kept": "kept",
    "between": "partly interpolated",
    "interpolated": "interpolated",
    "slowed": "slowed further",
    "faster": "made faster",
    "at rest": "put at rest",
}


def wavelength_panel(rows: Sequence[PairRow], native_length: int, target_length: int, stretched: bool) -> Panel:
    """Wavelength of every pair, before and after, with the windows as guides."""
    plot = figure(330, left=58, right=18, top=20)
    sides = [("before", [row.wavelength for row in rows])]
    if stretched:
        sides.append(("after", [row.new_wavelength for row in rows]))
    shown = [value for _, values in sides for value in values if math.isfinite(value)]
    for side, values in sides:
        plot.add_trace(_line(rows, values, side, "tokens a turn"))
    guides = {native_length: "native", target_length: "target" if stretched else "native"}
    _horizontal(plot, {float(length): f"{word} {units.length(length)}" for length, word in guides.items()})
    plot.update_layout(xaxis=_index_axis(len(rows)), yaxis=_log_axis([*shown, *map(float, guides)]))
    spoken = f"wavelength by pair, from {units.significant(min(shown))} to {units.significant(max(shown))} tokens"
    return Panel("wavelengths", "Wavelength, tokens", spoken, plot)


def divisor_panel(rows: Sequence[PairRow], factor: float) -> Panel:
    """By how much every pair is slowed, between 1 and the whole factor."""
    plot = figure(330, left=58, right=18, top=20)
    values = [row.divisor for row in rows]
    plot.add_trace(_line(rows, values, "after", "times as slow"))
    _horizontal(plot, {1.0: "kept", factor: "interpolated"})
    shown = [value for value in values if math.isfinite(value)]
    plot.update_layout(xaxis=_index_axis(len(rows)), yaxis=_log_axis([*shown, 1.0, factor]))
    counts = Counter(row.fate for row in rows)
    spoken = "divisor by pair: " + ", ".join(f"{n} {FATES[fate]}" for fate, n in counts.items())
    return Panel("divisors", "Divisor of the frequency", spoken, plot)


def disturbance_panel(found: Distributions) -> Panel:
    """Disturbance of every pair if kept, if changed, and as chosen."""
    plot = figure(330, left=66, right=18, top=20)
    index = list(range(len(found.wavelengths)))
    first, *others, _ = found.disturbance
    # A logarithmic axis has no place for 0, nor for the small negative values that epsilon allows.
    shown = [value for values in found.disturbance.values() for value in values if value > 1e-9]
    floor = max(min(shown, default=1e-6), 1e-7)
    styles = {
        first: {"color": LIGHT["before"], "width": 1.5, "dash": "4px,3px"},
        **{name: {"color": LIGHT["quiet"], "width": 1.5} for name in others},
    }
    for name, style in styles.items():
        values = found.disturbance[name]
        plot.add_scatter(
            x=index,
            y=[max(value, floor) for value in values],
            mode="lines",
            line=style,
            hovertext=[f"pair {at}, {name}<br>{value:.3g} nats" for at, value in zip(index, values, strict=True)],
            hoverinfo="text",
        )
    chosen = found.disturbance["chosen"]
    plot.add_scatter(
        x=index,
        y=[max(value, floor) for value in chosen],
        mode="markers",
        marker=mark("after", 7),
        hovertext=[
            f"pair {at}: {name}<br>{value:.3g} nats"
            for at, name, value in zip(index, found.choice, chosen, strict=True)
        ],
        hoverinfo="text",
    )
    plot.update_layout(
        xaxis=_index_axis(len(index)),
        yaxis=_log_axis([floor, *(value for value in shown if value >= floor)], exponent=True),
    )
    spoken = "disturbance by pair: " + ", ".join(
        f"{count} pairs {name}" for name, count in Counter(found.choice).items()
    )
    return Panel("disturbance", "Disturbance, nats", spoken, plot)


def circle_panel(pair: PairDistribution, found: Distributions) -> Panel:
    """How often one pair meets each angle: in training, and in the target window if kept and if interpolated."""
    plot = figure(250, left=52, right=18, top=12)
    styles = (
        (pair.trained, "in training", {"color": LIGHT["before"], "width": 2, "dash": "4px,3px", "shape": "hvh"}),
        (pair.kept, "kept", {"color": LIGHT["quiet"], "width": 1.5, "shape": "hvh"}),
        (pair.interpolated, "interpolated", {"color": LIGHT["after"], "width": 2, "shape": "hvh"}),
    )
    top = 0.0
    for shares, word, style in styles:
        merged = merge_bins(shares, SHOWN_BINS)
        width = 360 / len(merged)
        top = max(top, *merged)
        plot.add_scatter(
            x=[(index + 0.5) * width for index in range(len(merged))],
            y=[100 * share for share in merged],
            mode="lines",
            line=style,
            hovertext=[
                f"{word}<br>{index * width:.0f} to {(index + 1) * width:.0f} degrees: {100 * share:.2f} %"
                for index, share in enumerate(merged)
            ],
            hoverinfo="text",
        )
    plot.update_layout(
        xaxis=axis("angle, degrees", grid=False) | {"tickvals": [0, 90, 180, 270, 360], "range": [0, 360]},
        yaxis=axis() | {"range": [0, 108 * top], "nticks": 5, "ticksuffix": " %"},
    )
    chosen = found.choice[pair.index]
    title = f"pair {pair.index}, a turn in {units.significant(found.wavelengths[pair.index])} tokens: {chosen}"
    return Panel(f"circle-{pair.index}", title, f"share of positions over the circle, {title}", plot)


def merge_bins(shares: Sequence[float], most: int) -> list[float]:
    """Neighbouring bins added up until there are at most so many; a number with no fitting divisor stays as it is."""
    if len(shares) <= most:
        return list(shares)
    width = next((width for width in range(-(-len(shares) // most), len(shares)) if len(shares) % width == 0), 1)
    return [sum(shares[start : start + width]) for start in range(0, len(shares), width)]


def _line(rows: Sequence[PairRow], values: Sequence[float], side: str, unit: str) -> go.Scatter:
    return go.Scatter(
        x=[row.index for row in rows],
        y=[finite(value) for value in values],
        mode="lines+markers",
        line={"color": LIGHT[side], "width": 1.5, "dash": "4px,3px" if side == "before" else "solid"},
        marker=mark(side, 6),
        hovertext=[
            f"pair {row.index}: {FATES[row.fate]}<br>{units.significant(value)} {unit}" if math.isfinite(value) else ""
            for row, value in zip(rows, values, strict=True)
        ],
        hoverinfo="text",
    )


def _horizontal(plot: go.Figure, guides: dict[float, str]) -> None:
    for value, text in guides.items():
        plot.add_shape(
            type="line",
            xref="paper",
            x0=0,
            x1=1,
            y0=value,
            y1=value,
            line={"color": LIGHT["guide"], "width": 1, "dash": "3px,3px"},
            layer="between",
        )
        plot.add_annotation(
            x=0,
            xref="paper",
            y=math.log10(value),
            text=text,
            showarrow=False,
            xanchor="left",
            yanchor="bottom",
            xshift=4,
            font={"size": 12, "color": LIGHT["muted"]},
        )


def _index_axis(n: int) -> dict[str, object]:
    step = next(step for step in (1, 2, 4, 8, 16, 32, 64, 128, 256) if n / step <= 10)
    return axis("pair", grid=False) | {"tickvals": list(range(0, n, step)), "range": [-0.6, n - 0.4]}


def _log_axis(values: Sequence[float], *, exponent: bool = False) -> dict[str, object]:
    lo, hi = min(values) / 1.4, max(values) * 1.6
    ticks = thin(log_ticks(lo, hi), 8)
    words = [f"{tick:.0e}" if exponent else units.significant(tick, 1) for tick in ticks]
    return axis() | {
        "type": "log",
        "range": [math.log10(lo), math.log10(hi)],
        "tickvals": ticks,
        "ticktext": words,
    }


def finite(value: float) -> float | None:
    """A number that CSV and figures can hold; None for infinity."""
    return value if math.isfinite(value) else None
