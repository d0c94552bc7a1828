"""`farspan probe`: how much context a model needs until it follows a graph it was never told of.

It reads arguments, prints a table and asks for the page; measuring belongs to the evals room, drawing to the report
room.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from farspan.cli.arguments import output_folder, parse_length


def probe(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A local folder, a hub name, or 'reference'.")],
    graph: Annotated[str, typer.Option(help="grid:4x4, hex:3x4 or ring:10.")] = "grid:4x4",
    context: Annotated[
        int, typer.Option(parser=parse_length, metavar="LENGTH", help="Steps, and so tokens, of a walk.")
    ] = 400,
    sequences: Annotated[int, typer.Option("-n", "--sequences", min=1, help="Walks.")] = 16,
    sampling: Annotated[Literal["walk", "pairs"], typer.Option(help="One long walk, or neighbouring pairs.")] = "walk",
    recipe: Annotated[
        str | None, typer.Option(metavar="RECIPE", help="Levers to switch on: a YAML file or the string form.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for probe.html, probe.json and tables/probe.csv.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of words and walks.")] = 0,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the checkpoint carries.")
    ] = False,
) -> None:
    """Measure how much context a model needs until it follows a hidden graph, and how its states come to lie.

    Words stand for nodes, a walk for the context. Beside the model stands what counting pairs of the context gives.
    With levers on, contexts may be longer than the native window.

    Example:

        farspan probe reference --graph ring:7 --context 400 --out runs/probe
    """
    from rich.console import Console
    from rich.table import Table

    from farspan.evals.graph_probe import GraphTracingProbe
    from farspan.evals.graphs import parse_graph
    from farspan.models import load
    from farspan.recipe import Recipe
    from farspan.report.probe import build_probe_page, summary, verdict

    nodes = parse_graph(graph)
    folder = None if out is None else output_folder(out)
    loaded, tokenizer = load(model, trust_remote_code=trust_remote_code)
    levers = Recipe.read(recipe) if recipe else Recipe()
    with levers(loaded):
        made = GraphTracingProbe(
            loaded, tokenizer, nodes, name=graph, sampling=sampling, seed=seed, beyond_window=bool(recipe)
        )
        report = made.run(context, sequences).model_copy(update={"model": model})
    console = Console(highlight=False)
    columns = ("context", "model", "counting pairs", "memory", "energy", "alignment")
    table = Table(*columns, title=f"{graph}, n = {sequences}")
    for row in summary(report):
        table.add_row(*row)
    console.print(table)
    if report.replaced:
        console.print(f"words that are not one token here were replaced: {', '.join(report.replaced)}", soft_wrap=True)
    console.print(f"{verdict(report)}.", soft_wrap=True)
    if folder is not None:
        console.print(f"written: {build_probe_page(report, folder)}", soft_wrap=True)
