"""Linear interpolation: all positions are squeezed into the trained window."""

from __future__ import annotations

from typing import ClassVar

import torch

from farspan.errors import LeverNotApplicable
from farspan.positions.lever import PositionLever, Stretched
from farspan.positions.rope import RopeSpec


def linear_vector(inv_freq: torch.Tensor, scale: float) -> torch.Tensor:
    """Every frequency divided by `scale`.

    Parameters
    ----------
    inv_freq : Tensor [rotary_dim / 2], float64
    scale : at least 1

    Returns
    -------
    Tensor [rotary_dim / 2], float64
    """
    if not scale >= 1:
        raise LeverNotApplicable(f"linear interpolation needs a scale of at least 1, not {scale}")
    return inv_freq / scale


class LinearInterpolation(PositionLever):
    """Every frequency divided by the factor, so that the longest position has the angle of the last trained one.

    The most robust method after fine-tuning; without it, near positions become hard to tell apart.

    Source: arXiv 2306.15595, section 2.2.
    """

    name: ClassVar[str] = "linear"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({},)

    def stretch(self, rope: RopeSpec) -> Stretched:
        native = {"rope_type": "linear", "rope_theta": rope.rope_theta, "factor": self.factor}
        return Stretched(linear_vector(rope.inv_freq, self.factor), native=native)
