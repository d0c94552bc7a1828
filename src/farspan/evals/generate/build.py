"""Building one context: a haystack cut to length, with needles at their places.

Length is arithmetic on counted units; only the few joints around needles and ends are tokenised. Where a tokenizer
does not allow that, the finished text is tokenised and the number of units corrected. This module writes no text of
its own except one-token fillers for exact lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from farspan.evals.generate.count import Mode, TokenCounter
from farspan.evals.generate.distractors import DistractorSpec
from farspan.evals.generate.haystack.base import Haystack
from farspan.evals.generate.length import LengthTarget
from farspan.evals.schema import EvidenceSpan, Role


@dataclass(frozen=True)
class Needle:
    """A text to hide.

    `form`, `key` and `value` (`form.format(key=..., value=...)` gives `text`) are needed for generated distractors.
    """

    text: str
    fact_id: str = ""
    role: Role = "needle"
    key: str = ""
    value: str = ""
    form: str = ""


@dataclass(frozen=True)
class Frame:
    """What stands around the haystack in a prompt.

    preamble, closing : text of the context before and after the haystack
    tails : question plus answer prefix of every question asked on this context; the longest one must fit
    template_tokens : tokens of special tokens or the chat template
    """

    preamble: str = ""
    closing: str = ""
    tails: tuple[str, ...] = ("",)
    template_tokens: int = 0


@dataclass(frozen=True)
class BuiltContext:
    """A built context.

    text : the whole context, preamble and closing included
    units_kept : the haystack's own units in it, replaced ones included
    spans : where the needles stand, in the order of the text
    depths : achieved depth of each span in percent of the haystack's tokens
    n_context_tokens : tokens of `text`
    n_total_tokens : with template, longest tail and reserve
    counted : whether the number was added up or the finished text was tokenised
    """

    text: str
    units_kept: int
    spans: tuple[EvidenceSpan, ...]
    depths: tuple[float, ...]
    n_context_tokens: int
    n_total_tokens: int
    mode: Mode
    counted: Literal["predicted", "verified"]
    overhead_tokens: int
    filler_tokens: int = 0


Placer = Callable[[int, Random], Sequence[tuple[int, Needle]]]
"""Chooses needles and their boundaries (or, replacing, their unit indices) once the number of units is known."""

Depths = float | Sequence[float] | Literal["uniform", "random", "clustered"]


def build_context(
    haystack: Haystack,
    needles: Sequence[Needle] | Placer,
    target: LengthTarget,
    counter: TokenCounter,
    *,
    depths: Depths = "uniform",
    seed: int,
    placement_seed: int | None = None,
    distractors: DistractorSpec | None = None,
    frame: Frame = Frame(),
    mode: Literal["insert", "replace"] = "insert",
    in_order: bool = False,
) -> BuiltContext:
    """Fill a context to its length and hide needles in it."""
    raise NotImplementedError
