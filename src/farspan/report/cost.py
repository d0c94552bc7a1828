"""Figures of what reading costs: time and memory against length, and all trials between gain and cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from farspan.report import units
from farspan.report.reading import Panel, all_lengths
from farspan.report.record import ProfileRow, RunRecord, TrialRecord
from farspan.report.tables import sides
from farspan.report.theme import LIGHT, axis, curve, figure, length_axis, log_ticks, thin

Number = float | None


def profile_panels(record: RunRecord) -> list[Panel]:
    """Time to first token, time per token, peak memory and cache against length, before and after."""
    panels = [
        _times(record, "ttft", "Time to first token", lambda r: r.ttft_s, lambda r: r.ttft_lo, lambda r: r.ttft_hi),
        _times(record, "tpot", "Time per further token", lambda r: r.tpot_s, lambda r: r.tpot_lo, lambda r: r.tpot_hi),
        _memory(record, "memory", "Peak memory", lambda r: r.peak_memory_bytes),
        _memory(record, "cache", "Key-value cache", lambda r: r.kv_bytes),
    ]
    return [panel for panel in panels if panel is not None]


def _times(
    record: RunRecord,
    key: str,
    title: str,
    value: Callable[[ProfileRow], Number],
    low: Callable[[ProfileRow], Number],
    high: Callable[[ProfileRow], Number],
) -> Panel | None:
    plot = figure(232, left=58)
    shown: list[float] = []
    spoken = []
    for side, rows in _profiles(record, value):
        times = [value(row) for row in rows]
        words = [f"<b>{side}</b> {_profile_words(row, units.seconds(value(row)), low(row), high(row))}" for row in rows]
        plot.add_traces(
            curve([r.length for r in rows], times, side, words, [low(r) for r in rows], [high(r) for r in rows])
        )
        shown += [number for row in rows for number in (value(row), low(row), high(row)) if number]
        spoken.append(f"{side} " + ", ".join(f"{units.seconds(value(r))} at {units.length(r.length)}" for r in rows))
    if not shown:
        return None
    lo, hi = min(shown), max(shown)
    if hi / lo < 4:
        scale, unit = units.seconds_unit(hi)
        ticks = linear_ticks(0, hi * 1.1 / scale)
        times_axis = {
            "range": [0, hi * 1.12],
            "tickvals": [tick * scale for tick in ticks],
            "ticktext": [units.tick(tick, unit) for tick in ticks],
        }
    else:
        ticks = thin(log_ticks(lo / 1.3, hi * 1.3), 7)
        times_axis = {
            "type": "log",
            "range": [math.log10(lo / 1.3), math.log10(hi * 1.3)],
            "tickvals": ticks,
            "ticktext": [_tick_seconds(tick) for tick in ticks],
        }
    plot.update_layout(xaxis=length_axis(_profile_lengths(record)), yaxis=axis() | times_axis)
    return Panel(key, title, f"{title} by length: " + "; ".join(spoken), plot)


def _memory(record: RunRecord, key: str, title: str, value: Callable[[ProfileRow], int | None]) -> Panel | None:
    plot = figure(232, left=66)
    shown: list[float] = []
    spoken = []
    for side, rows in _profiles(record, value):
        sizes: list[float | None] = [value(row) for row in rows]
        nothing: list[float | None] = [None] * len(rows)
        words = [f"<b>{side}</b> {_profile_words(row, units.size(value(row)), None, None)}" for row in rows]
        plot.add_traces(curve([row.length for row in rows], sizes, side, words, nothing, nothing))
        shown += [number for number in sizes if number is not None]
        spoken.append(f"{side} " + ", ".join(f"{units.size(value(r))} at {units.length(r.length)}" for r in rows))
    if not shown:
        return None
    scale, unit = units.size_unit(max(shown))
    ticks = linear_ticks(0, max(shown) * 1.1 / scale)
    plot.update_layout(
        xaxis=length_axis(_profile_lengths(record)),
        yaxis=axis()
        | {
            "range": [0, max(shown) * 1.12 or 1],
            "tickvals": [tick * scale for tick in ticks],
            "ticktext": [units.tick(tick, unit) for tick in ticks],
        },
    )
    return Panel(key, title, f"{title} by length: " + "; ".join(spoken), plot)


def linear_ticks(lo: float, hi: float, most: int = 5) -> list[float]:
    """Round ticks from `lo` to `hi`, at most `most` steps of 1, 2, 2.5 or 5 times a power of ten."""
    if hi <= lo:
        return [lo]
    power = 10.0 ** math.floor(math.log10((hi - lo) / most))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10, 20) if (hi - lo) / (power * factor) <= most)
    first, last = math.ceil(lo / step - 1e-9), math.floor(hi / step + 1e-9)
    return [step * index for index in range(first, last + 1)]


def pareto_panels(record: RunRecord) -> list[Panel]:
    """All trials between effective length and each of its costs, with the frontier no trial beats on both."""
    panels = [
        _pareto(record, "time", "time to first token", lambda t: t.ttft_s, units.seconds, units.seconds_unit),
        _pareto(record, "memory", "peak memory", lambda t: t.peak_memory_bytes, units.size, units.size_unit),
    ]
    return [panel for panel in panels if panel is not None]


def _pareto(
    record: RunRecord,
    key: str,
    title: str,
    cost: Callable[[TrialRecord], Number],
    word: Callable[[Number], str],
    unit_of: Callable[[float], tuple[float, str]],
) -> Panel | None:
    shown = [
        (t, c, e) for t in record.trials if (c := cost(t)) is not None and (e := plotted_length(t, record)) is not None
    ]
    if len(shown) < 2:
        return None
    plot = figure(348, left=46, right=18)
    ended = [(trial, c, e) for trial, c, e in shown if trial.state in ("complete", "baseline")]
    front = pareto_front([(c, e) for _, c, e in ended])
    if len(front) > 1:
        plot.add_scatter(
            x=[c for c, _ in front],
            y=[e for _, e in front],
            mode="lines",
            line={"color": LIGHT["quiet"], "width": 1.5, "shape": "hv"},
            hoverinfo="skip",
        )
    for trial, c, e in sorted(shown, key=lambda point: (point[0].kept, is_winner(point[0], record))):
        plot.add_scatter(
            x=[c],
            y=[e],
            mode="markers",
            marker=trial_mark(trial, record),
            hovertext=[_trial_words(trial, record, f"{word(c)} {title}")],
            hoverinfo="text",
            cliponaxis=False,
        )
    for trial, c, e in shown:
        if is_winner(trial, record) or trial.state == "baseline":
            left = c > (min(p[1] for p in shown) + max(p[1] for p in shown)) / 2
            plot.add_annotation(
                x=c,
                y=math.log10(e),
                text="<b>winner</b>" if trial.state != "baseline" else "baseline",
                bgcolor=LIGHT["paper"],
                opacity=0.9,
                showarrow=False,
                xanchor="right" if left else "left",
                yanchor="bottom",
                xshift=-9 if left else 9,
                yshift=6,
                font={"size": 12, "color": LIGHT["after" if trial.state != "baseline" else "muted"]},
            )
    costs = [c for _, c, _ in shown]
    scale, unit = unit_of(max(costs))
    spread = (max(costs) - min(costs)) or max(costs) * 0.2 or 1.0
    span = (max(0.0, min(costs) - 0.12 * spread), max(costs) + 0.12 * spread)
    ticks = linear_ticks(span[0] / scale, span[1] / scale, 4)
    heights = length_axis(
        [*all_lengths(record), *(e for _, _, e in shown if e > all_lengths(record)[-1])], "", room=1.45
    )
    plot.update_layout(
        xaxis=axis(title)
        | {
            "range": list(span),
            "tickvals": [tick * scale for tick in ticks],
            "ticktext": [units.tick(tick, unit) for tick in ticks],
        },
        yaxis=heights | {"showgrid": True},
    )
    description = f"{len(shown)} trials by effective length and {title}; {len(front)} of them on the frontier"
    return Panel(f"pareto-{key}", f"Effective length against {title}", description, plot)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points (cost, gain) that no other point beats on both, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front


def plotted_length(trial: TrialRecord, record: RunRecord) -> float | None:
    """Where a trial stands on a logarithmic axis of lengths; one that fails at once stands at the shortest length."""
    if trial.effective_length is None:
        return None
    return max(trial.effective_length, float(min(all_lengths(record))))


def is_winner(trial: TrialRecord, record: RunRecord) -> bool:
    """Whether the delivered recipe comes from this trial."""
    if record.winner is None or trial.state == "baseline":
        return False
    if record.winner.trial is not None:
        return trial.number == record.winner.trial
    return trial.recipe == record.winner.recipe


def trial_mark(trial: TrialRecord, record: RunRecord) -> dict[str, object]:
    """The marker of a trial: full if kept, hollow if not, small if stopped early, a square for the baseline."""
    if trial.state == "baseline":
        return {"symbol": "square", "size": 10, "color": LIGHT["paper"], "line": {"color": LIGHT["before"], "width": 2}}
    if is_winner(trial, record):
        return {"symbol": "star", "size": 16, "color": LIGHT["after"], "line": {"color": LIGHT["paper"], "width": 1}}
    if trial.kept:
        return {"symbol": "circle", "size": 10, "color": LIGHT["after"], "line": {"color": LIGHT["paper"], "width": 1}}
    if trial.state == "pruned":
        return {"symbol": "x-thin", "size": 7, "color": LIGHT["quiet"], "line": {"color": LIGHT["quiet"], "width": 1.5}}
    return {"symbol": "circle", "size": 9, "color": LIGHT["paper"], "line": {"color": LIGHT["quiet"], "width": 1.5}}


def trial_length_words(trial: TrialRecord, record: RunRecord) -> tuple[str, str]:
    """A trial's effective length and its interval in words; a trial stopped early never claims the longest length."""
    lengths = all_lengths(record)
    value = units.effective(trial.effective_length, trial.censoring, lengths[0])
    longest = trial.effective_length if trial.censoring == "right" else lengths[-1]
    return value, units.effective_interval(trial.lo, trial.hi, lengths[0], None if longest is None else int(longest))


def wrap_recipe(recipe: str, width: int = 46) -> str:
    """A recipe over several lines, broken after commas, HTML escaped."""
    lines = [""]
    for part in recipe.split(","):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part + ","
    return "<br>".join(escape(line) for line in lines)[:-1]


def _trial_words(trial: TrialRecord, record: RunRecord, cost: str) -> str:
    value, interval = trial_length_words(trial, record)
    at = f" at {units.count(trial.length)} tokens" if trial.length else ""
    aside = f" ({interval})" if interval and interval != value else ""
    n = f", {units.samples([trial.n])}" if trial.n else ""
    recipe = wrap_recipe(trial.recipe) if trial.recipe else "no lever"
    return (
        f"<b>trial {trial.number}</b>, {trial.state}<br>{recipe}<br>"
        f"{escape(value)} tokens{escape(aside)}{n}<br>{escape(cost)}{at}"
    )


def _profiles(record: RunRecord, value: Callable[[ProfileRow], object]) -> list[tuple[str, list[ProfileRow]]]:
    found = []
    for side, measured in sides(record):
        rows = sorted((row for row in measured.profile if value(row) is not None), key=lambda row: row.length)
        if rows:
            found.append((side, rows))
    return found


def _profile_lengths(record: RunRecord) -> list[int]:
    return sorted({row.length for _, measured in sides(record) for row in measured.profile})


def _profile_words(row: ProfileRow, value: str, low: Number, high: Number) -> str:
    spread = units.interval(low, high, units.seconds)
    aside = (f"spread {spread}, " if spread else "") + units.samples([row.n])
    return f"{units.count(row.length)} tokens<br>{value} ({aside})"


def _tick_seconds(value: float) -> str:
    scale, unit = units.seconds_unit(value * 1.0001)
    return units.tick(value / scale, unit)
