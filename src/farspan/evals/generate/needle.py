"""What is hidden, and what stands around the haystack: plain data."""

from __future__ import annotations

from dataclasses import dataclass

from farspan.evals.schema import Role


@dataclass(frozen=True)
class Needle:
    """A text to hide.

    `form`, `key` and `value` (`form.format(key=..., value=...)` gives `text`) are needed for generated distractors
    only.
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
