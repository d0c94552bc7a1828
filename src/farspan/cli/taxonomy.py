"""`farspan taxonomy`: how much of its context each task needs, and how hard that is to find.

It reads arguments, prints a table and asks for the page; estimating belongs to the evals room, drawing to the report
room.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from farspan.cli.arguments import ArgumentError, output_folder, parse_length

if TYPE_CHECKING:
    from rich.console import Console

    from farspan.evals.generate import TokenCounter
    from farspan.evals.taxonomy_places import TaskPlace
    from farspan.report.taxonomy import TaxonomyView


Units = Literal["auto", "line", "sentence", "word", "pair", "paragraph", "document"]


def taxonomy(
    tasks: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TASK|FILE]...", help="family, family:task, or a jsonl file; every family without."),
    ] = None,
    length: Annotated[
        int, typer.Option(parser=parse_length, metavar="LENGTH", help="Total tokens of the samples, such as 16k.")
    ] = 16384,
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="Samples a task.")] = 5,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for taxonomy.html and tables/taxonomy.csv.")
    ] = None,
    scope: Annotated[
        str, typer.Option(help="witness: the smallest evidence; verification: all that must be read to be sure.")
    ] = "witness",
    units: Annotated[Units, typer.Option(help="What the units of a file are.")] = "auto",
    tokenizer: Annotated[
        str, typer.Option(metavar="NAME", help="Folder, hub name or tokenizer.json that lengths are measured with.")
    ] = "reference",
    seed: Annotated[int, typer.Option(help="Equal seeds give equal samples.")] = 0,
) -> None:
    """Show how much of its context each task needs, how hard that is to find, and where that differs from its claim.

    Tasks are placed by samples of their own; no model is asked. A file has a row a sample with context, question and
    answers, and evidence if it is known: a list of texts of the context that are all needed. Where it is not known it
    is guessed from the answers, and marked so.

    Example:

        farspan taxonomy --out runs/taxonomy
        farspan taxonomy ruler longbiobench:twodiff --length 32k -n 20
        farspan taxonomy questions.jsonl --units sentence
    """
    if scope not in ("witness", "verification"):
        raise ArgumentError(f"--scope is witness or verification, not '{scope}'")
    from rich.console import Console

    from farspan.evals.generate import TokenCounter
    from farspan.report.taxonomy import TaxonomyView, build_taxonomy_page

    folder = None if out is None else output_folder(out)
    console = Console(highlight=False)
    places, left_out = _places(list(tasks or []), TokenCounter(tokenizer), length, n, seed, units)
    view = TaxonomyView(places, "witness" if scope == "witness" else "verification")
    _print(console, view)
    for line in left_out:
        console.print(f"left out: {line}", soft_wrap=True)
    if folder is not None:
        console.print(f"written: {build_taxonomy_page(view, folder)}", soft_wrap=True)


def _places(
    names: list[str], counter: TokenCounter, length: int, n: int, seed: int, units: Units
) -> tuple[list[TaskPlace], list[str]]:
    """Places of all tasks asked for, and a line for each that has no sample of this length."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from farspan.evals.generate import LengthTargetError
    from farspan.evals.tasks.family import family_class
    from farspan.evals.taxonomy_places import named_tasks, place_file, place_task

    files = [name for name in names if name.endswith((".jsonl", ".json", ".parquet"))]
    places = [place for file in files for place in place_file(file, counter, units)]
    others = [name for name in names if name not in files]
    wanted = named_tasks(others) if others or not files else []
    made = {family: family_class(family)(counter) for family in dict.fromkeys(family for family, _ in wanted)}
    left_out = []
    columns = (TextColumn("placing"), BarColumn(), MofNCompleteColumn(), TextColumn("tasks"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for family, task in progress.track(wanted):
            try:
                places.append(place_task(made[family], task, length, n, seed))
            except LengthTargetError as error:
                if len(wanted) == 1:
                    raise
                left_out.append(f"{family}:{task}: {error}")
    if not places:
        raise ArgumentError("no task has samples of this length; raise --length")
    return places, left_out


def _print(console: Console, view: TaxonomyView) -> None:
    from rich.table import Table

    from farspan.report.taxonomy import cell_words

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("task", "scope", "to be sure", "dispersion", "n", "cell"):
        table.add_column(column, justify="left" if column in ("task", "cell") else "right", no_wrap=True)
    for place in view.places:
        shown = place.annotation.plane
        scope = view.spread(place).median
        table.add_row(
            place.name + (" (guessed)" if place.estimated else ""),
            f"{place.scope.median:.1%}" if shown else "",
            f"{place.verification.median:.1%}",
            f"{place.dispersion.median:.2f}" if shown else "",
            str(place.n),
            cell_words(scope, place.dispersion.median, short=True) if shown else "no evidence",
        )
    console.print(table)
    differing = [(place.name, place.differences()) for place in view.places if place.differences()]
    if differing:
        console.print(f"\nclaim and place differ for {len(differing)} of {len(view.places)} tasks:")
    for name, words in differing:
        console.print(f"  {name}: {'; '.join(words)}", soft_wrap=True)
