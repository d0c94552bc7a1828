"""Turning a sample into what a model is sent: one text to continue, or one user turn with or without a started answer.

The three prefix modes change scores of retrieval tasks, so whoever stores a score stores the mode. Chat templates are
not applied here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from farspan.errors import FarspanError
from farspan.evals.schema import LongSample

PrefixMode = Literal["continue", "user_tail", "none"]
PREFIX_MODES: tuple[PrefixMode, ...] = ("continue", "user_tail", "none")


class Prompt(NamedTuple):
    """A user text, and the start of the answer that the model continues (empty unless the mode is `continue`)."""

    user: str
    answer_prefix: str

    @property
    def text(self) -> str:
        """Both as the one text a base model continues."""
        return self.user + self.answer_prefix


def render_prompt(sample: LongSample, prefix_mode: PrefixMode = "continue") -> Prompt:
    """The prompt of a sample.

    Parameters
    ----------
    sample : its context is built now if it is lazy
    prefix_mode : `continue` leaves the answer prefix for the model to continue; `user_tail` puts it at the end of the
        user's text; `none` drops it. The last two add the sample's instruction about the form of the answer.

    Raises
    ------
    FarspanError : an unknown mode.
    """
    if prefix_mode not in PREFIX_MODES:
        raise FarspanError(f"prefix_mode is one of {', '.join(PREFIX_MODES)}, not '{prefix_mode}'")
    asked = sample.text + sample.question
    if prefix_mode == "continue":
        return Prompt(asked, sample.answer_prefix)
    instruction = str(sample.metadata.get("instruction", ""))
    asked += instruction + "\n" if instruction else ""
    return Prompt(asked + (sample.answer_prefix if prefix_mode == "user_tail" else ""), "")


def stop_strings(sample: LongSample, prefix_mode: PrefixMode = "continue") -> tuple[str, ...]:
    """Where generation ends: at the sample's own stops when the answer is continued, nowhere for a free reply."""
    stops = sample.metadata.get("stop", ())
    if prefix_mode != "continue" or not isinstance(stops, Sequence) or isinstance(stops, str):
        return ()
    return tuple(str(stop) for stop in stops)
