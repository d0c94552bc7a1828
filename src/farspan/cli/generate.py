"""`farspan generate`: samples of a generated task, as jsonl.

It reads arguments and writes a file; building samples is done by the evals room.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farspan.cli.arguments import ArgumentError, output_file, parse_knobs

if TYPE_CHECKING:
    from farspan.evals.generate import SampleSpec, TokenCounter
    from farspan.evals.schema import LongSample


def generate(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="A family, or family:task, such as needle_threading:thread.")
    ],
    length: Annotated[
        str, typer.Option(metavar="LENGTHS", help="Total lengths, such as 4k,8k or '54k chars' or '25 units'.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The jsonl file to write.")],
    tokenizer: Annotated[
        str, typer.Option(metavar="NAME", help="Folder, hub name or tokenizer.json that lengths are measured with.")
    ] = "reference",
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="Samples a task and length.")] = 5,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal bytes.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes; the bytes do not depend on it.")] = 1,
    knob: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A knob of the family; may be repeated.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Leave room for the tokenizer's chat template.")] = False,
    lazy: Annotated[
        bool, typer.Option("--lazy", help="Write what contexts are made from, not the contexts themselves.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that holds other samples.")] = False,
) -> None:
    """Write samples of a generated task to a file.

    Every sample fits its length exactly as the tokenizer counts, room for the answer included. An interrupted file is
    gone on with where it ends.

    Example:

        farspan generate lines --length 1k,2k,4k -n 20 --out lines.jsonl
        farspan generate needle_threading:thread --length 1m --tokenizer DIR -n 5 --seed 0 --out x.jsonl --workers 2
    """
    from rich.console import Console

    from farspan.evals.generate import LengthTarget, SampleSpec, TokenCounter, UnknownTaskError, generator_class
    from farspan.evals.generate.generators import suggest

    file = output_file(out)
    family, _, subtask = task.partition(":")
    made_by = generator_class(family)
    if subtask and subtask not in made_by.tasks:
        raise UnknownTaskError(f"{family} has no task '{subtask}'; {suggest(subtask, made_by.tasks)}")
    targets = [LengthTarget.parse(part) for part in length.split(",")]
    counter = TokenCounter(tokenizer)
    room = counter.template_tokens(chat)
    specs = [
        SampleSpec(
            family=family,
            task=name,
            length=target.value if target.unit == "tokens" else target,
            index=index,
            seed=seed,
            knobs=parse_knobs(knob or []),
            tokenizer=tokenizer if lazy else "",
            template_tokens=room,
            chat=chat,
        )
        for target in targets
        for name in ([subtask] if subtask else made_by.tasks)
        for index in range(n)
    ]
    done = 0 if overwrite else _resume(file, specs, counter, lazy)
    count = _write(file, specs[done:], counter, workers, lazy, append=done > 0)
    earlier = f" ({done} of them were there)" if done else ""
    shown = ", ".join(f"{target.value:,} {target.unit}" for target in targets)
    Console(highlight=False).print(f"written: {file}, {done + count} samples{earlier} of {shown}", soft_wrap=True)


def _resume(file: Path, specs: list[SampleSpec], counter: TokenCounter, lazy: bool) -> int:
    """How many of the samples the file holds; a half-written last line is dropped.

    The last whole line is made again and compared: only the same command may go on with a file.
    """
    from farspan.evals.generate import build_many

    if not file.is_file():
        return 0
    lines = file.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    if not whole:
        return 0
    expected: LongSample | None = None
    if len(whole) <= len(specs):
        expected = next(build_many([specs[len(whole) - 1]], counter, lazy=lazy))
    if expected is None or (expected.model_dump_json() + "\n").encode() != whole[-1]:
        raise ArgumentError(f"{file} holds other samples; choose another file with --out, or pass --overwrite")
    if len(whole) < len(lines):
        with file.open("r+b") as stream:
            stream.truncate(sum(len(line) for line in whole))
    return len(whole)


def _write(
    file: Path, specs: list[SampleSpec], counter: TokenCounter, workers: int, lazy: bool, *, append: bool
) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from farspan.evals.generate import build_many
    from farspan.evals.schema import write_samples

    columns = (
        TextColumn("generating"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("samples"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=len(specs))

        def counted() -> Iterator[LongSample]:
            for sample in build_many(specs, counter, workers=workers, lazy=lazy):
                progress.advance(bar)
                yield sample

        return write_samples(file, counted(), append=append)
