"""A command for tests of the command line: it ends in every way that a command can end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farspan.cli.arguments import output_folder, parse_length
from farspan.errors import FarspanError


def toy(
    ending: str = "well",
    length: Annotated[int, typer.Option(parser=parse_length, metavar="LENGTH", help="Tokens.")] = 4096,
    out: Annotated[Path | None, typer.Option(help="Folder.")] = None,
) -> None:
    """End as told.

    What ends badly leaves one line on
    the error stream.

    Example:

        farspan toy --ending well
    """
    if out is not None:
        output_folder(out)
    if ending == "refused":
        raise FarspanError("this is refused\nbecause of two lines")
    if ending == "interrupted":
        raise KeyboardInterrupt
    if ending == "missing":
        Path("/no/such/file").read_text()
    if ending == "nameless":
        raise OSError("no file is named")
    if ending == "fault":
        raise RuntimeError("a fault of the program")
    if ending == "three":
        raise typer.Exit(3)
    typer.echo(f"length {length}")
