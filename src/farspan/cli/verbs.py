"""A command with verbs, one of which need not be written: `farspan train FILE` is `farspan train run FILE`."""

from __future__ import annotations

from typing import ClassVar

import typer
from typer.core import TyperGroup


class DefaultVerb(TyperGroup):
    """A group that puts `default` before arguments that begin with no verb and are no call for help."""

    default: ClassVar[str] = "run"

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Arguments with the verb that they mean."""
        asks_for_help = bool(args) and args[0] in self.get_help_option_names(ctx)
        if args and args[0] not in self.commands and not asks_for_help:
            args = [self.default, *args]
        return super().parse_args(ctx, args)
