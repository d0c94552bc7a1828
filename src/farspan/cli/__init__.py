"""The command line: a table of commands, and how errors reach a person.

Every command is a file of this folder with one function of its name. This module knows only names, import paths and
one-line helps, so that `farspan --help` loads no command, and with it neither torch nor transformers. It has no logic
of its own: what goes wrong below arrives here as an exception and leaves as one line and an exit code.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from farspan import __version__
from farspan.errors import FarspanError

COMMANDS: dict[str, tuple[str, str]] = {
    "tune": ("farspan.cli.tune:tune", "Measure a model, try levers under a budget, keep those that pay."),
    "eval": ("farspan.cli.eval:eval_", "Measure how far a model reads, on one or more tasks."),
    "score": ("farspan.cli.score:score", "Score predictions on document benchmarks that were made elsewhere."),
    "extend": ("farspan.cli.extend:extend", "Stretch a model's window and write a checkpoint."),
    "profile": ("farspan.cli.profile:profile", "Measure time to first token, time per token and memory."),
    "train": ("farspan.cli.train:train", "Train a model from one YAML file."),
    "rope": ("farspan.cli.rope:rope", "Show, compare or search what a method does to the rotary pairs."),
    "generate": ("farspan.cli.generate:generate", "Write samples of a generated task to a file."),
    "levels": ("farspan.cli.levels:levels", "Write your own questions at several lengths to a file."),
    "taxonomy": ("farspan.cli.taxonomy:taxonomy", "Show how much of its context each task needs and how well hidden."),
    "probe": ("farspan.cli.probe:probe", "Show how much context it takes to follow a hidden graph."),
    "report": ("farspan.cli.report:report", "Make the report of a run again."),
    "rank": ("farspan.cli.rank:rank", "Order documents by how much they help to answer a query."),
    "squeeze": ("farspan.cli.squeeze:squeeze", "Read and cluster a fixed text once, for many questions on it."),
    "systems": ("farspan.cli.systems:systems", "Show the published systems, where each lives and how to try it."),
}

BAD_INPUT = 2
INTERRUPTED = 130


def load_command(name: str) -> TyperCommand | TyperGroup:
    """Import a command's module and build the command that parses its arguments.

    A module offers a function, or a `typer.Typer` of several where a command has verbs of its own.
    """
    module, _, attribute = COMMANDS[name][0].partition(":")
    found: Callable[..., None] | typer.Typer = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        found.info.help = _reflowed(str(found.info.help))
        for verb in found.registered_commands:
            verb.help = _reflowed(inspect.getdoc(verb.callback) or "")
        group = typer.main.get_command(found)
        assert isinstance(group, TyperGroup)
        return group
    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    single.command(name=name, help=_reflowed(inspect.getdoc(found) or ""))(found)
    command = typer.main.get_command(single)
    assert isinstance(command, TyperCommand)
    return command


def _reflowed(text: str) -> str:
    """Paragraphs on one line each, so that a screen of any width breaks them; indented ones stay as they are."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(p if p.startswith(" ") else " ".join(p.split()) for p in paragraphs)


class LazyGroup(TyperGroup):
    """A group whose commands are imported when one is called; lists and helps come from the table alone."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        for name, (_, line) in COMMANDS.items():
            self.add_command(TyperCommand(name=name, help=line, callback=None))

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Names in the order of the table."""
        return list(self.commands)

    def resolve_command(  # type: ignore[override]
        self, ctx: typer.Context, args: list[str]
    ) -> tuple[str | None, TyperCommand | TyperGroup | None, list[str]]:
        """Replace the stand-in by the real command, for running it and for completing its options."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else load_command(name), rest


app = typer.Typer(
    cls=LazyGroup,
    name="farspan",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"farspan {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Measure how far a language model really reads its context, and make it read farther, faster and cheaper.

    Start with: farspan tune --target-length 2k --budget 3m --out runs/first
    """
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def _fail(message: str) -> NoReturn:
    typer.echo("farspan: " + " ".join(message.split()), err=True)
    raise SystemExit(BAD_INPUT)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process.

    Exit codes: 0 done, 2 bad input (one line on the error stream), 130 interrupted. Any other exception is a fault of
    the program and propagates with its traceback.

    Parameters
    ----------
    arguments : what follows the program's name; the process's own arguments if left out
    """
    command = typer.main.get_command(app)
    try:
        status = command.main(
            args=None if arguments is None else list(arguments), prog_name="farspan", standalone_mode=False
        )
    except typer.TyperException as error:
        # The library puts the name of its validator before the message of a failed parser.
        message = error.format_message().replace("Value error, ", "").rstrip(". ")
        path = getattr(getattr(error, "ctx", None), "command_path", "farspan")
        _fail(f"{message} (see {path} --help)")
    except FarspanError as error:
        _fail(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"cannot use {error.filename}: {error.strerror or error}")
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    if status == INTERRUPTED:
        typer.echo("farspan: interrupted", err=True)
    sys.exit(status if isinstance(status, int) else 0)
