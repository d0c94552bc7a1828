"""Distractors: sentences that look like a needle and must not be mistaken for it.

Made from a needle's `form`, `key` and `value`. No distractor ever equals a gold key or value where that would make it
an answer: draws are rejected against a set, with a limit.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class DistractorSpec(BaseModel):
    """Which distractors, and how many.

    kind : "type" (same sentence, other key), "near_key" (key at edit distance 1-2 or sharing a word), "contradict"
        (same key, older date, other value), "attribute" (each haystack unit is followed by one of another key with
        probability `density`), "answer_type" (other sentence key, value of the same type)
    density : share of the haystack's units, where `k` is not given
    k : their number
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["type", "near_key", "contradict", "attribute", "answer_type"] = "type"
    density: float = Field(default=0.0, ge=0.0, le=1.0)
    k: int | None = Field(default=None, ge=0)
