"""Power basis: slow pairs are slowed further by a power law, the fastest stays."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from farspan.errors import LeverNotApplicable
from farspan.positions.lever import PositionLever, Stretched
from farspan.positions.linear import linear_vector
from farspan.positions.rope import RopeSpec


def power_vector(inv_freq: torch.Tensor, power: float) -> torch.Tensor:
    """Frequency i of d/2 multiplied by `(1 - 2i/d)^power`.

    Parameters
    ----------
    inv_freq : Tensor [rotary_dim / 2], float64
    power : at least 0; 0 leaves the vector as it is

    Returns
    -------
    Tensor [rotary_dim / 2], float64
    """
    if not power >= 0:
        raise LeverNotApplicable(f"the power basis needs a power of at least 0, not {power}")
    pairs = inv_freq.shape[0]
    remaining = 1 - torch.arange(pairs, dtype=torch.float64, device=inv_freq.device) / pairs
    return inv_freq * remaining**power


class PowerBasis(PositionLever):
    """Frequency i multiplied by `(1 - 2i/d)^power`, after an optional division of all of them by `scale`.

    The vector does not depend on the factor, which only names the window aimed at. Strong on short contexts, and the
    first to fail on long ones.

    Source: arXiv 2308.10882, section 4.
    """

    name: ClassVar[str] = "power-basis"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({},)

    power: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    scale: float = Field(default=1.0, ge=1, allow_inf_nan=False)

    def stretch(self, rope: RopeSpec) -> Stretched:
        return Stretched(power_vector(linear_vector(rope.inv_freq, self.scale), self.power))
