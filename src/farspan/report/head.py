"""The top of the report: where it comes from, the verdict in one sentence, and the few numbers that carry it."""

from __future__ import annotations

from datetime import datetime
from html import escape

from farspan.report import units
from farspan.report.cost import is_winner
from farspan.report.listing import recipe_code
from farspan.report.reading import task_titles
from farspan.report.record import Effective, ProfileRow, RunRecord

ARROW = ' <span class="arrow">\N{RIGHTWARDS ARROW}</span> '


def head(record: RunRecord) -> str:
    """The page's header."""
    origin = [
        f"<span><b>{escape(record.model.name)}</b></span>",
        f"<span>{escape(record.model.architecture)}, {units.parameters(record.model.parameters)} parameters</span>"
        if record.model.parameters is not None
        else f"<span>{escape(record.model.architecture)}</span>",
        f"<span>farspan tune, {escape(_day(record.created))}</span>",
    ]
    facts = [fact for fact in (_reach(record), _time(record), _memory(record), _search(record)) if fact]
    delivered = ""
    if record.winner is not None:
        delivered = f'<p class="delivered"><span class="muted">Recipe</span> {recipe_code(record.winner.recipe)}</p>'
    return (
        f'<header><p class="origin">{"".join(origin)}</p><h1>{escape(record.verdict)}</h1>'
        f'<dl class="facts">{"".join(facts)}</dl>{delivered}</header>'
    )


def _day(created: str) -> str:
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment.day} {moment:%B %Y}"


def _fact(name: str, value: str, small: str) -> str:
    return f'<div><dt>{escape(name)}</dt><dd class="value">{value}</dd><dd class="small">{small}</dd></div>'


def _pair(before: str, after: str | None, unit: str) -> str:
    """Before and after with one unit; the number of a run that found nothing stands alone."""
    said = f' <span class="unit">{escape(unit)}</span>' if unit else ""
    if after is None:
        return f"{escape(before)}{said}"
    return f'<span class="was">{escape(before)}</span>{ARROW}<span class="now">{escape(after)}{said}</span>'


def _reach(record: RunRecord) -> str:
    name = record.headline
    if name is None or (task := record.baseline.tasks.get(name)) is None or (before := task.effective) is None:
        return ""
    best = record.best.tasks.get(name) if record.best is not None else None
    after = best.effective if best is not None else None
    small = [escape(task_titles(record)[name])]
    winner = next((trial for trial in record.trials if is_winner(trial, record)), None)
    if winner is not None and winner.ratio_to_baseline is not None:
        interval = units.ratio_interval(winner.ratio_lo, winner.ratio_hi)
        small.insert(
            0, units.ratio(winner.ratio_to_baseline) + (f" (95 % interval {escape(interval)})" if interval else "")
        )
    elif after is None and (bounds := _interval(before, record)) not in ("", _value(before, record)):
        small.insert(0, f"95 % interval {escape(bounds)}")
    counts = [*before.n_per_length.values(), *(after.n_per_length.values() if after else ())]
    if counts:
        small.append(units.samples(counts, "per length"))
    value = _pair(_value(before, record), _value(after, record) if after else None, "tokens")
    return _fact("Effective context length", value, " \N{MIDDLE DOT} ".join(small).replace(" %", units.SPACE + "%"))


def _value(found: Effective, record: RunRecord) -> str:
    return units.effective(found.value, found.censoring, units.tested_range(found, record.lengths)[0])


def _interval(found: Effective, record: RunRecord) -> str:
    return units.effective_interval(found.lo, found.hi, *units.tested_range(found, record.lengths))


def _longest(record: RunRecord, field: str) -> tuple[ProfileRow, ProfileRow | None] | None:
    """The rows at the longest length at which the field is known before, and after where there is an after."""
    before = {row.length: row for row in record.baseline.profile if getattr(row, field) is not None}
    after = {row.length: row for row in (record.best.profile if record.best else []) if getattr(row, field) is not None}
    if shared := sorted(before.keys() & after.keys()):
        return before[shared[-1]], after[shared[-1]]
    return (before[max(before)], None) if before else None


def _time(record: RunRecord) -> str:
    if (rows := _longest(record, "ttft_s")) is None:
        return ""
    before, after = rows
    times = [row.ttft_s or 0.0 for row in (before, after) if row is not None]
    scale, unit = units.seconds_unit(max(times))
    words = [units.significant(time / scale) for time in times]
    small = f"for {units.count(before.length)} tokens, {units.samples(r.n for r in (before, after) if r)}"
    return _fact("Time to first token", _pair(words[0], words[1] if after else None, unit), small)


def _memory(record: RunRecord) -> str:
    if (rows := _longest(record, "peak_memory_bytes")) is None:
        return ""
    before, after = rows
    sizes = [float(row.peak_memory_bytes or 0) for row in (before, after) if row is not None]
    scale, unit = units.size_unit(max(sizes))
    words = [units.significant(value / scale) for value in sizes]
    small = f"for {units.count(before.length)} tokens, {units.samples(r.n for r in (before, after) if r)}"
    return _fact("Peak memory", _pair(words[0], words[1] if after else None, unit), small)


def _search(record: RunRecord) -> str:
    tried = [trial for trial in record.trials if trial.state != "baseline"]
    levers = {name for trial in tried for name in trial.levers}
    if record.seconds_used is None and not tried:
        return ""
    budget = f" of a budget of {units.seconds(record.budget_seconds)}" if record.budget_seconds is not None else ""
    used = f"{units.seconds(record.seconds_used)}{budget}" if record.seconds_used is not None else ""
    kinds = f"over {len(levers)} lever{'' if len(levers) == 1 else 's'}" if levers else ""
    small = ", ".join(filter(None, (kinds, used)))
    plural = "" if len(tried) == 1 else "s"
    return _fact("Search", f'{len(tried)} <span class="unit">trial{plural}</span>', small)
