"""`farspan eval`: how far a model reads, on one or more tasks."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer

from farspan.cli.arguments import ArgumentError, output_folder, parse_knobs, parse_length, parse_lengths, parse_price

FAST_QUESTIONS = 12


def eval_(
    tasks: Annotated[
        list[str],
        typer.Argument(
            help="core, fast, all; a probe such as single_lines; a family, family:task or family:all; a document "
            "benchmark or sets of it, longbench:qasper,lcc."
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="A folder, a hub name, or reference; with --endpoint its name there. Document benchmarks also take "
            "baseline:lead-400, baseline:last-400 and baseline:next-reference, which ask no model."
        ),
    ] = "reference",
    recipe: Annotated[str, typer.Option(help="A recipe file, or levers such as yarn:factor=4.")] = "",
    lengths: Annotated[str, typer.Option(help="Total tokens a prompt, such as 1k,2k.")] = "256,512,1k,2k",
    n: Annotated[int, typer.Option("--n", min=1, help="Questions a task and length.")] = 40,
    threshold: Annotated[float, typer.Option(min=0.0, max=1.0, help="Score an effective length must keep.")] = 0.75,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    knob: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A knob of the families named; may be repeated.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="Questions in all (of each set of a document benchmark); without it, the rest is asked."
        ),
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="At most three of the lengths, 12 questions each.")] = False,
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="Ask where the score falls; --lengths is the coarse grid.")
    ] = False,
    token_budget: Annotated[
        str, typer.Option(metavar="TOKENS", help="Prompt tokens an adaptive search may take, such as 2m.")
    ] = "",
    prefix_mode: Annotated[
        Literal["auto", "continue", "user_tail", "none"], typer.Option(help="How the start of an answer is given.")
    ] = "auto",
    thinking_tokens: Annotated[int, typer.Option(min=0, help="Tokens a reply may spend on reasoning.")] = 0,
    endpoint: Annotated[str, typer.Option(metavar="URL", help="An OpenAI-compatible address, up to /v1.")] = "",
    key_env: Annotated[str, typer.Option(metavar="NAME", help="Variable that holds the address's key.")] = (
        "OPENAI_API_KEY"
    ),
    completions: Annotated[bool, typer.Option("--completions", help="The address continues plain text.")] = False,
    continues: Annotated[
        bool, typer.Option("--continues", help="The address goes on with a started message, as vLLM does.")
    ] = False,
    connections: Annotated[int, typer.Option(min=1, help="Questions asked at the address at a time.")] = 8,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one reply of the address.")] = 600.0,
    tokenizer: Annotated[str, typer.Option(help="What lengths are counted with for an address.")] = "",
    price: Annotated[str, typer.Option(metavar="IN,OUT", help="Price of a million tokens, for the forecast.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what it would cost and end.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for answers, scores, Inspect logs and report; goes on where it ended.")
    ] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that the checkpoint carries.")] = False,
    official: Annotated[
        bool, typer.Option("--official", help="Document benchmarks: as the published code does, oddities included.")
    ] = False,
    data_dir: Annotated[str, typer.Option(help="Document benchmarks: folder with their files.")] = "",
    window: Annotated[
        str, typer.Option(help="Document benchmarks: tokens of prompt and answer; the model's own if left out.")
    ] = "",
    truncate: Annotated[bool, typer.Option(help="Document benchmarks: cut what is too long, or leave it out.")] = True,
    template: Annotated[
        Literal["auto", "on", "off"], typer.Option(help="Document benchmarks: where the chat template is used.")
    ] = "auto",
    prompts: Annotated[str, typer.Option(help="Document benchmarks: a file with prompts of your own.")] = "",
    runs: Annotated[int, typer.Option(min=0, help="Document benchmarks: answers a question.")] = 0,
    against: Annotated[
        str, typer.Option(metavar="FOLDER", help="Document benchmarks: an earlier run to compare with.")
    ] = "",
    judge: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="Document benchmarks: who reads open answers: provider/model, a folder, or NAME@http://HOST/v1.",
        ),
    ] = "",
    judge_key_env: Annotated[
        str, typer.Option(metavar="NAME", help="Variable that holds the key of the judge's address.")
    ] = "OPENAI_API_KEY",
) -> None:
    """Measure how far a model reads, with a recipe on or without; local, or behind an OpenAI-compatible address.

    With --out every answer is kept as soon as it is there, and the same command goes on where an earlier one ended.
    Runs whose scores mean nothing, such as those whose prompts were cut, are not reported but refused with the reason.

    Example:

        farspan eval core --model reference --recipe yarn:factor=4 --lengths 512,1k,2k
        farspan eval longbench:hotpotqa l-eval:closed --model DIR --data-dir DATA --official --limit 50
        farspan eval loogle:longdep_qa --model DIR --data-dir DATA --judge JUDGE@http://localhost:8000/v1 --out runs/b
        farspan eval ruler longbiobench --endpoint http://localhost:8000/v1 --model NAME --lengths 4k,32k --out runs/a
    """
    from pydantic import SecretStr, ValidationError
    from rich.console import Console
    from rich.progress import Progress

    from farspan.cli.eval_output import show, tell, write
    from farspan.evals.endpoint import EndpointSettings
    from farspan.evals.journal import JOURNAL_NAME, Journal
    from farspan.evals.session import Session
    from farspan.evals.tasks import DOCUMENTS

    documents = [task for task in tasks if task.partition(":")[0].replace("-", "_") in DOCUMENTS]
    if documents and len(documents) < len(tasks):
        raise ArgumentError("document benchmarks and generated tasks are run apart; name one kind of them at a time")
    grid = parse_lengths(lengths)
    if fast:
        grid, n = sorted({grid[0], grid[len(grid) // 2], grid[-1]}), min(n, FAST_QUESTIONS)
    where = None
    if endpoint:
        try:
            where = EndpointSettings(
                url=endpoint,
                model=model,
                key=SecretStr(os.environ.get(key_env, "")),
                api="completions" if completions else "chat",
                continues=continues,
                connections=connections,
                timeout=timeout,
            )
        except ValidationError as error:
            raise ArgumentError(f"--endpoint: {error.errors()[0]['msg']}") from error
    if documents:
        from farspan.cli.eval_documents import DocumentsAsked, eval_documents
        from farspan.evals.documents.judging import judge_of

        asked = DocumentsAsked(
            tasks=tuple(documents),
            model=model,
            recipe=recipe,
            endpoint=where,
            tokenizer=tokenizer,
            trust_remote_code=trust_remote_code,
            official=official,
            data_dir=data_dir,
            window=parse_length(window) if window else None,
            truncate=truncate,
            template=template,
            prompts=prompts,
            runs=runs or None,
            limit=limit,
            thinking_tokens=thinking_tokens,
            options=parse_knobs(knob or []),
            judge=judge_of(judge, key_env=judge_key_env) if judge else None,
            against=against,
        )
        eval_documents(asked, output_folder(out) if out is not None else None)
        return
    if against:
        raise ArgumentError("--against compares document benchmarks; of generated tasks farspan report compares runs")
    if judge:
        raise ArgumentError("--judge reads answers of document benchmarks; generated tasks are scored by rules")
    session = Session(
        tasks=tuple(tasks),
        lengths=tuple(grid),
        n=n,
        seed=seed,
        threshold=threshold,
        knobs=parse_knobs(knob or []),
        limit=limit,
        adaptive=adaptive,
        token_budget=parse_length(token_budget) if token_budget else None,
        prefix_mode=None if prefix_mode == "auto" else prefix_mode,
        thinking_tokens=thinking_tokens,
        model=model,
        recipe=recipe,
        endpoint=where,
        tokenizer=tokenizer,
        trust_remote_code=trust_remote_code,
    )
    session.check()
    folder = output_folder(out) if out is not None else None
    errors = Console(stderr=True, highlight=False)
    with ExitStack() as stack:
        run = stack.enter_context(session.started())
        tell(errors, run.forecast(parse_price(price) if price else None), always=dry_run)
        if dry_run:
            return
        journal = Journal(folder / JOURNAL_NAME, session.identity()) if folder is not None else None
        if journal is not None and len(journal):
            errors.print(f"going on with {folder}, which has {len(journal):,} answers")
        bar = stack.enter_context(Progress(console=errors, transient=True))
        task = bar.add_task("questions")
        found = run.evaluate(journal, lambda done, total: bar.update(task, completed=done, total=total))
    if folder is not None:
        (folder / "scores.json").write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")
    show(found)
    if folder is not None:
        write(found, folder)
        typer.echo(f"wrote {folder}")
