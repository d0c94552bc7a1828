"""`farspan rope`: a model's rotary pairs on the screen and as a page, and searches for divisors and for a scale.

It reads arguments and prints tables; planning, weighing and searching belong to the positions room, drawing to the
report room. `show` and `distribution` read a configuration alone, never weights.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farspan.cli.arguments import ArgumentError, output_folder, parse_duration, parse_length, parse_setting
from farspan.cli.rope_scales import scales

if TYPE_CHECKING:
    import torch
    from rich.console import Console
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from farspan.positions import Distributions, PairRow, SearchResult
    from farspan.report import RopeView

rope = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    no_args_is_help=True,
    help="""Show, compare or search what a method does to the rotary pairs of a model.

Example:

    farspan rope show reference --method yarn --target-length 2k
    farspan rope distribution reference --target-length 2k --out runs/angles
    farspan rope search reference --target-length 2k --text book.txt --evals 100 --out runs/search
    farspan rope scales DIR --recipe runs/tuned/recipe.yaml
""",
)
rope.command()(scales)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A local folder, a hub name, or 'reference'.")]
Target = Annotated[
    int | None,
    typer.Option(parser=parse_length, metavar="LENGTH", help="Window to reach, such as 8k or 131072 tokens."),
]
Params = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="A setting of the method; may be repeated.")
]
Compose = Annotated[bool, typer.Option("--compose", help="Stretch a model that is stretched already.")]
LayerType = Annotated[
    str | None, typer.Option(help="Layers to look at in a layer-typed model; those that see everything by default.")
]
Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder for rope.html and tables/*.csv; nothing without it.")
]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that the checkpoint carries.")]


@rope.command()
def show(
    model: Model,
    method: Annotated[str | None, typer.Option(help="Method to plan, such as yarn, dprope or truncated-basis.")] = None,
    target_length: Target = None,
    param: Params = None,
    compose: Compose = False,
    layer_type: LayerType = None,
    out: Out = None,
    trust_remote_code: Trust = False,
) -> None:
    """Show each rotary pair: wavelength before and after, turns inside the window, kept or interpolated.

    Without a method the model is shown as it is. Nothing is changed, and no weights are read.

    Example:

        farspan rope show reference
        farspan rope show reference --method dprope --target-length 2k --out runs/rope
    """
    if (method is None) != (target_length is None):
        raise ArgumentError("--method and --target-length are given together or not at all")
    if param and method is None:
        raise ArgumentError("--param needs --method")
    settings = dict(parse_setting(text) for text in param or [])
    from rich.console import Console

    from farspan.positions import get_rope, lever_for, pair_rows

    folder = None if out is None else output_folder(out)
    config = _config(model, trust_remote_code)
    before = after = get_rope(config, layer_type)
    lever = None
    if method is not None and target_length is not None:
        lever = lever_for(config, method, target_length, layer_type=layer_type, compose=compose, **settings)
        after = lever.plan(config)
    rows = pair_rows(before, after)
    console = Console(highlight=False)
    view = _view(model, config, str(lever or ""), before.target_length, after.target_length, rows)
    _print_pairs(console, view, after.attention_factor / before.attention_factor)
    _write(console, view, folder)


@rope.command()
def distribution(
    model: Model,
    target_length: Annotated[
        int, typer.Option(parser=parse_length, metavar="LENGTH", help="Window to reach, such as 8k or 131072 tokens.")
    ],
    param: Params = None,
    compose: Compose = False,
    layer_type: LayerType = None,
    out: Out = None,
    trust_remote_code: Trust = False,
) -> None:
    """Show how far stretching moves the angles each pair meets, and what the method dprope makes of it.

    Disturbance is a divergence in nats: of the angles in the target window from those in training, if a pair is kept
    and if it is interpolated. No weights are read.

    Example:

        farspan rope distribution reference --target-length 2k
        farspan rope distribution DIR --target-length 128k --param variant=code --out runs/angles
    """
    settings = dict(parse_setting(text) for text in param or [])
    from rich.console import Console

    from farspan.positions import DPRoPE, distributions, get_rope, lever_for, pair_rows

    folder = None if out is None else output_folder(out)
    config = _config(model, trust_remote_code)
    before = get_rope(config, layer_type)
    lever = lever_for(config, "dprope", target_length, layer_type=layer_type, compose=compose, **settings)
    assert isinstance(lever, DPRoPE)
    with Console(stderr=True).status(f"counting angles of {target_length} positions"):
        found = distributions(config, lever)
        after = lever.plan(config)
    console = Console(highlight=False)
    _print_distributions(console, found)
    view = _view(model, config, str(lever), before.target_length, after.target_length, pair_rows(before, after), found)
    _write(console, view, folder)


@rope.command()
def search(
    model: Model,
    target_length: Annotated[
        int, typer.Option(parser=parse_length, metavar="LENGTH", help="Window to reach, such as 8k or 131072 tokens.")
    ],
    text: Annotated[
        list[Path], typer.Option(metavar="FILE", help="A long text, at least LENGTH tokens; repeat for several.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for recipe.yaml, the journal, page and tables.")],
    evals: Annotated[int | None, typer.Option(min=1, help="Evaluations to pay for in all.")] = None,
    budget: Annotated[str | None, typer.Option(metavar="TIME", help="Time to spend, such as 10m.")] = None,
    tokens: Annotated[
        int | None,
        typer.Option(parser=parse_length, metavar="LENGTH", help="Tokens of each text to read; LENGTH if left out."),
    ] = None,
    stride: Annotated[int, typer.Option(min=1, help="Tokens by which the window moves on in a longer text.")] = 256,
    population: Annotated[int, typer.Option(min=1, help="Vectors scored at the start.")] = 64,
    generations: Annotated[int, typer.Option(min=0, help="Rounds of mutation and crossover.")] = 40,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of all random choices.")] = 0,
    trust_remote_code: Trust = False,
) -> None:
    """Search a divisor for each rotary pair with which the model reads long texts best; weights stay as they are.

    Every score is kept in DIR/search.jsonl: run again, also after an interruption, the search goes on where it stopped.

    Example:

        farspan rope search reference --target-length 2k --text book.txt --evals 100 --out runs/search
    """
    seconds = None if budget is None else parse_duration(budget)
    from rich.console import Console

    from farspan.models import load
    from farspan.positions import SearchSettings, get_rope, pair_rows, search_longrope
    from farspan.recipe import Recipe

    folder = output_folder(out)
    status = Console(stderr=True)
    with status.status(f"loading {model}"):
        loaded, tokenizer = load(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    documents = [_document(path, tokenizer, tokens or target_length) for path in text]
    with status.status("searching") as shown:
        lever, found = search_longrope(
            loaded,
            documents,
            target_length,
            SearchSettings(population=population, generations=generations, seed=seed),
            stride=stride,
            budget_evals=evals,
            deadline=None if seconds is None else time.monotonic() + seconds,
            journal=folder / "search.jsonl",
            progress=lambda count, best: shown.update(f"searching: {count} scored, best perplexity {best:.4g}"),
        )
    recipe = Recipe([lever]).to_yaml(folder / "recipe.yaml")
    console = Console(highlight=False)
    before, after = get_rope(loaded.config), lever.plan(loaded.config)
    view = _view(model, loaded.config, str(lever), before.target_length, after.target_length, pair_rows(before, after))
    _print_search(console, found, len(documents))
    console.print(f"written: {recipe}", soft_wrap=True)
    _write(console, view, folder)


def _config(model: str, trust_remote_code: bool) -> PretrainedConfig:
    from farspan.cli.extend import stored_config
    from farspan.errors import ModelNotFound
    from farspan.models import model_path

    config = stored_config(model_path(model), trust_remote_code)
    if config is None:
        raise ModelNotFound(
            f"the configuration of '{model}' cannot be read; give a folder with a config.json or a hub name"
        )
    return config


def _document(path: Path, tokenizer: PreTrainedTokenizerBase, tokens: int) -> torch.Tensor:
    import torch

    try:
        ids = tokenizer(path.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{path} is not a text in UTF-8") from error
    if len(ids) < tokens:
        raise ArgumentError(f"{path} has {len(ids)} tokens; a text of at least {tokens} is needed")
    return torch.tensor(ids[:tokens])


def _view(
    model: str,
    config: PretrainedConfig,
    method: str,
    native_length: int,
    target_length: int,
    rows: list[PairRow],
    found: Distributions | None = None,
) -> RopeView:
    from farspan.report import RopeView

    architecture = (getattr(config, "architectures", None) or [config.model_type])[0]
    return RopeView(model, architecture, method, native_length, target_length, rows, found)


def _write(console: Console, view: RopeView, folder: Path | None) -> None:
    if folder is not None:
        from farspan.report import build_rope_page

        console.print(f"written: {build_rope_page(view, folder)}", soft_wrap=True)


def _print_pairs(console: Console, view: RopeView, attention_factor: float) -> None:
    from rich import box
    from rich.table import Table

    from farspan.report import units
    from farspan.report.rope import verdict

    console.print(f"{verdict(view)} (n = {len(view.rows)} pairs)", soft_wrap=True)
    if view.method:
        console.print(f"lever {view.method}; cos and sin times {attention_factor:.4g}", soft_wrap=True, markup=False)
    table = Table(box=box.SIMPLE, pad_edge=False)
    headings = ["pair", "wavelength", "turns"]
    said = f"wavelength in tokens; turns within {units.count(view.native_length)} tokens"
    if view.method:
        headings += ["wavelength after", "turns after", "divisor", ""]
        said += f", and within {units.count(view.target_length)} after"
    console.print(said, soft_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    for row in view.rows:
        cells = [str(row.index), units.quantity(row.wavelength), units.quantity(row.turns)]
        if view.method:
            cells += [*map(units.quantity, (row.new_wavelength, row.new_turns, row.divisor)), row.fate]
        table.add_row(*cells)
    console.print(table)


def _print_distributions(console: Console, found: Distributions) -> None:
    from rich import box
    from rich.table import Table

    from farspan.report import units

    table = Table(box=box.SIMPLE, pad_edge=False)
    names = [name for name in found.disturbance if name != "chosen"]
    for heading in ("pair", "wavelength, tokens", *(f"{name}, nats" for name in names), "chosen"):
        table.add_column(heading, justify="right")
    for index, wavelength in enumerate(found.wavelengths):
        costs = [f"{found.disturbance[name][index]:.6f}" for name in names]
        table.add_row(str(index), units.quantity(wavelength), *costs, found.choice[index])
    console.print(table)
    totals = ", ".join(f"{name} {1000 * value:.3g}" for name, value in found.totals.items())
    console.print(
        f"mean disturbance over n = {len(found.wavelengths)} pairs, thousandths of a nat: {totals}", soft_wrap=True
    )


def _print_search(console: Console, found: SearchResult, documents: int) -> None:
    starts = ", ".join(f"{name} {score:.4g}" for name, score in found.starts.items())
    ended = "" if found.finished else "; the budget ended it, run again to go on"
    console.print(
        f"perplexity {found.score:.4g} after {found.evaluations} evaluations on n = {documents} texts (from {starts})"
        f"{ended}",
        soft_wrap=True,
    )
