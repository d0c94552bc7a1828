"""`farspan rope scales`: a model trained with stretched positions served at larger scales, to see which reads farthest.

It reads arguments and prints a table; what is tried and how it is judged belongs to the evals room.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farspan.cli.arguments import ArgumentError, output_folder, parse_lengths

if TYPE_CHECKING:
    from rich.console import Console

    from farspan.evals import ScaleSweep


def scales(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A local folder, a hub name, or 'reference'.")],
    recipe: Annotated[
        str, typer.Option(help="What the model was trained with, a file or levers; its factor is multiplied.")
    ] = "",
    multiples: Annotated[str, typer.Option(help="Scales to try, as multiples of the trained one.")] = "1,1.25,1.5,2",
    lengths: Annotated[
        str, typer.Option(help="Total tokens a prompt, such as 1k,2k; half to twice the trained window if left out.")
    ] = "",
    task: Annotated[str, typer.Option(help="The task that judges, as of farspan eval.")] = "single_lines",
    n: Annotated[int, typer.Option("--n", min=1, help="Questions a length.")] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for recipe.yaml, the best one, and scales.csv.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the checkpoint carries.")
    ] = False,
) -> None:
    """Try scales above the trained one: often the model reads farther with them, and nothing is trained.

    Each scale is judged by the area under its accuracy over the lengths; accuracy at the shortest length says what it
    costs there. All scales see the same samples.

    Example:

        farspan rope scales DIR --recipe runs/tuned/recipe.yaml --lengths 512,1k,2k,4k --out runs/scales
        farspan rope scales DIR-4k --multiples 1,1.5,2
    """
    tried = _numbers(multiples)
    grid = parse_lengths(lengths) if lengths else []
    from rich.console import Console

    from farspan.evals import sweep_scales
    from farspan.models import load
    from farspan.recipe import Recipe

    trained = Recipe.read(recipe) if recipe else Recipe()
    folder = None if out is None else output_folder(out)
    status = Console(stderr=True)
    with status.status(f"loading {model}"):
        loaded, tokenizer = load(model, trust_remote_code=trust_remote_code)
    with status.status("trying the first scale") as shown:
        found = sweep_scales(
            loaded,
            tokenizer,
            trained,
            multiples=tried,
            lengths=grid,
            task=task,
            n=n,
            seed=seed,
            progress=lambda done, whole: shown.update(f"{done} of {whole} scales tried"),
        )
    console = Console(highlight=False)
    _print(console, found)
    if folder is not None:
        best = Recipe.parse(found.best.recipe) if found.best.recipe else Recipe()
        console.print(f"written: {best.to_yaml(folder / 'recipe.yaml')}", soft_wrap=True)
        console.print(f"written: {_write(found, folder / 'scales.csv')}", soft_wrap=True)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ArgumentError(f"'{text}' is not a list of multiples; write them as in 1,1.5,2") from error


def _print(console: Console, found: ScaleSweep) -> None:
    from rich import box
    from rich.table import Table

    from farspan.report import units

    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("scale", "window, tokens", *(f"at {units.length(length)}" for length in found.lengths), "area"):
        table.add_column(heading, justify="right")
    for result in found.results:
        scores = [f"{score:.2f}" for score in result.accuracy]
        table.add_row(f"{result.multiple:g}", str(result.window), *scores, f"{result.area:.3f}")
    console.print(table)
    best = found.best
    console.print(
        f"accuracy on {found.task} (n = {min(best.n)} a length); best: {best.multiple:g} times the trained scale, "
        f"{found.cost_at_short(best):+.2f} accuracy lost at {found.lengths[0]} tokens",
        soft_wrap=True,
    )


def _write(found: ScaleSweep, path: Path) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["multiple", "recipe", "window", "length", "n", "accuracy", "area"])
        for result in found.results:
            for length, count, score in zip(found.lengths, result.n, result.accuracy, strict=True):
                writer.writerow([result.multiple, result.recipe, result.window, length, count, score, result.area])
    return path
