"""`farspan train`: train a model from one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farspan.cli.arguments import output_folder


def train(
    config: Annotated[Path, typer.Argument(help="The training file.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, log and the final model.")] = Path("runs/train"),
) -> None:
    """Train a model from one YAML file; a run that was killed goes on from its last checkpoint.

    Example:

        farspan train train.yaml --out runs/reference
    """
    from rich.console import Console

    from farspan.training import TrainConfig
    from farspan.training import train as run

    settings = TrainConfig.from_yaml(config)
    final = run(settings, output_folder(out), Console(stderr=True))
    typer.echo(f"wrote {final}")
