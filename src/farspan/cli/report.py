"""`farspan report`: make the page and tables of runs again from what they left, without measuring anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farspan.cli.arguments import ArgumentError


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folder of a `farspan tune` run, or of one or more of `farspan eval`."),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write here instead of into the (first) run's folder.")
    ] = None,
) -> None:
    """Make a report again: report.html, and the numbers of every figure as CSV in tables/.

    Nothing is measured; everything comes from what the runs left. Several evaluations come on one page, compared
    question by question where they asked the same ones.

    Example:

        farspan report runs/first
        farspan report runs/plain runs/yarn --out runs/compared
    """
    from farspan.report import EvaluationRun, RunRecord, build_evaluation_report, build_report, load_evaluation
    from farspan.report.evaluations import SCORES_NAME

    first = runs[0]
    folder = out if out is not None else first if first.is_dir() else first.parent
    evaluations = [run.name == SCORES_NAME or (run / SCORES_NAME).is_file() for run in runs]
    if not any(evaluations) and len(runs) == 1:
        typer.echo(build_report(RunRecord.load(first), folder))
        return
    if not all(evaluations):
        odd = runs[evaluations.index(False)]
        raise ArgumentError(f"{odd} is no folder of `farspan eval --out`; only evaluations are shown together")
    labels = _labels(runs)
    shown = [EvaluationRun(label, load_evaluation(run)) for label, run in zip(labels, runs, strict=True)]
    typer.echo(build_evaluation_report(shown, folder))


def _labels(runs: list[Path]) -> list[str]:
    """Names of the runs' folders, with as much of the path as tells them apart."""
    folders = [(run if run.is_dir() else run.parent).resolve() for run in runs]
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    raise ArgumentError("the same run is given twice")
