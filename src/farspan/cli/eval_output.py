"""What `farspan eval` puts on the screen and into its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from farspan.evals.effective import EffectiveLength
    from farspan.evals.evaluation import Evaluation
    from farspan.evals.forecast import Forecast

WORTH_TELLING = 1_000_000
"""Prompt tokens from which a run's cost is told unasked."""


def tell(console: Console, forecast: Forecast | None, *, always: bool = False) -> None:
    """Say what a run will take, where it is much or asked for."""
    from farspan.report import units

    if forecast is None or not (always or forecast.prompt_tokens >= WORTH_TELLING or forecast.price is not None):
        return
    parts = [
        f"{forecast.questions:,} questions on {forecast.contexts:,} contexts",
        f"{forecast.prompt_tokens:,} tokens of prompts ({forecast.unique_tokens:,} if contexts are read once)",
        f"at most {forecast.answer_tokens:,} tokens of answers",
    ]
    if forecast.seconds is not None:
        parts.append(f"about {units.seconds(forecast.seconds)} of reading")
    if forecast.price is not None:
        parts.append(f"at most {forecast.price:,.2f} at the prices given")
    console.print("this run: " + "; ".join(parts))


def show(found: Evaluation) -> None:
    """Scores by length and effective lengths, and what must be known before believing them."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    heard = [task for task in found.tasks if task.heard]
    lengths = sorted({length for task in heard for length in task.lengths})
    if heard:
        named = (f"{length:,} tokens" for length in lengths)
        table = Table("task", *named, "effective length (95 %)", title=found.model)
        for task in heard:
            cells = {cell.length: f"{cell.mean:.0%} (n={cell.n})" for cell in task.by_length()}
            table.add_row(task.title, *(cells.get(length, "-") for length in lengths), _reach(task.effective))
        console.print(table)
    skills = found.skills()
    if len(skills) > 1:
        table = Table("skill", "effective length (95 %)", "n a length")
        for skill, read in skills.items():
            table.add_row(skill, _reach(read), f"n >= {min(read.n_per_length)}")
        console.print(table)
    if found.text_loss:
        losses = Table("positions, tokens", "loss, nats a token", "texts", title="Text loss by position")
        for part in found.text_loss:
            loss = f"{part.loss:.2f} [{part.lo:.2f}, {part.hi:.2f}]"
            losses.add_row(f"{part.start:,} to {part.end:,}", loss, str(part.n))
        console.print(losses)
    for problem in found.problems():
        console.print(f"warning: {problem}", style="yellow")


def _reach(read: EffectiveLength) -> str:
    from farspan.report import units

    shortest, longest = read.lengths[0], read.lengths[-1]
    interval = units.effective_interval(read.lo, read.hi, shortest, longest)
    return f"{units.effective(read.value, read.censoring, shortest)} ({interval})"


def write(found: Evaluation, folder: Path) -> None:
    """Inspect logs and the report; runs whose scores mean nothing get neither, and an error says why."""
    from farspan.evals.inspect_log import write_inspect_log
    from farspan.evals.trust import require_trust
    from farspan.report import EvaluationRun, build_evaluation_report

    require_trust(found)
    write_inspect_log(found, folder / "logs", "eval")
    if found.tasks:
        build_evaluation_report([EvaluationRun(folder.resolve().name, found)], folder)
