"""`farspan tune`: measure a model, try levers under a budget, keep those that pay."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farspan.cli.arguments import output_folder, parse_duration, parse_length


def tune(
    model: Annotated[str, typer.Argument(help="A folder, a hub name, or reference.")] = "reference",
    target_length: Annotated[str, typer.Option(help="Tokens to reach for; 4 or 8 windows if left out.")] = "",
    budget: Annotated[str, typer.Option(help="Time for the run, such as 3m or 1h.")] = "3m",
    out: Annotated[Path, typer.Option(help="Folder of the run; a killed run goes on from there.")] = Path("runs/tune"),
    levers: Annotated[str, typer.Option(help="Levers to try, with commas; all that work if left out.")] = "",
    threshold: Annotated[float, typer.Option(min=0.05, max=1.0, help="Score an effective length must keep.")] = 0.75,
    seed: Annotated[int, typer.Option(help="Seed of samples, search and training.")] = 0,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that the checkpoint carries.")] = False,
) -> None:
    """Measure a model, try levers under a budget, keep those that pay, and write a report.

    Example:

        farspan tune reference --target-length 2k --budget 3m --out runs/first
    """
    from rich.console import Console

    from farspan.recipe import lever_class

    console = Console()
    target = parse_length(target_length) if target_length else None
    seconds = parse_duration(budget)
    wanted = tuple(name.strip() for name in levers.split(",") if name.strip())
    for name in wanted:
        lever_class(name)
    folder = output_folder(out)
    with console.status("loading"):
        from farspan.tuning import tune as run

    record = run(
        model,
        out=folder,
        target_length=target,
        budget_seconds=seconds,
        levers=wanted,
        seed=seed,
        threshold=threshold,
        trust_remote_code=trust_remote_code,
        say=lambda line: console.print(line, highlight=False),
    )
    console.print()
    console.print(record.verdict, style="bold", highlight=False)
    console.print(f"report: {folder / 'report.html'}   recipe: {folder / 'recipe.yaml' if record.winner else 'none'}")
