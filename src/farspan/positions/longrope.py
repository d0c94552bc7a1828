"""LongRoPE: one divisor for each pair, given from outside (found by search, or published with a model)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field, field_validator

from farspan.errors import LeverNotApplicable
from farspan.positions.lever import PositionLever, Stretched
from farspan.positions.rope import RopeSpec


class LongRope(PositionLever):
    """Each frequency divided by its own factor, cos and sin multiplied by `sqrt(1 + ln(factor) / ln(window))`.

    One list serves all positions: two lists, one for short inputs, would leave cached keys in the wrong one when a
    sequence grows from short to long.

    Fields
    ------
    factors : divisor of each pair, rotary_dim / 2 of them, all above 0
    attention_factor : replaces the factor on cos and sin

    Source: arXiv 2402.13753, sections 3.2 and 3.3.
    """

    name: ClassVar[str] = "longrope"

    factors: tuple[float, ...]
    attention_factor: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @field_validator("factors")
    @classmethod
    def _positive(cls, factors: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < factor < math.inf for factor in factors):
            raise ValueError("factors must all be finite and above 0")
        return factors

    def stretch(self, rope: RopeSpec) -> Stretched:
        if len(self.factors) != rope.rotary_dim // 2:
            raise LeverNotApplicable(
                f"{len(self.factors)} factors were given for a rotary dimension of {rope.rotary_dim}; "
                f"give {rope.rotary_dim // 2}, one a pair"
            )
        inv_freq = rope.inv_freq / torch.tensor(self.factors, dtype=torch.float64)
        default = math.sqrt(1 + math.log(self.factor) / math.log(rope.target_length))
        return Stretched(inv_freq, self.attention_factor or default)
