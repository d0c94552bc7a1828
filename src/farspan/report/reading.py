"""Figures of how far a model reads: effective lengths, scores over length, loss by position.

Each function takes a record and returns panels; a panel is one Plotly figure with a title and a description for
readers who cannot see it. Panels without data are not made, and the page leaves their section out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go

from farspan.report import units
from farspan.report.record import Cell, Effective, LossPoint, RunRecord, TaskMeasure
from farspan.report.tables import sides
from farspan.report.theme import LIGHT, axis, curve, figure, guide, length_axis, mark


@dataclass(frozen=True)
class Panel:
    """One figure on the page.

    key : unique on the page
    title : what it shows, a few words; empty where the section's heading says it
    description : one sentence for screen readers
    """

    key: str
    title: str
    description: str
    plot: go.Figure


def forest(record: RunRecord) -> list[Panel]:
    """Effective length of every task with its interval, before above after."""
    names = [name for name in task_titles(record) if any(_effective(m.tasks.get(name)) for _, m in sides(record))]
    if not names:
        return []
    titles = task_titles(record)
    pitch, edge = 84, 22
    written = {
        (name, side): _value_and_interval(found, record.lengths)
        for side, measured in sides(record)
        for name in names
        if (found := _effective(measured.tasks.get(name))) is not None
    }
    longest = max(len(value) + len(interval) for value, interval in written.values())
    plot = figure(pitch * len(names) + 60, left=0, right=26 + round(6.5 * longest), top=edge)
    spoken = []
    for row, name in enumerate(names):
        base = -float(row)
        plot.add_annotation(
            **_label(f"<b>{escape(titles[name])}</b>", LIGHT["ink"], 13),
            x=0,
            xref="paper",
            y=base,
            xanchor="left",
            yanchor="middle",
        )
        for side, measured in sides(record):
            if (found := _effective(measured.tasks.get(name))) is None:
                continue
            y = base - (0.3 if side == "before" else 0.55)
            text = effective_words(found, record.lengths)
            _forest_mark(plot, found, record.lengths, y, side, f"{titles[name]}, {side}: {text}")
            plot.add_annotation(
                **_label("<b>{}</b>  {}".format(*map(escape, written[name, side])), LIGHT[side], 12),
                x=1,
                xref="paper",
                y=y,
                xanchor="left",
                yanchor="middle",
                xshift=12,
            )
            spoken.append(f"{titles[name]} {side} {text}")
    plot.update_layout(
        xaxis=length_axis(axis_lengths(record), "effective length, tokens"),
        yaxis={"visible": False, "range": [-(len(names) - 1) - 0.8, 0.25], "fixedrange": True},
    )
    _native_guide(plot, record)
    return [Panel("forest", "", "; ".join(spoken), plot)]


def _forest_mark(plot: go.Figure, found: Effective, lengths: Sequence[int], y: float, side: str, hover: str) -> None:
    shortest, longest = units.tested_range(found, lengths)
    floor, ceiling = float(shortest or 1), float(longest or max(found.value, 1.0))

    def inside(value: float) -> float:
        return min(max(value, floor), ceiling)

    if found.lo is not None and found.hi is not None:
        ends = [inside(found.lo), inside(found.hi)]
        plot.add_scatter(
            x=ends, y=[y, y], mode="lines", line={"color": LIGHT[side], "width": 4}, opacity=0.4, hoverinfo="skip"
        )
    symbol = {"none": "circle", "left": "triangle-left", "right": "triangle-right"}[found.censoring]
    marker = mark(side, 11) | {"symbol": symbol}
    plot.add_scatter(
        x=[inside(found.value)],
        y=[y],
        mode="markers",
        marker=marker,
        hovertext=[hover],
        hoverinfo="text",
        cliponaxis=False,
    )


def score_curves(record: RunRecord) -> list[Panel]:
    """Score against length, one panel a task, before and after with bands, threshold and effective lengths."""
    panels = []
    for name, title in task_titles(record).items():
        plot = figure(266, top=20)
        spoken = []
        for side, measured in sides(record):
            task = measured.tasks.get(name)
            cells = sorted((c for c in (task.by_length if task else []) if c.mean is not None), key=lambda c: c.length)
            if task is None or not cells:
                continue
            hover = [f"<b>{side}</b> {cell_words(cell)}" for cell in cells]
            plot.add_traces(
                curve(
                    [cell.length for cell in cells],
                    [cell.mean for cell in cells],
                    side,
                    hover,
                    [cell.lo for cell in cells],
                    [cell.hi for cell in cells],
                )
            )
            spoken.append(f"{side} " + ", ".join(f"{units.percent(c.mean)} at {units.length(c.length)}" for c in cells))
        if not spoken:
            continue
        # The threshold is labelled like a tick; a tick too close to it gives way.
        ticks = [tick for tick in (0, 0.25, 0.5, 0.75, 1) if abs(tick - record.threshold) > 0.07]
        plot.update_layout(
            xaxis=length_axis(axis_lengths(record)),
            yaxis=axis()
            | {
                "range": [-0.04, 1.06],
                "tickvals": ticks,
                "ticktext": [f"{tick * 100:g}" + (" %" if tick == 1 else "") for tick in ticks],
            },
        )
        guide(plot, y=record.threshold, text=f"{record.threshold * 100:.3g}")
        _native_guide(plot, record)
        for side, measured in sides(record):
            if (reached := _effective(measured.tasks.get(name))) is not None and reached.censoring == "none":
                plot.add_trace(_crossing(reached, side, f"<b>{side}</b> {effective_words(reached, record.lengths)}"))
        panels.append(Panel(f"score-{name}", title, f"{title}, score by length: " + "; ".join(spoken), plot))
    return panels


def _crossing(found: Effective, side: str, hover: str) -> go.Scatter:
    """The effective length on the threshold line: a diamond where the curve falls through it."""
    return go.Scatter(
        x=[found.value],
        y=[found.threshold],
        mode="markers",
        marker=mark(side, 11) | {"symbol": "diamond"},
        hovertext=[hover],
        hoverinfo="text",
    )


def loss_curve(record: RunRecord) -> list[Panel]:
    """Loss of ordinary text by position in the context."""
    plot = figure(290, top=20)
    spoken = []
    ends = []
    for side, measured in sides(record):
        points = sorted((p for p in measured.text_loss if p.loss is not None), key=lambda p: p.position_start)
        if not points:
            continue
        ends.append(points[-1].position_end)
        plot.add_traces(
            curve(
                [(point.position_start + point.position_end) / 2 for point in points],
                [point.loss for point in points],
                side,
                [_loss_words(side, point) for point in points],
                [point.lo for point in points],
                [point.hi for point in points],
            )
        )
        spoken.append(f"{side} from {points[0].loss:.2f} at the start to {points[-1].loss:.2f} at the end")
    if not spoken:
        return []
    longest = max(ends)
    ticks = [longest * part / 4 for part in range(5)]
    plot.update_layout(
        xaxis=axis("position in the text, tokens", grid=False)
        | {"tickvals": ticks, "ticktext": [units.length(tick) for tick in ticks], "range": [0, longest * 1.03]},
        yaxis=axis() | {"nticks": 6, "rangemode": "normal"},
    )
    if record.model.native_length < longest:
        _native_guide(plot, record)
    return [Panel("loss", "", "Loss by position: " + "; ".join(spoken), plot)]


def task_titles(record: RunRecord) -> dict[str, str]:
    """Every task measured, in the run's order, with its title."""
    known = {name: task.title for _, measured in sides(record) for name, task in measured.tasks.items()}
    ordered = [name for name in record.tasks if name in known] + [name for name in known if name not in record.tasks]
    return {name: known[name] or name for name in ordered}


def all_lengths(record: RunRecord) -> list[int]:
    """Every length a score was measured at; the native window where nothing was."""
    found = {
        *record.lengths,
        *(c.length for _, m in sides(record) for task in m.tasks.values() for c in task.by_length),
    }
    return sorted(found) or [record.model.native_length]


def native_shown(record: RunRecord) -> bool:
    """Whether the native window lies near enough to the lengths tested to stand in their figures."""
    tested = all_lengths(record)
    return tested[0] / 4 <= record.model.native_length <= tested[-1] * 4


def axis_lengths(record: RunRecord) -> list[int]:
    """The lengths an axis spans: those tested, and the native window where it is near."""
    native = [record.model.native_length] if native_shown(record) else []
    return sorted({*all_lengths(record), *native})


def effective_words(found: Effective, lengths: Sequence[int]) -> str:
    """An effective length in words: value, unit, interval and n."""
    shortest, longest = units.tested_range(found, lengths)
    value = units.effective(found.value, found.censoring, shortest)
    interval = units.effective_interval(found.lo, found.hi, shortest, longest)
    aside = [f"95 % interval {interval}"] if interval and interval != value else []
    aside += [units.samples(found.n_per_length.values(), "per length")] if found.n_per_length else []
    return f"{value} tokens" + (f" ({', '.join(aside)})" if aside else "")


def cell_words(cell: Cell) -> str:
    """A cell in words over two lines: where, then score with interval and n."""
    where = f"{units.count(cell.length)} tokens" + ("" if cell.depth is None else f", depth {cell.depth:g} %")
    interval = units.interval(cell.lo, cell.hi, lambda value: f"{value * 100:.0f}")
    aside = (f"95 % interval {interval}, " if interval else "") + units.samples([cell.n])
    return f"{where}<br>{units.percent(cell.mean)} ({aside})"


def _value_and_interval(found: Effective, lengths: Sequence[int]) -> tuple[str, str]:
    shortest, longest = units.tested_range(found, lengths)
    value = units.effective(found.value, found.censoring, shortest)
    interval = units.effective_interval(found.lo, found.hi, shortest, longest)
    return value, "" if interval == value else interval


def _native_guide(plot: go.Figure, record: RunRecord) -> None:
    if not native_shown(record):
        return
    guide(plot, x=float(record.model.native_length), text=f"native {units.length(record.model.native_length)}")


def _label(text: str, color: str, size: int) -> dict[str, object]:
    return {"text": text, "showarrow": False, "font": {"size": size, "color": color}, "align": "left"}


def _effective(task: TaskMeasure | None) -> Effective | None:
    return task.effective if task else None


def _loss_words(side: str, point: LossPoint) -> str:
    where = f"positions {units.count(point.position_start)}\N{EN DASH}{units.count(point.position_end)}"
    interval = units.interval(point.lo, point.hi, lambda value: f"{value:.3f}")
    aside = (f"95 % interval {interval}, " if interval else "") + units.samples([point.n])
    return f"<b>{side}</b> {where}<br>{point.loss:.3f} nats per token ({aside})"
