"""`farspan squeeze`: read and cluster a fixed context once, so that many questions on it cost a part.

It reads arguments and says what was done; reading, clustering and answering is done by the rooms below.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farspan.cli.arguments import ArgumentError, output_folder

if TYPE_CHECKING:
    from farspan.attention import PrefixCache, Squeezed
    from farspan.recipe import Recipe

CONTEXT = "context"
RECIPE = "recipe.yaml"


def squeeze(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A local folder, a hub name, or 'reference'.")],
    context: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, metavar="FILE", help="The fixed text, in UTF-8.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the clustered context and its recipe.")],
    recipe: Annotated[str, typer.Option(help="Position levers to read it with, such as yarn:factor=8.")] = "",
    sparsity: Annotated[float, typer.Option(min=0.0, max=0.99, help="Share of the context to leave unread.")] = 0.9,
    cluster_ratio: Annotated[float, typer.Option(min=0.001, max=1.0, help="Clusters over tokens.")] = 0.05,
    hierarchical: Annotated[bool, typer.Option("--hierarchical", help="A coarse level above the clusters.")] = False,
    ask: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="A question; may be repeated.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of the clustering.")] = 0,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that the checkpoint carries.")] = False,
) -> None:
    """Read a fixed context once, cluster its keys, and save both beside a recipe that uses them.

    A folder that holds this context already is used as it is, so a second call with --ask only answers. Any command
    that takes a recipe takes DIR/recipe.yaml.

    Example:

        farspan squeeze reference --context manual.txt --out runs/manual --recipe truncated-basis:factor=8
        farspan squeeze reference --context manual.txt --out runs/manual --recipe truncated-basis:factor=8 \\
            --ask "How long is the warranty?"
    """
    from rich.console import Console
    from rich.progress import Progress

    from farspan.attention import Squeezed, build_prefix_cache, save_prefix
    from farspan.models import load
    from farspan.recipe import Recipe

    levers = Recipe.read(recipe) if recipe else Recipe()
    if any(getattr(lever, "slot", "") == "attention" for lever in levers):
        raise ArgumentError(
            "--recipe takes position levers, with which the context is read; leave attention levers out"
        )
    text = _read(context)
    folder = output_folder(out)
    loaded, tokenizer = load(model, trust_remote_code=trust_remote_code)
    ids = list(tokenizer(text)["input_ids"])
    lever = Squeezed(prefix=str(folder / CONTEXT), sparsity=sparsity, hierarchical=hierarchical)
    cache = _held(lever, ids)
    if cache is None:
        with levers(loaded), Progress(console=Console(stderr=True), transient=True) as bar:
            window = loaded.config.get_text_config(decoder=True).max_position_embeddings
            if len(ids) > window:
                raise ArgumentError(
                    f"{context} has {len(ids):,} tokens, {model} reads {window:,}; shorten it, or stretch the window "
                    f"with --recipe yarn:factor={-(-len(ids) // window)}"
                )
            task = bar.add_task("reading and clustering")
            cache = build_prefix_cache(
                loaded,
                ids,
                cluster_ratio=cluster_ratio,
                coarse_ratio=cluster_ratio / 5 if hierarchical else None,
                seed=seed,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        save_prefix(cache, folder / CONTEXT)
    del loaded
    file = Recipe([*levers, lever]).to_yaml(folder / RECIPE)
    for line in _summary(cache, lever, file):
        typer.echo(line)
    if ask:
        _answer(model, Recipe.from_yaml(file), ids, ask, max_new_tokens, trust_remote_code)


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{file} is not text in UTF-8") from error
    if not text.strip():
        raise ArgumentError(f"{file} is empty")
    return text


def _held(lever: Squeezed, ids: list[int]) -> PrefixCache | None:
    """The context in the folder, if it is this one and has the levels that are asked for."""
    from farspan.attention import SqueezeError

    try:
        cache = lever.load()
        cache.threshold(lever.sparsity, hierarchical=lever.hierarchical)
    except SqueezeError:
        return None
    return cache if cache.ids == tuple(ids) else None


def _summary(cache: PrefixCache, lever: Squeezed, file: Path) -> list[str]:
    kept = cache.kept_fractions(lever.sparsity, hierarchical=lever.hierarchical)
    shares = ", ".join(f"layer {index} {share:.0%}" for index, share in kept.items())
    dense = len(cache.layers) - len(kept)
    others = []
    for quantile in sorted(map(float, cache.thresholds.get("fine kv_head", {}))):
        found = cache.kept_fractions(quantile, hierarchical=lever.hierarchical)
        low, high = min(found.values()), max(found.values())
        others.append(f"{quantile:g} {sum(found.values()) / len(found):.0%} ({low:.0%} to {high:.0%})")
    return [
        f"context: {len(cache):,} tokens, keys and values {cache.bytes() / 2**20:.1f} MiB, "
        f"{len(kept)} layers clustered, {dense} dense",
        f"read at sparsity {lever.sparsity}: {shares} of the context (its own last {cache.window} tokens asked)",
        f"at other sparsities, mean over layers (least to most): {', '.join(others)}",
        f"largest cluster: {cache.largest_share():.0%} of a head's keys",
        f"recipe: {file}",
    ]


def _answer(
    model: str, recipe: Recipe, ids: list[int], questions: list[str], max_new_tokens: int, trust_remote_code: bool
) -> None:
    from farspan.engine import Engine, ModelSpec, Request

    spec = ModelSpec(path=model, levers=str(recipe), trust_remote_code=trust_remote_code)
    with Engine.from_spec(spec) as engine:
        asked = [
            Request(
                [*ids, *engine.tokenizer(question, add_special_tokens=False)["input_ids"]],
                max_new_tokens,
                prefix_length=len(ids),
            )
            for question in questions
        ]
        for question, result in zip(questions, engine.generate_batch(asked), strict=True):
            seconds = f"{result.seconds:.2f} s, {result.usage.output_tokens} tokens"
            typer.echo(f"\n{question}\n{result.text.strip()}\n({seconds})")
