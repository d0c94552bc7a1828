"""Document benchmarks under `farspan eval`: a model here or behind an address, tables on the screen and in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from farspan.cli.arguments import ArgumentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from farspan.evals.documents import Dataset, DocumentBenchmark
    from farspan.evals.documents.asking import Voice
    from farspan.evals.documents.judging import Judge
    from farspan.evals.documents.run import DocumentRun
    from farspan.evals.endpoint import EndpointSettings


@dataclass(frozen=True)
class DocumentsAsked:
    """What was typed."""

    tasks: tuple[str, ...]
    model: str
    recipe: str
    endpoint: EndpointSettings | None
    tokenizer: str
    trust_remote_code: bool
    official: bool
    data_dir: str
    window: int | None
    truncate: bool
    template: Literal["auto", "on", "off"]
    prompts: str
    runs: int | None
    limit: int | None
    thinking_tokens: int
    options: Mapping[str, object] = field(default_factory=dict)
    judge: Judge | None = None
    against: str = ""


@dataclass(frozen=True)
class _Model:
    voice: Voice | None
    tokenizer: PreTrainedTokenizerBase | None
    window: int | None


def eval_documents(asked: DocumentsAsked, folder: Path | None) -> None:
    """Run every benchmark named, show its tables, and keep predictions and tables where a folder is given."""
    from rich.console import Console
    from rich.progress import Progress

    from farspan.cli.document_output import show
    from farspan.evals.documents import benchmark
    from farspan.evals.documents.asking import Fitter, PromptFile
    from farspan.evals.documents.baselines import PREFIX, BaselineVoice
    from farspan.evals.documents.compare import compared, kept_run
    from farspan.evals.documents.run import run_documents

    chosen = []
    for name, sets in _by_benchmark(asked.tasks).items():
        made = benchmark(name, **asked.options)
        chosen.append((made, made.chosen(sets)))
    if asked.judge is not None:
        _check_judge(chosen)
    prompts = PromptFile(asked.prompts) if asked.prompts else None
    with _model(asked) as model:
        for made, datasets in chosen:
            fitter = Fitter(
                made,
                "official" if asked.official else "fixed",
                model.tokenizer,
                model.window,
                asked.truncate,
                prompts,
                asked.template,
            )
            place = None if folder is None else folder / made.name
            voice = model.voice or BaselineVoice(asked.model.removeprefix(PREFIX), made, asked.data_dir or None)
            before = None
            if asked.against:
                # a folder that holds no such run is told before anything is asked
                before = kept_run(
                    made, fitter.reading, datasets, asked.against, data_dir=asked.data_dir or None, limit=asked.limit
                )
            with Progress(console=Console(stderr=True), transient=True) as bar:
                lines = {dataset.name: bar.add_task(dataset.name, total=asked.limit) for dataset in datasets}
                found = run_documents(
                    fitter,
                    voice,
                    datasets,
                    data_dir=asked.data_dir or None,
                    limit=asked.limit,
                    runs=asked.runs,
                    out=place,
                    label=asked.model,
                    progress=lambda name, done, lines=lines, bar=bar: bar.update(lines[name], completed=done),  # type: ignore[misc]
                )
            if asked.judge is not None and any(map(made.judges, datasets)):
                if place is not None:
                    # a judge that cannot be reached must not cost what is there already
                    found.save(place / "scores.json")
                found = judged(found, asked.judge, None if place is None else place / "judgements.jsonl")
            show(found, title=asked.model)
            if before is not None:
                typer.echo(f"compared with {asked.against}, answer by answer, in percent:")
                for difference in compared(found.scored, before.scored):
                    typer.echo(f"  {difference}")
            if place is not None:
                found.save(place / "scores.json")
                typer.echo(f"wrote {place}")


def _by_benchmark(tasks: Sequence[str]) -> dict[str, list[str]]:
    """Sets by benchmark, so that each has one run and one table; a benchmark named alone means its usual sets."""
    found: dict[str, list[str]] = {}
    whole = {task for task in tasks if ":" not in task}
    for task in tasks:
        name, _, sets = task.partition(":")
        found.setdefault(name, []).extend([] if name in whole else [part for part in sets.split(",") if part])
    return found


def judged(found: DocumentRun, judge: Judge, keep: Path | None) -> DocumentRun:
    """A run with a judge's verdicts, told on the error stream as they come."""
    from rich.console import Console
    from rich.progress import Progress

    from farspan.evals.documents.judging import judged_run

    with Progress(console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task("judge", total=None)
        return judged_run(
            found, judge, keep=keep, progress=lambda done, total: bar.update(line, completed=done, total=total)
        )


def _check_judge(chosen: list[tuple[DocumentBenchmark, list[Dataset]]]) -> None:
    """Something of what is asked must be for the judge, and what it compares with must be there."""
    with_open = [(made, datasets) for made, datasets in chosen if any(map(made.judges, datasets))]
    for made, datasets in with_open or chosen:
        made.check_judge(datasets)


@contextmanager
def _model(asked: DocumentsAsked) -> Iterator[_Model]:
    from farspan.evals.documents.asking import LocalVoice, RemoteVoice, load_tokenizer
    from farspan.evals.documents.baselines import PREFIX

    if asked.model.startswith(PREFIX):
        if asked.recipe or asked.endpoint is not None:
            raise ArgumentError(f"{asked.model} asks no model; leave --recipe and --endpoint out")
        yield _Model(None, None, None)
        return
    if asked.endpoint is not None:
        if asked.recipe:
            raise ArgumentError("a recipe needs a local model; an address serves what it serves")
        if asked.window and not asked.tokenizer:
            raise ArgumentError("--window needs --tokenizer, which measures prompts for an address")
        yield _Model(
            RemoteVoice(asked.endpoint, thinking_tokens=asked.thinking_tokens),
            load_tokenizer(asked.tokenizer) if asked.tokenizer else None,
            asked.window,
        )
        return
    from farspan.engine import Engine
    from farspan.models import load
    from farspan.recipe import Recipe

    levers = Recipe.read(asked.recipe) if asked.recipe else Recipe()
    model, tokenizer = load(asked.model, trust_remote_code=asked.trust_remote_code)
    with levers(model), Engine(model, tokenizer, enforce_context_length=False) as engine:
        window = asked.window or int(getattr(model.config.get_text_config(), "max_position_embeddings", 0)) or None
        yield _Model(LocalVoice(engine, tokenizer, thinking_tokens=asked.thinking_tokens), tokenizer, window)
