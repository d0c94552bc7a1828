"""`farspan profile attention` and `farspan profile mixers`: ways to mix tokens side by side, one table each.

They read arguments and print tables; loading, levers, measuring and scoring belong to their rooms.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farspan.cli.arguments import ArgumentError, output_folder, parse_lengths
from farspan.cli.profile_output import Passes, print_attention, print_mixers, print_models, write
from farspan.errors import FarspanError
from farspan.recipe import Lever, Recipe, lever_class, lever_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from farspan.attention import AttentionLever
    from farspan.profiling import AttentionCost, Problem, Profile

DENSE = "dense"
# a comma before a name and not before a setting
_NEXT = re.compile(r",(?=\s*[a-z][\w.-]*\s*(?:[:,]|$))")

Methods = Annotated[
    list[str],
    typer.Option(
        metavar="LEVER,...", help="Levers, with or without settings; may be repeated. 'all' takes what needs nothing."
    ),
]


def attention(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A local folder, a hub name or 'reference'.")
    ] = None,
    methods: Methods = ["all"],  # noqa: B006, typer reads it and nobody writes to it
    recipe: Annotated[
        str, typer.Option(metavar="RECIPE", help="Position levers that are on, such as yarn:factor=4.")
    ] = "",
    lengths: Annotated[str, typer.Option(metavar="LENGTHS", help="Tokens read.")] = "512,1k,2k",
    shape: Annotated[
        str, typer.Option(metavar="HEADS,KV,DIM", help="Of made attention, where no model is given.")
    ] = "8,8,64",
    layers: Annotated[
        int, typer.Option(min=1, help="Layers of the model to compare on, taken evenly over its depth.")
    ] = 4,
    whole: Annotated[bool, typer.Option(help="Also time and weigh the whole model with each method.")] = True,
    task: Annotated[
        list[str] | None, typer.Option(metavar="TASK", help="Also score the model with each method; may be repeated.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Questions a task and length.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs a method.")] = 3,
    backend: Annotated[str, typer.Option(help="Executor of all methods; auto chooses as a lever does.")] = "auto",
    memory: Annotated[bool, typer.Option(help="Measure memory, in passes of their own.")] = True,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of made attention and of questions.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for attention.json and .csv, model.json and .csv.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the checkpoint carries.")
    ] = False,
) -> None:
    """Compare methods of attention: what each reads and misses, how long it takes, and how much memory.

    With a model, it is the model's attention while it reads text; without one, made attention of a given shape. All
    methods are compared with the same dense attention, whose kernel is named. Levers that drop tokens from the cache
    choose nothing in a single layer and are measured on the whole model alone.

    Example:

        farspan profile attention reference --methods pbs,xattention:threshold=0.8 --lengths 2k --recipe yarn:factor=4
        farspan profile attention reference --methods dense,pbs,snapkv --lengths 512 --task single_lines -n 32
        farspan profile attention --shape 32,8,128 --device cuda --dtype bfloat16 --lengths 16k,64k
    """
    from rich.console import Console

    from farspan.attention.executors import EXECUTORS
    from farspan.profiling.attention import rows_csv, rows_json, why_not

    wanted, console = parse_lengths(lengths), Console(highlight=False)
    if backend not in (known := ["auto", *EXECUTORS]):
        raise ArgumentError(f"unknown executor '{backend}'; known: {', '.join(known)}")
    levers, left_out = _levers(methods)
    alone: dict[str, AttentionLever] = {}
    for name, lever in levers.items():
        if (reason := why_not(lever)) is None:
            alone[name] = lever  # type: ignore[assignment]
        elif model is None or not whole:
            left_out[name] = reason
    stretch = Recipe.read(recipe) if recipe else Recipe()
    if any(getattr(lever, "slot", "") != "positions" for lever in stretch):
        raise ArgumentError("--recipe takes position levers; name the others with --methods")
    if model is None and (task or recipe):
        raise ArgumentError("--task and --recipe need a MODEL; made attention has neither questions nor positions")
    folder = None if out is None else output_folder(out)
    costs: list[AttentionCost] = []
    profiles: list[Profile] = []
    scores: dict[tuple[str, int], dict[str, float]] = {}
    each = int(whole) + int(bool(task)) if model is not None else 0
    total = len(wanted) * int(model is None or bool(alone)) + each * (1 + len(levers))
    with Passes("comparing") as passes:
        step = partial(passes.step, total)
        if model is None:
            problems = _made(wanted, shape, dtype, device, seed)
            costs = _compared(problems, alone, rounds, memory, backend, step)
        else:
            from farspan.models import load

            loaded, tokenizer = load(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
            with stretch(loaded):
                ids = _text(tokenizer)
                if alone:
                    problems = _read(loaded, ids, wanted, layers)
                    costs = _compared(problems, alone, rounds, memory, backend, step)
                for name in [DENSE, *levers] if each else []:
                    with Recipe([levers[name]] if name in levers else [])(loaded):
                        if whole:
                            profiles.append(_profile(loaded, ids, wanted, rounds, memory, model, name))
                            step()
                        if task:
                            scores |= _scores(loaded, tokenizer, task, wanted, n, seed, name)
                            step()
    for length in wanted:
        print_attention(console, [cost for cost in costs if cost.length == length])
        if profiles or scores:
            print_models(console, profiles, scores, length, [DENSE, *levers], n)
    for name, reason in left_out.items():
        console.print(f"left out: {name} {reason}", soft_wrap=True)
    if folder is not None:
        from farspan.profiling.profile import to_csv, to_json

        files = {"attention.json": rows_json(costs), "attention.csv": rows_csv(costs)} if costs else {}
        files |= {"model.json": to_json(profiles), "model.csv": to_csv(profiles)} if profiles else {}
        write(console, folder, files)


def mixers(
    mixers: Annotated[str, typer.Option(metavar="NAME,...", help="Mixers, or 'all'.")] = "all",
    lengths: Annotated[str, typer.Option(metavar="LENGTHS", help="Tokens of the sequence.")] = "512,1k,2k",
    hidden: Annotated[int, typer.Option(min=1, help="Channels of a token.")] = 256,
    heads: Annotated[int, typer.Option(min=1, help="Parts of the channels with matrices of their own.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs a mixer.")] = 3,
    memory: Annotated[bool, typer.Option(help="Measure memory, in a pass of its own.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of weights and tokens.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for mixers.json and mixers.csv; nothing without it.")
    ] = None,
) -> None:
    """Compare token mixers: operations and state as counted, seconds and memory as measured.

    Example:

        farspan profile mixers --lengths 1k,4k
        farspan profile mixers --mixers softmax_attention,lightning --lengths 4k,16k --hidden 512 --heads 8
    """
    from rich.console import Console

    from farspan.models.mixers import MIXERS
    from farspan.profiling import profile_mixers
    from farspan.profiling.attention import rows_csv, rows_json

    console = Console(highlight=False)
    kinds = list(MIXERS) if mixers == "all" else [part.strip() for part in mixers.split(",") if part.strip()]
    place = _place(device)
    folder = None if out is None else output_folder(out)
    with Passes("mixing") as passes:
        costs = profile_mixers(
            kinds,
            parse_lengths(lengths),
            hidden=hidden,
            heads=heads,
            rounds=rounds,
            memory=memory,
            device=str(place),
            seed=seed,
            progress=passes.at,
        )
    print_mixers(console, costs)
    if folder is not None:
        write(console, folder, {"mixers.json": rows_json(costs), "mixers.csv": rows_csv(costs)})


def _levers(typed: Sequence[str]) -> tuple[dict[str, Lever], dict[str, str]]:
    """Levers by the text that names them, and what 'all' leaves out, with why."""
    from farspan.profiling.attention import why_not

    found: dict[str, Lever] = {}
    left_out: dict[str, str] = {}
    for text in [part.strip() for whole in typed for part in _NEXT.split(whole)]:
        if text == DENSE:
            continue
        if text == "all":
            for name in lever_table():
                if lever_class(name).slot != "attention":
                    continue
                lever = lever_class(name)()
                if reason := why_not(lever):
                    left_out[name] = reason
                else:
                    found[name] = lever
            continue
        recipe = Recipe.parse(text)
        named = recipe.levers[0] if len(recipe) == 1 else None
        if not isinstance(named, Lever) or named.slot not in ("attention", "cache"):
            raise ArgumentError(f"--methods takes levers of attention and of the cache, not '{text}'")
        found[str(named)] = named
    return {
        name: lever.model_copy(update={"min_length": 0}) if hasattr(lever, "min_length") else lever
        for name, lever in found.items()
    }, left_out


def _compared(
    problems: Iterator[Problem],
    methods: dict[str, AttentionLever],
    rounds: int,
    memory: bool,
    backend: str,
    step: Callable[[], None],
) -> list[AttentionCost]:
    from farspan.profiling import profile_attention

    costs = []
    for problem in problems:
        costs += profile_attention(methods, problem, rounds=rounds, memory=memory, backend=backend)
        step()
    return costs


def _made(lengths: Sequence[int], shape: str, dtype: str, device: str, seed: int) -> Iterator[Problem]:
    import torch

    from farspan.profiling import made_up

    try:
        heads, kv_heads, dim = (int(part) for part in shape.split(","))
        if min(heads, kv_heads, dim) < 1 or heads % kv_heads:
            raise ValueError
    except ValueError:
        raise ArgumentError(
            f"--shape {shape} is not HEADS,KV,DIM with heads a multiple of KV; write 32,8,128"
        ) from None
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in ("auto", *types):
        raise ArgumentError(f"--dtype {dtype}: write auto, {', '.join(types)}")
    place = _place(device)
    kind = types.get(dtype, torch.bfloat16 if place.type == "cuda" else torch.float32)
    return (made_up(length, heads, kv_heads, dim, place, kind, seed) for length in lengths)


def _place(device: str) -> torch.device:
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise ArgumentError(f"--device {device}: write auto, cpu or cuda")
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise FarspanError("--device cuda: torch finds no GPU here")
    return torch.device("cuda" if found and device != "cpu" else "cpu")


def _read(model: PreTrainedModel, ids: Sequence[int], lengths: Sequence[int], layers: int) -> Iterator[Problem]:
    from farspan.profiling import read_by
    from farspan.profiling.layers import text_ids

    depth = int(model.config.get_text_config(decoder=True).num_hidden_layers)
    chosen = frozenset(round(index * (depth - 1) / max(1, layers - 1)) for index in range(min(layers, depth)))
    return (read_by(model, text_ids(ids, length).to(model.device), chosen) for length in lengths)


def _text(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of text that every Python installation carries and that no model of ours was trained on."""
    from farspan.training.data.text import TextFiles

    return [token for file in TextFiles(tokenizer, split="held_out").token_ids() for token in file]


def _profile(
    model: PreTrainedModel,
    ids: Sequence[int],
    lengths: Sequence[int],
    rounds: int,
    memory: bool,
    name: str,
    method: str,
) -> Profile:
    from farspan.profiling import run_profile

    return run_profile(model, lengths, new_tokens=8, repeats=rounds, memory=memory, text=ids, name=name, recipe=method)


def _scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    lengths: Sequence[int],
    n: int,
    seed: int,
    method: str,
) -> dict[tuple[str, int], dict[str, float]]:
    import farspan

    found = farspan.evaluate(model, tokenizer, list(tasks), list(lengths), n=n, seed=seed)
    scores: dict[tuple[str, int], dict[str, float]] = {(method, length): {} for length in lengths}
    for task in found.tasks:
        for point in task.by_length():
            scores[method, point.length][task.name] = point.mean
    return scores
