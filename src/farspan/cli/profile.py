"""`farspan profile`: what reading and writing costs a model, on the screen and as files.

It reads arguments and prints a table; loading, levers and measuring belong to their rooms.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from farspan.cli.arguments import output_folder, parse_lengths
from farspan.cli.profile_methods import attention, mixers
from farspan.cli.profile_output import Passes
from farspan.cli.verbs import DefaultVerb

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from transformers import PreTrainedModel

    from farspan.profiling import Profile, ProfilePoint, Spread


class ModelFirst(DefaultVerb):
    """`farspan profile MODEL` is `farspan profile model MODEL`."""

    default: ClassVar[str] = "model"


profile = typer.Typer(
    cls=ModelFirst,
    add_completion=False,
    rich_markup_mode="rich",
    no_args_is_help=True,
    help="""Measure time to first token, time per token and memory; compare methods of attention, and token mixers.

Example:

    farspan profile reference --lengths 512,1k,2k --repeats 3
    farspan profile attention reference --methods pbs,xattention --lengths 2k
    farspan profile mixers --lengths 1k,4k
""",
)
profile.command()(attention)
profile.command()(mixers)


class Logits(StrEnum):
    """Which prompt positions go through the head."""

    last = "last"
    all = "all"


@profile.command()
def model(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Local folders, hub names, or 'reference'.")],
    recipe: Annotated[
        str | None, typer.Option(metavar="RECIPE", help="Levers to switch on: a YAML file or the string form.")
    ] = None,
    lengths: Annotated[str, typer.Option(metavar="LENGTHS", help="Prompt lengths in tokens.")] = "512,1k,2k,4k",
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens to generate after each prompt.")] = 16,
    batch: Annotated[int, typer.Option(min=1, help="Prompts read at once.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Timed generations a length.")] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="Generations a length before timing.")] = 1,
    logits: Annotated[
        Logits, typer.Option(help="last: what generation needs; all: logits of every prompt position.")
    ] = Logits.last,
    memory: Annotated[bool, typer.Option(help="Measure memory, in a pass of its own.")] = True,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    attn: Annotated[str | None, typer.Option(help="Attention implementation, such as sdpa or eager.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random prompts.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for profile.json and profile.csv; nothing without it.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the checkpoint carries.")
    ] = False,
) -> None:
    """Measure time to first token, time per token and memory over context lengths; the verb may be left out.

    Each cell is a median with its 5th to 95th percentile over n generations. Timing and measuring memory are separate
    passes; a length that does not fit into memory is marked and the others go on. With a lever for attention in the
    recipe it also says what share of attention was read, and where it stayed dense and why.

    Example:

        farspan profile reference --lengths 512,1k,2k --repeats 3
        farspan profile DIR --recipe pbs:threshold=0.9 --lengths 8k,16k --out runs/cost
    """
    from rich.console import Console

    from farspan.recipe import Recipe

    wanted = parse_lengths(lengths)
    levers = Recipe.read(recipe) if recipe else Recipe()
    folder = None if out is None else output_folder(out)
    from farspan.models import load, model_path
    from farspan.profiling import run_profile
    from farspan.profiling.profile import to_csv, to_json

    console = Console(highlight=False)
    for name in models:
        model_path(name)
    profiles = []
    for name in models:
        with Passes(f"profiling {name}") as progress:
            loaded, _ = load(
                name, dtype=dtype, device=device, attn_implementation=attn, trust_remote_code=trust_remote_code
            )
            with levers(loaded):
                measured = run_profile(
                    loaded,
                    wanted,
                    new_tokens=new_tokens,
                    batch_size=batch,
                    repeats=repeats,
                    warmup=warmup,
                    memory=memory,
                    logits=logits.value,
                    seed=seed,
                    name=name,
                    recipe=str(levers),
                    progress=progress.at,
                )
                read = (
                    _attention(loaded)
                    if any(getattr(lever, "slot", "") == "attention" for lever in levers.levers)
                    else []
                )
        profiles.append(measured)
        _print(console, measured)
        for line in read:
            console.print(line, soft_wrap=True)
        if folder is not None:
            # After every model, so that one that fails later costs nothing that was measured.
            (folder / "profile.json").write_text(to_json(profiles), encoding="utf-8")
            (folder / "profile.csv").write_text(to_csv(profiles), encoding="utf-8")
    if folder is not None:
        console.print(f"written: {folder / 'profile.json'}, {folder / 'profile.csv'}", soft_wrap=True)


def _print(console: Console, profile: Profile) -> None:
    from farspan.report import units

    levers = f", recipe {profile.recipe}" if profile.recipe else ""
    console.print(
        f"[bold]{profile.model}[/bold]: {profile.architecture}, {units.parameters(profile.parameters)} weights, "
        f"{profile.dtype}, {profile.attention} on {profile.device} ({profile.threads} threads){levers}",
        soft_wrap=True,
    )
    console.print(_table(profile))
    for what, cliffs in (("time to first token", profile.ttft_cliffs()), ("time per token", profile.tpot_cliffs())):
        for cliff in cliffs:
            console.print(
                f"cliff: {what} grows {units.ratio(cliff.growth)} between {units.count(cliff.start)} and "
                f"{units.count(cliff.stop)} tokens, at most {units.ratio(cliff.expected)} was to be expected",
                soft_wrap=True,
            )
    for point in profile.points:
        if point.note:
            console.print(f"{units.count(point.length)} tokens: {point.status}: {point.note}", soft_wrap=True)


def _attention(model: PreTrainedModel) -> list[str]:
    from farspan.attention.report import attention_report, summary

    return summary(attention_report(model))


def _table(profile: Profile) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("tokens", "time to first token", "time per token", "memory", "KV", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    for point in profile.points:
        table.add_row(*_cells(point))
    return table


def _cells(point: ProfilePoint) -> list[str]:
    from farspan.report import units

    memory = point.memory
    return [
        units.count(point.length),
        point.status if point.ttft is None else _spread(point.ttft),
        _spread(point.tpot),
        units.size(memory.allocated_peak if memory else None),
        units.size(memory.kv_cache if memory else None),
        str(point.ttft.n if point.ttft else 0),
    ]


def _spread(spread: Spread | None) -> str:
    from farspan.report import units

    if spread is None:
        return units.MISSING
    scale, unit = units.seconds_unit(spread.median)
    low, high = (units.significant(end / scale, 2) for end in (spread.p05, spread.p95))
    return f"{units.significant(spread.median / scale)} {unit} ({units.between(low, high)})"
