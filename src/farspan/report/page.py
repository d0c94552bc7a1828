"""The report page: one HTML document that carries its style, its script and its figures, and loads nothing.

The page is put together from sections; a section without data is left out. Wording that depends on numbers lives here,
the numbers themselves come from the record as they are.
"""

from __future__ import annotations

from html import escape

from farspan.report import listing, tables, units
from farspan.report.cost import is_winner, pareto_panels, profile_panels
from farspan.report.document import KEY_MARKS, document, figures, section
from farspan.report.head import head
from farspan.report.heat import heat_maps
from farspan.report.reading import Panel, forest, loss_curve, native_shown, score_curves
from farspan.report.record import Fact, RunRecord
from farspan.report.tables import Table
from farspan.report.theme import HEAT

_TRIAL_MARKS = {
    "winner": ("\N{BLACK STAR}", "winner"),
    "kept": ("\N{BLACK CIRCLE}", "kept"),
    "complete": ("\N{WHITE CIRCLE}", "not kept"),
    "pruned": ("\N{MULTIPLICATION SIGN}", "stopped early"),
    "baseline": ("\N{WHITE SQUARE}", "baseline"),
}


def render(record: RunRecord) -> str:
    """The whole report page of a run as HTML text."""
    drawn: dict[str, Panel] = {}
    sections = [
        _how_far(record, drawn),
        _levers(record),
        _where(record, drawn),
        _scores(record, drawn),
        _costs(record, drawn),
        _loss(record, drawn),
        _tried(record, drawn),
        _recipe(record),
        _provenance(record),
    ]
    body = f"{head(record)}<main>{''.join(sections)}</main>{_footer(record)}"
    title = f"{record.model.name} \N{MIDDLE DOT} Farspan tune report"
    return document(title, record.verdict, body, drawn)


def _legend(record: RunRecord, *extra: str) -> str:
    names = [side for side, _ in tables.sides(record)]
    words = {"before": "before" if record.best is not None else "as found", "after": "after"}
    keys = [f"<span>{KEY_MARKS[side]}{words[side]}</span>" for side in names]
    return f'<p class="legend">{"".join([*keys, *(f"<span>{text}</span>" for text in extra)])}</p>'


def _numbers(table: Table) -> str:
    return listing.numbers(table) if table.rows else ""


def _how_far(record: RunRecord, drawn: dict[str, Panel]) -> str:
    panels = forest(record)
    if not panels:
        return ""
    found = [t.effective for _, m in tables.sides(record) for t in m.tasks.values() if t.effective is not None]
    counts = [n for effective in found for n in effective.n_per_length.values()]
    censored = {effective.censoring for effective in found}
    lead = (
        f"Effective context length: where the mean score, made non-increasing in length, falls through "
        f"{units.percent(record.threshold)}. Bars are 95 % intervals"
        + (f", {units.samples(counts, 'per length')}" if counts else "")
        + ("." if not native_shown(record) else f". The dashed line is the {_native(record)}.")
        + (
            " A triangle marks a value outside the lengths tested."
            if "none" not in censored or len(censored) > 1
            else ""
        )
    )
    table = _numbers(tables.effective_lengths(record))
    return section("effective", "How far it reads", lead, _legend(record), figures(panels, drawn), table)


def _levers(record: RunRecord) -> str:
    lead = (
        "Each lever of the winning recipe was taken out in turn, the others kept on. "
        "Bought is the effective length with it divided by that without it, with its 95 % interval; "
        "time and memory are the same ratio, so below ×1 is cheaper."
    )
    table = listing.lever_table(record)
    return section("levers", "What each lever bought and cost", lead, table) if table else ""


def _native(record: RunRecord) -> str:
    return f"native window of {units.count(record.model.native_length)} tokens"


def _where(record: RunRecord, drawn: dict[str, Panel]) -> str:
    pairs = heat_maps(record)
    if not pairs:
        return ""
    counts = [
        c.n for _, m in tables.sides(record) for task in m.tasks.values() for c in task.cells if c.depth is not None
    ]
    lead = (
        "Mean score in percent by context length and by depth: 0 % is evidence at the start of the context, "
        f"100 % right before the question. {units.samples(counts, 'per cell')}."
    )
    keys = [
        f'0 %<span class="ramp" style="background:linear-gradient(90deg,{",".join(HEAT)})"></span>100 %',
        f"{KEY_MARKS['threshold']}{units.percent(record.threshold)} threshold",
    ]
    if any(trace.type == "bar" for _, panels in pairs for panel in panels for trace in panel.plot.data):
        keys.append(f"{KEY_MARKS['missing']}not measured")
    legend = f'<p class="legend">{"".join(f"<span>{key}</span>" for key in keys)}</p>'
    parts = [
        f'<h3 class="pair-title">{escape(title)}</h3>{figures(panels, drawn, two=True, level=4)}'
        for title, panels in pairs
    ]
    return section("where", "Where it reads", lead, legend, *parts, _numbers(tables.scores_by_depth(record)))


def _scores(record: RunRecord, drawn: dict[str, Panel]) -> str:
    counts = [c.n for _, m in tables.sides(record) for task in m.tasks.values() for c in task.by_length]
    lead = (
        f"Mean score with its 95 % interval, {units.samples(counts, 'per length')}. Dashed: the threshold of "
        + units.percent(record.threshold)
        + (f" and the {_native(record)}." if native_shown(record) else ".")
    )
    if any(t.effective and t.effective.censoring == "none" for _, m in tables.sides(record) for t in m.tasks.values()):
        lead += " A diamond marks the effective length."
    panels = figures(score_curves(record), drawn, two=True)
    if not panels:
        return ""
    return section(
        "scores", "Score against length", lead, _legend(record), panels, _numbers(tables.scores_by_length(record))
    )


def _costs(record: RunRecord, drawn: dict[str, Panel]) -> str:
    panels = figures(profile_panels(record), drawn, two=True)
    if not panels:
        return ""
    counts = [row.n for _, measured in tables.sides(record) for row in measured.profile]
    lead = f"Medians over repeats with their spread, {units.samples(counts, 'per length')}."
    return section(
        "cost", "Time and memory against length", lead, _legend(record), panels, _numbers(tables.profile(record))
    )


def _loss(record: RunRecord, drawn: dict[str, Panel]) -> str:
    panels = figures(loss_curve(record), drawn)
    if not panels:
        return ""
    counts = [point.n for _, measured in tables.sides(record) for point in measured.text_loss]
    lead = (
        "Mean loss of ordinary text in nats per token, with its 95 % interval, "
        f"{units.samples(counts, 'per position range')}. Where it rises, more context leaves the model worse off."
    )
    return section("loss", "Text loss by position", lead, _legend(record), panels, _numbers(tables.text_loss(record)))


def _tried(record: RunRecord, drawn: dict[str, Panel]) -> str:
    if not record.trials:
        return ""
    panels = figures(pareto_panels(record), drawn, two=True)
    lead = "A trial is kept only if its gain over the baseline, on the same samples, clears its 95 % interval."
    if (length := listing.shared_length(record)) is not None:
        lead += f" Time and memory at {units.count(length)} tokens."
    if panels:
        lead += " Up and to the left is better; the line joins trials that no other beats on both."
    shown = {"winner" if is_winner(t, record) else "kept" if t.kept else t.state for t in record.trials}
    keys = [f"<span>{sign} {word}</span>" for state, (sign, word) in _TRIAL_MARKS.items() if state in shown]
    legend = f'<p class="legend">{"".join(keys)}</p>'
    parts = [
        legend + panels if panels else "",
        f"<h3>Trials</h3>{listing.trial_table(record)}",
        f"<h3>Levers, over all trials</h3>{tried}" if (tried := listing.tried_table(record)) else "",
        _numbers(tables.trials(record)),
    ]
    return section("trials", "What was tried", lead, *parts)


def _code(inner: str) -> str:
    return f'<div class="code copyable"><pre>{inner}</pre></div>'


def _command(line: str) -> str:
    # Words break as wholes, so that no option loses its dashes at the end of a narrow line.
    return " ".join(f'<span class="part">{escape(word)}</span>' for word in line.split(" "))


def _recipe(record: RunRecord) -> str:
    parts = []
    if (winner := record.winner) is not None:
        where = (
            f"The checkpoint in <code>{escape(winner.checkpoint)}</code> has it written in and loads without Farspan."
            if winner.baked and winner.checkpoint
            else "It works at run time: pass it with <code>--recipe recipe.yaml</code>."
        )
        reason = f"{escape(winner.reason)} " if winner.reason else ""
        parts.append(
            f'<h3>recipe.yaml</h3><p class="lead">{reason}{where}</p>{_code(escape(winner.recipe_yaml.rstrip()))}'
        )
    commands = record.commands or [record.command]
    parts.append(f"<h3>Reproduce</h3>{_code(chr(10).join(map(_command, commands)))}")
    heading = "Recipe and commands" if record.winner is not None else "Commands"
    return section("recipe", heading, "", *parts)


def _provenance(record: RunRecord) -> str:
    model = record.model
    about = {
        "model": model.name,
        "architecture": model.architecture,
        "parameters": units.parameters(model.parameters),
        "native window": f"{units.count(model.native_length)} tokens",
        "target": f"{units.count(record.target_length)} tokens",
        "number type": model.dtype or units.MISSING,
        "tokenizer": model.tokenizer or units.MISSING,
        "lengths": ", ".join(units.count(length) for length in record.lengths) + " tokens"
        if record.lengths
        else units.MISSING,
        "threshold": units.percent(record.threshold, 1).replace(".0", ""),
        "seed": str(record.seed),
        "created": record.created,
        "command": record.command,
    }
    machine = dict(_fact(key, value) for key, value in record.machine.items())
    versions = {"farspan": record.farspan_version} | {k: v for k, v in record.versions.items() if k != "farspan"}
    columns = [("Run", about), ("Machine", machine), ("Versions", versions)]
    blocks = "".join(f"<div><h3>{name}</h3>{_pairs(pairs)}</div>" for name, pairs in columns if pairs)
    notes = "".join(f"<li>{escape(note)}</li>" for note in record.notes)
    listed = f'<h3>Notes</h3><ul class="notes">{notes}</ul>' if notes else ""
    return section("provenance", "How this was measured", "", listed, f'<div class="panels three">{blocks}</div>')


def _fact(key: str, value: Fact) -> tuple[str, str]:
    if value is None:
        return key, units.MISSING
    if isinstance(value, int) and not isinstance(value, bool):
        return (key.removesuffix("_bytes"), units.size(value)) if key.endswith("_bytes") else (key, f"{value:,}")
    return key, str(value)


def _pairs(pairs: dict[str, str]) -> str:
    inner = "".join(f"<dt>{escape(key.replace('_', ' '))}</dt><dd>{escape(value)}</dd>" for key, value in pairs.items())
    return f'<dl class="pairs">{inner}</dl>'


def _footer(record: RunRecord) -> str:
    return (
        f"<footer><p>Made by Farspan {escape(record.farspan_version)} from <code>run.json</code>; "
        "<code>farspan report</code> on the run's folder makes this page again. "
        "Every figure's numbers are in <code>tables/</code>.</p></footer>"
    )
