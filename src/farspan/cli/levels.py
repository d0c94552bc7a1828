"""`farspan levels`: one's own questions at several lengths, as a file that `farspan eval own-levels` asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from farspan.cli.arguments import output_file, parse_lengths

if TYPE_CHECKING:
    from farspan.evals.schema import LongSample


def levels(
    questions: Annotated[
        Path,
        typer.Argument(
            help="JSON lines of question, answers and documents; keywords, confusing_facts and replacements if wanted."
        ),
    ],
    distractors: Annotated[
        Path, typer.Option(help="Documents that answer nothing: a folder of text files, or JSON lines of text.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write, best named levels.jsonl.")],
    levels: Annotated[str, typer.Option(metavar="LENGTHS", help="Lengths of the levels, such as 1k,2k,4k.")] = (
        "1k,2k,4k"
    ),
    count: Annotated[
        str, typer.Option(metavar="UNIT", help="What lengths count: words, chars, or a tokenizer's folder or name.")
    ] = "words",
    seed: Annotated[int, typer.Option(help="Equal seeds give equal bytes.")] = 0,
    language: Annotated[Literal["en", "zh"], typer.Option(help="Of the questions.")] = "en",
    confusing_facts: Annotated[
        bool, typer.Option(help="Put the questions' confusing facts into the documents.")
    ] = True,
    replace_keywords: Annotated[bool, typer.Option(help="Replace the questions' words everywhere.")] = True,
    positions: Annotated[
        int,
        typer.Option(
            min=0,
            help="Instead: each question's one document is a fact, put at so many places of a text of each level.",
        ),
    ] = 0,
) -> None:
    """Ask your own questions at several lengths: the same questions in ever longer mixtures of documents.

    Each level holds the documents of the shorter one. The two switches of facts and words, on and off, give the same
    questions four times, which tells what a model reads from what it knows. With --positions a single fact walks from
    the beginning of a text to its end.

    Example:

        farspan levels questions.jsonl --distractors texts --levels 4k,8k,16k --out mine/levels.jsonl
        farspan eval own-levels --model DIR --data-dir mine
    """
    from farspan.evals.schema import write_samples
    from farspan.evals.tasks.lv_build import build_leveled, build_walking
    from farspan.evals.tasks.lv_read import counter_of, read_questions, read_texts

    file = output_file(out)
    asked, texts, counter = read_questions(questions), read_texts(distractors), counter_of(count)
    grid = {_name(length): length for length in parse_lengths(levels)}
    samples: Iterator[LongSample]
    if positions:
        samples = build_walking(asked, texts, grid, positions=positions, count=counter, language=language)
    else:
        samples = build_leveled(
            asked,
            texts,
            grid,
            count=counter,
            seed=seed,
            confusing_facts=confusing_facts,
            replace_keywords=replace_keywords,
            language=language,
        )
    half = file.with_name(file.name + ".part")
    try:
        n = write_samples(half, samples)
        half.replace(file)
    finally:
        # questions that cannot be built leave no half of a file behind
        half.unlink(missing_ok=True)
    typer.echo(f"written: {file}, {n} questions at {', '.join(grid)} {count}")


def _name(length: int) -> str:
    return f"{length // 1024}k" if length % 1024 == 0 else str(length)
