"""`farspan eval`: how far a model reads, on one or more tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farspan.cli.arguments import output_folder, parse_lengths


def eval_(
    tasks: Annotated[list[str], typer.Argument(help="core, a probe such as single_lines, or family:task.")],
    model: Annotated[str, typer.Option(help="A folder, a hub name, or reference.")] = "reference",
    recipe: Annotated[str, typer.Option(help="A recipe file, or levers such as yarn:factor=4.")] = "",
    lengths: Annotated[str, typer.Option(help="Total tokens a prompt, such as 1k,2k.")] = "256,512,1k,2k",
    n: Annotated[int, typer.Option("--n", min=1, help="Questions a task and length.")] = 40,
    threshold: Annotated[float, typer.Option(min=0.0, max=1.0, help="Score an effective length must keep.")] = 0.75,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the Inspect logs and scores.json.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that the checkpoint carries.")] = False,
) -> None:
    """Measure how far a model reads, with a recipe on or without.

    Example:

        farspan eval core --model reference --recipe yarn:factor=4 --lengths 512,1k,2k
    """
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from farspan.evals import evaluate
    from farspan.evals.core import resolve
    from farspan.models import load
    from farspan.recipe import Recipe

    grid = parse_lengths(lengths)
    resolve(tasks)
    levers = Recipe.read(recipe) if recipe else Recipe()
    folder = output_folder(out) if out is not None else None
    loaded, tokenizer = load(model, trust_remote_code=trust_remote_code)
    with levers(loaded), Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("questions")
        found = evaluate(
            loaded,
            tokenizer,
            tasks,
            grid,
            n=n,
            seed=seed,
            threshold=threshold,
            recipe=str(levers),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    console = Console()
    if found.tasks:
        table = Table("task", *(f"{length:,} tokens" for length in grid), "effective length (95 %)", title=model)
        for result in found.tasks:
            cells = [f"{cell.mean:.0%} (n={cell.n})" for cell in result.by_length()]
            read = result.effective
            side = {"left": "<", "right": "≥ ", "none": ""}[read.censoring]
            value = grid[0] if read.censoring == "left" else read.value
            interval = f"[{read.lo:,.0f}, {read.hi:,.0f}]"
            table.add_row(result.title, *cells, f"{side}{value:,.0f} {interval}")
        console.print(table)
    if found.text_loss:
        losses = Table("positions, tokens", "loss, nats a token", "texts", title="Text loss by position")
        for part in found.text_loss:
            loss = f"{part.loss:.2f} [{part.lo:.2f}, {part.hi:.2f}]"
            losses.add_row(f"{part.start:,} to {part.end:,}", loss, str(part.n))
        console.print(losses)
    for problem in found.problems():
        console.print(f"warning: {problem}", style="yellow")
    if folder is not None:
        from farspan.evals.inspect_log import write_inspect_log

        write_inspect_log(found, folder / "logs", "eval")
        (folder / "scores.json").write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
        typer.echo(f"wrote {folder}")
