"""The page of one or more evaluations: how far each reads, skill by skill, and what one is to the other.

Runs are compared question by question where they asked the same ones. A run whose scores mean nothing is not drawn but
refused. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from pydantic import ValidationError

from farspan.evals.comparison import Difference, comparable
from farspan.evals.effective import EffectiveLength, EffectiveLengthComparison
from farspan.evals.evaluation import Evaluation
from farspan.evals.published import landmarks, published_tables
from farspan.evals.trust import require_trust
from farspan.report import evaluation_tables as tables
from farspan.report import listing, units
from farspan.report.document import document, figures, section, swatch
from farspan.report.evaluation_figures import heat_panels, score_panels
from farspan.report.evaluation_tables import EvaluationRun
from farspan.report.listing import Column
from farspan.report.reading import Panel
from farspan.report.record import RecordError, write_atomically
from farspan.report.theme import HEAT, MOST_RUNS

SCORES_NAME = "scores.json"
_NEARNESS = {
    "equal": "their construction is reproduced here",
    "similar": "their texts are like those here",
    "other": "their texts are worded otherwise, so they are landmarks and not targets",
    "official": "they are of the official texts and chat templates, so they are landmarks and not targets",
}


def load_evaluation(path: Path | str) -> Evaluation:
    """Read an evaluation from the folder of `farspan eval --out`, or from its `scores.json`.

    Raises
    ------
    RecordError : missing, or not an evaluation.
    """
    path = Path(path)
    file = path if path.suffix == ".json" else path / SCORES_NAME
    try:
        return Evaluation.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecordError(f"no evaluation at {file}; give the --out folder of a finished `farspan eval`") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error
    except ValidationError as error:
        raise RecordError(f"{file} is not an evaluation: {error.errors()[0]['msg']}") from error


def build_evaluation_report(runs: Sequence[EvaluationRun], out_dir: Path) -> Path:
    """Write `report.html` and `tables/*.csv` of evaluations side by side and return the page's path.

    Raises
    ------
    RecordError : no run, more runs than can be told apart, or a folder that cannot be written.
    UntrustworthyError : a run's scores mean nothing.
    """
    if not 1 <= len(runs) <= MOST_RUNS:
        raise RecordError(f"a report shows 1 to {MOST_RUNS} runs, {len(runs)} were given")
    for run in runs:
        require_trust(run.evaluation)
    page, folder = out_dir / "report.html", out_dir / "tables"
    text = render_evaluations(runs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for table in tables.all_tables(runs):
            write_atomically(folder / f"{table.name}.csv", table.to_csv())
        write_atomically(page, text)
    except OSError as error:
        raise RecordError(f"cannot write the report to {out_dir}: {error.strerror or error}") from error
    return page


def render_evaluations(runs: Sequence[EvaluationRun]) -> str:
    """The whole page as HTML text."""
    drawn: dict[str, Panel] = {}
    parts = [
        _skills(runs),
        _tasks(runs),
        _compared(runs),
        _scores(runs, drawn),
        _where(runs, drawn),
        _published(runs),
        _accounts(runs),
        _provenance(runs),
    ]
    said = _said(runs)
    origin = "".join(f"<span><b>{escape(run.label)}</b> {escape(_what(run))}</span>" for run in runs)
    head = f'<header><p class="origin">{origin}</p><h1>{escape(said)}</h1></header>'
    foot = (
        "<footer><p>Made by Farspan; <code>farspan report</code> on the runs' folders makes this page again. "
        "Every figure's numbers are in <code>tables/</code>.</p></footer>"
    )
    return document("Farspan evaluation", said, f"{head}<main>{''.join(parts)}</main>{foot}", drawn)


def _said(runs: Sequence[EvaluationRun]) -> str:
    first = runs[0].evaluation
    if len(runs) > 1:
        return f"{len(runs)} runs on {len(tables.task_titles(runs))} tasks, side by side"
    task = next(task for task in first.tasks if task.heard)
    read = task.effective
    value = units.effective(read.value, read.censoring, read.lengths[0])
    return f"{first.model} reads {value} tokens of {task.title[:1].lower()}{task.title[1:]}"


def _what(run: EvaluationRun) -> str:
    found = run.evaluation
    recipe = f", {found.recipe}" if found.recipe else ""
    return f"{found.model}{recipe}" + ("" if found.source == "local" else f" at {found.source}")


def _legend(runs: Sequence[EvaluationRun]) -> str:
    keys = []
    for number, run in enumerate(runs):
        color = f"var(--run{number})"
        mark = swatch(26, f'<path d="M0 6h26" stroke="{color}"/><circle cx="13" cy="6" r="4" fill="{color}"/>')
        keys.append(f"<span>{mark}{escape(run.label)}</span>")
    return f'<p class="legend">{"".join(keys)}</p>'


def _reach(found: EffectiveLength | None) -> str:
    if found is None:
        return units.MISSING
    shortest, longest = found.lengths[0], found.lengths[-1]
    interval = units.effective_interval(found.lo, found.hi, shortest, longest)
    aside = ", ".join([*([interval] if interval else []), units.samples(found.n_per_length)])
    return f'{units.effective(found.value, found.censoring, shortest)} <span class="sub">{aside}</span>'


def _skills(runs: Sequence[EvaluationRun]) -> str:
    found = [run.evaluation.skills() for run in runs]
    names = list(dict.fromkeys(name for one in found for name in one))
    if not names:
        return ""
    columns = (Column("Skill", "head"), *(Column(run.label, "num") for run in runs))
    rows = [listing.html_row(columns, [escape(name), *(_reach(one.get(name)) for one in found)]) for name in names]
    lead = (
        "Effective context length in tokens: where the mean over a skill's tasks, made non-increasing in length, falls "
        "through the threshold. Below it the 95 % interval and the number of answers a length."
    )
    body = listing.html_table(columns, rows), listing.numbers(tables.skills(runs))
    return section("skills", "How far each skill reaches", lead, *body)


def _tasks(runs: Sequence[EvaluationRun]) -> str:
    columns = (Column("Task", "head"), *(Column(run.label, "num") for run in runs))
    rows = []
    for name, title in tables.task_titles(runs).items():
        mine = [task.effective if (task := run.task(name)) is not None else None for run in runs]
        rows.append(listing.html_row(columns, [escape(title), *map(_reach, mine)]))
    lead = "The same task by task."
    body = listing.html_table(columns, rows), listing.numbers(tables.effective_lengths(runs))
    return section("effective", "How far each task reaches", lead, *body)


def _compared(runs: Sequence[EvaluationRun]) -> str:
    if len(runs) < 2:
        return ""
    parts = []
    lengths = tables.lengths_of(runs)
    compared = {(a.label, b.label): tasks for a, b, tasks in tables.comparisons(runs)}
    for a, b in tables.pairs(runs):
        heading = f"<h3>{escape(b.label)} against {escape(a.label)}</h3>"
        why = comparable(a.evaluation, b.evaluation)
        if why:
            parts.append(f'{heading}<p class="lead">Not compared question by question: {escape(why)}.</p>')
            continue
        columns = (
            *(Column("Task", "head"), Column("Effective length", "num")),
            *(Column(f"at {units.length(length)}", "num") for length in lengths),
        )
        rows = []
        for task in compared.get((a.label, b.label), []):
            by_length = {one.length: one for one in task.differences}
            cells = [_gain(by_length.get(length)) for length in lengths]
            rows.append(listing.html_row(columns, [escape(task.title), _ratio(task.effective), *cells]))
        parts.append(heading + listing.html_table(columns, rows))
    lead = (
        "Question by question, over those both answered: the ratio of effective lengths, and the difference of scores "
        "in points at each length, each with its 95 % interval; contexts are resampled together. Bold: the interval "
        "excludes no difference."
    )
    return section("compared", "What one is to the other", lead, *parts, listing.numbers(tables.differences(runs)))


def _gain(one: Difference | None) -> str:
    if one is None:
        return units.MISSING
    value = f"{100 * one.mean:+.0f}"
    interval = f"{100 * one.lo:+.0f} to {100 * one.hi:+.0f}, n = {one.n}"
    return f'{f"<b>{value}</b>" if one.clear else value} <span class="sub">{interval}</span>'


def _ratio(found: EffectiveLengthComparison | None) -> str:
    if found is None:
        return units.MISSING
    value, interval = units.ratio(found.ratio), units.ratio_interval(found.lo, found.hi)
    censored = " (at the edge of what was tested)" if found.censoring_a == found.censoring_b != "none" else ""
    return f'{f"<b>{value}</b>" if found.clear else value} <span class="sub">{interval}{censored}</span>'


def _scores(runs: Sequence[EvaluationRun], drawn: dict[str, Panel]) -> str:
    counts = [n for run in runs for task in run.evaluation.tasks if task.heard for n in task.effective.n_per_length]
    lead = (
        f"Mean score with its 95 % interval, {units.samples(counts, 'per length')}. Dashed: the threshold. Thin grey "
        "lines are published scores of named models on the same task."
    )
    panels = figures(score_panels(runs), drawn, two=True)
    return section(
        "scores", "Score against length", lead, _legend(runs), panels, listing.numbers(tables.scores_by_length(runs))
    )


def _where(runs: Sequence[EvaluationRun], drawn: dict[str, Panel]) -> str:
    groups = heat_panels(runs)
    if not groups:
        return ""
    key = f'<span class="ramp" style="background:linear-gradient(90deg,{",".join(HEAT)})"></span>'
    parts = [
        f'<h3 class="pair-title">{escape(title)}</h3>{figures(panels, drawn, two=True, level=4)}'
        for title, panels in groups
    ]
    lead = "Mean score in percent by context length and by depth: 0 % is evidence at the start of the context."
    legend = f'<p class="legend"><span>0 %{key}100 %</span></p>'
    return section("where", "Where it reads", lead, legend, *parts, listing.numbers(tables.scores_by_depth(runs)))


def _published(runs: Sequence[EvaluationRun]) -> str:
    marks = landmarks([run.evaluation.tasks for run in runs])
    if not marks:
        return ""
    columns = (
        *(Column("Tasks", "head"), Column("Length", "num")),
        *(Column(run.label, "num") for run in runs),
        Column("Published", "why"),
    )
    rows = []
    for mark in marks:
        named = ", ".join(f"{escape(model)} {score:g}" for model, score in mark.published)
        own = [units.MISSING if value is None else f"{value:.1f}" for value in mark.own]
        name = f"{mark.family.replace('_', ' ')}: {mark.group}"
        rows.append(listing.html_row(columns, [escape(name), units.count(mark.length), *own, named]))
    sources = dict.fromkeys(mark.family for mark in marks)
    known = published_tables()
    notes = "; ".join(
        f"{name.replace('_', ' ')} from {known[name].source} ({_NEARNESS[known[name].text]})" for name in sources
    )
    lead = f"Percent, at the lengths that were published: {escape(notes)}."
    return section(
        "published",
        "Beside published models",
        lead,
        listing.html_table(columns, rows),
        listing.numbers(tables.published(runs)),
    )


def _accounts(runs: Sequence[EvaluationRun]) -> str:
    names = ("asked", "answered", "truncated", "empty", "too long", "failed")
    columns = (Column("Run", "head"), *(Column(name, "num") for name in names), Column("Tokens read, written", "num"))
    rows = []
    for run in runs:
        count = run.evaluation.account
        heard = [answer for task in run.evaluation.tasks for answer in task.heard]
        tokens = f"{sum(a.input_tokens for a in heard):,}, {sum(a.output_tokens for a in heard):,}"
        cells = [f"{getattr(count, name.replace(' ', '_')):,}" for name in names]
        rows.append(listing.html_row(columns, [escape(run.label), *cells, tokens]))
    problems = [f"{run.label}: {problem}" for run in runs for problem in run.evaluation.problems()]
    listed = f'<ul class="notes">{"".join(f"<li>{escape(one)}</li>" for one in problems)}</ul>' if problems else ""
    lead = (
        "Every question of a run is one of these. Questions without a reply count nowhere; truncated answers count as "
        "they stand, though more tokens might have made them right."
    )
    return section(
        "accounts",
        "What became of the questions",
        lead,
        listing.html_table(columns, rows),
        listed,
        listing.numbers(tables.accounts(runs)),
    )


def _provenance(runs: Sequence[EvaluationRun]) -> str:
    blocks = []
    for run in runs:
        found = run.evaluation
        about = {
            "model": found.model,
            "recipe": found.recipe or "none",
            "asked at": found.source,
            "answers begun by": found.prefix_mode,
            "lengths counted with": found.tokenizer,
            "seed": str(found.seed),
        }
        pairs = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in about.items())
        blocks.append(f'<div><h3>{escape(run.label)}</h3><dl class="pairs">{pairs}</dl></div>')
    return section("provenance", "How this was measured", "", f'<div class="panels two">{"".join(blocks)}</div>')
