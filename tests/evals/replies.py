"""Right answers as replies of the families give them."""

from __future__ import annotations

from collections.abc import Sequence

from farspan.evals.schema import LongSample


def said(sample: LongSample, answers: Sequence[str] | None = None) -> str:
    """A reply with the sample's answers, or these: numbered ones for many questions, a list for one."""
    answers = sample.answers if answers is None else answers
    if sample.benchmark != "longgenbench":
        return ", ".join(answers)
    first = int(str(sample.metadata["first"]))
    return "\n".join(f"Answer_{number}: The answer is {gold}." for number, gold in enumerate(answers, first))
