"""`farspan train`: train a model from one YAML file, or say what a training step will take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farspan.cli.arguments import output_folder, parse_length
from farspan.cli.verbs import DefaultVerb

if TYPE_CHECKING:
    from rich.table import Table

    from farspan.training.memory_plan import MemoryPlan

GIB = 2**30

train = typer.Typer(
    cls=DefaultVerb,
    add_completion=False,
    rich_markup_mode="rich",
    no_args_is_help=True,
    help="""Train a model from one YAML file; plan what a training step will take.

Example:

    farspan train train.yaml --out runs/reference
    farspan train plan --model path/to/model --length 128k --gpus 1
""",
)


@train.command()
def run(
    config: Annotated[Path, typer.Argument(help="The training file.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, log and the final model.")] = Path("runs/train"),
) -> None:
    """Train a model from one YAML file; a run that was killed goes on from its last checkpoint.

    The verb may be left out. Under torchrun every process trains on its own share of each step.

    Example:

        farspan train train.yaml --out runs/reference
    """
    from rich.console import Console

    from farspan.training import TrainConfig
    from farspan.training import train as start

    settings = TrainConfig.from_yaml(config)
    final = start(settings, output_folder(out), Console(stderr=True))
    typer.echo(f"wrote {final}")


@train.command()
def plan(
    model: Annotated[str, typer.Option(metavar="MODEL", help="A local folder, a hub name, or 'reference'.")],
    length: Annotated[
        int, typer.Option(parser=parse_length, metavar="LENGTH", help="Tokens a row, such as 32k or 128k.")
    ],
    batch: Annotated[int, typer.Option(min=1, help="Rows a step, on each group of GPUs that share rows.")] = 1,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs that weights and states are sharded over.")] = 1,
    context_parallel: Annotated[int, typer.Option(min=1, help="GPUs that share a row.")] = 1,
    memory: Annotated[float, typer.Option(min=0.1, metavar="GIB", help="Memory of a GPU, GiB.")] = 80.0,
    teraflops: Annotated[
        float, typer.Option(min=0.001, help="What a GPU really computes in bf16, for the time of a step.")
    ] = 300.0,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the checkpoint carries.")
    ] = False,
) -> None:
    """Say what a training step at a length takes, and by which means it fits; no weights are read.

    Means add up from top to bottom. Activations are those the equations of a decoder need; without recomputing, real
    models keep 1.3 to 1.6 times as much.

    Example:

        farspan train plan --model reference --length 32k --memory 2
    """
    from rich.console import Console
    from transformers import AutoConfig

    from farspan.models import model_path
    from farspan.training.memory_plan import ModelShape, memory_plan

    config = AutoConfig.from_pretrained(model_path(model), trust_remote_code=trust_remote_code)
    planned = memory_plan(ModelShape.of(config), length, batch, gpus, context_parallel=context_parallel)
    console = Console()
    console.print(_items(planned))
    console.print(_ladder(planned, round(memory * GIB)))
    flops = planned.attention_flops_train + planned.dense_flops_train
    seconds = flops / (context_parallel * teraflops * 1e12)
    console.print(
        f"One step: {flops / 1e12:,.3g} TFLOP, {planned.attention_flops_train / flops:.0%} of them attention; "
        f"{seconds:,.3g} s where a GPU computes {teraflops:g} TFLOP/s, a third more where layers are recomputed."
    )
    rung = planned.first_that_fits(round(memory * GIB))
    if rung is None:
        console.print(f"Nothing here fits {memory:g} GiB: take more GPUs (--gpus), or let them share rows.")
    else:
        console.print(f"Fits {memory:g} GiB with: {rung.name}.")


def _items(planned: MemoryPlan) -> Table:
    from rich.table import Table

    table = Table("kept", "GiB", title=f"{planned.parameters:,} parameters, on one GPU")
    for name, size in (
        ("weights", planned.weights),
        ("gradients", planned.gradients),
        ("AdamW's states", planned.optimizer),
        ("activations, nothing recomputed", planned.activations_none),
        ("activations, all but attention recomputed", planned.activations_selective),
        ("activations, every layer recomputed", planned.activations_full_checkpoint),
        ("logits, all at once", planned.logits_full),
        ("logits, in chunks", planned.logits_chunked),
    ):
        table.add_row(name, f"{size / GIB:,.2f}")
    table.columns[1].justify = "right"
    return table


def _ladder(planned: MemoryPlan, limit: int) -> Table:
    from rich.table import Table

    table = Table("means, added up", "GiB at the peak", "fits", title="Ladder")
    for rung in planned.ladder():
        table.add_row(rung.name, f"{rung.bytes / GIB:,.2f}", "yes" if rung.bytes <= limit else "no")
    table.columns[1].justify = "right"
    return table
