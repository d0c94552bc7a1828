"""YaRN: fast pairs stay, slow pairs are interpolated, a ramp between them, and attention is sharpened a little."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from farspan.positions.lever import PositionLever, Stretched, through_transformers
from farspan.positions.rope import RopeSpec


class Yarn(PositionLever):
    """Pairs with more than `beta_fast` turns in the trained window stay, those with fewer than `beta_slow` are divided
    by the factor, a linear ramp over the pair index lies between; cos and sin are multiplied by `0.1 ln(factor) + 1`.

    Fields
    ------
    beta_fast, beta_slow : turns within the trained window at the two ends of the ramp
    truncate : round the ends of the ramp outwards to whole pairs
    attention_factor : replaces the factor on cos and sin
    mscale, mscale_all_dim : given together, the attention factor is the ratio of `0.1 m ln(factor) + 1` of the two

    Source: arXiv 2309.00071, sections 3.2 to 3.4.
    """

    name: ClassVar[str] = "yarn"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({},)

    beta_fast: float = Field(default=32.0, gt=0, allow_inf_nan=False)
    beta_slow: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    truncate: bool = True
    attention_factor: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    mscale: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    mscale_all_dim: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _ordered(self) -> Yarn:
        if self.beta_fast < self.beta_slow:
            raise ValueError(f"beta_fast must not be below beta_slow, not {self.beta_fast} and {self.beta_slow}")
        if (self.mscale is None) != (self.mscale_all_dim is None):
            raise ValueError("mscale and mscale_all_dim are given together or not at all")
        return self

    def stretch(self, rope: RopeSpec) -> Stretched:
        chosen = self.model_dump(
            include={"beta_fast", "beta_slow", "truncate", "attention_factor", "mscale", "mscale_all_dim"},
            exclude_defaults=True,
        )
        length = {"factor": self.factor, "original_max_position_embeddings": rope.target_length}
        return through_transformers(rope, {"rope_type": "yarn", **length, **chosen})
