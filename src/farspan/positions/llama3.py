"""Llama-3 scaling: pairs are kept, blended or interpolated by how their wavelength compares with the trained window."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from farspan.positions.lever import PositionLever, Stretched, through_transformers
from farspan.positions.rope import RopeSpec


class Llama3(PositionLever):
    """Pairs that turn more than `high_freq_factor` times in the trained window stay, those that turn less than
    `low_freq_factor` times are divided by the factor, those between are blended linearly in their number of turns.

    Source: arXiv 2407.21783, section 3.4.2, and the released configuration of Llama 3.1.
    """

    name: ClassVar[str] = "llama3"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({},)

    low_freq_factor: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    high_freq_factor: float = Field(default=4.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _ordered(self) -> Llama3:
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor must be above low_freq_factor ({self.low_freq_factor}), not {self.high_freq_factor}"
            )
        return self

    def stretch(self, rope: RopeSpec) -> Stretched:
        return through_transformers(
            rope,
            {
                "rope_type": "llama3",
                "factor": self.factor,
                "low_freq_factor": self.low_freq_factor,
                "high_freq_factor": self.high_freq_factor,
                "original_max_position_embeddings": rope.target_length,
            },
        )
