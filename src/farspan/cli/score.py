"""`farspan score`: scores of predictions that were made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farspan.cli.arguments import output_file, parse_knobs


def score(
    predictions: Annotated[Path, typer.Argument(help="A file, or a folder with one file a set.")],
    benchmark: Annotated[str, typer.Option(help="longbench, longbench-v2, l-eval, ...")],
    dataset: Annotated[str, typer.Option(help="The set of a file that is not named by it.")] = "",
    fixed: Annotated[
        bool, typer.Option("--fixed", help="Score as it should be, not as the published code does.")
    ] = False,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A switch of the benchmark; may be repeated.")
    ] = None,
    judge: Annotated[
        str,
        typer.Option(metavar="MODEL", help="Who reads open answers: provider/model, a folder, or NAME@http://HOST/v1."),
    ] = "",
    judge_key_env: Annotated[
        str, typer.Option(metavar="NAME", help="Variable that holds the key of the judge's address.")
    ] = "OPENAI_API_KEY",
    out: Annotated[Path | None, typer.Option(help="File for tables, counts and settings as JSON.")] = None,
) -> None:
    """Score predictions in the form that the benchmark's own repository writes.

    Scores are those of the published code, oddities included, unless --fixed is given. Answers that are empty, broken
    or of another script are counted beside them. With --judge a model reads the open answers too; its verdicts are kept
    beside --out, and replies that do not come or cannot be read are counted.

    Example:

        farspan score pred/llama2-7b-chat-4k --benchmark longbench
        farspan score pred/mine --benchmark l-eval --option baseline=turbo.jsonl --judge openai/gpt-4o
    """
    from farspan.cli.document_output import show
    from farspan.cli.eval_documents import judged
    from farspan.evals.documents import benchmark as benchmark_of
    from farspan.evals.documents.judging import judge_of
    from farspan.evals.documents.score import score_files

    made = benchmark_of(benchmark, **parse_knobs(option or []))
    reader = judge_of(judge, key_env=judge_key_env) if judge else None
    found = score_files(made, predictions, "fixed" if fixed else "official", dataset=dataset)
    if reader is not None:
        keep = None if out is None else output_file(out).with_suffix(".judgements.jsonl")
        found = judged(found, reader, keep)
    show(found, title=str(predictions))
    if out is not None:
        found.save(output_file(out))
        typer.echo(f"wrote {out}")
