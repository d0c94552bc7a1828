"""Truncated basis: pairs that complete a turn in the trained window stay, the others are fixed or put at rest."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field

from farspan.errors import LeverNotApplicable
from farspan.positions.lever import PositionLever, Stretched
from farspan.positions.linear import linear_vector
from farspan.positions.rope import RopeSpec


def truncated_vector(
    inv_freq: torch.Tensor,
    cutoff_length: int,
    band: float = 8.0,
    fixed_divisor: float = 16.0,
    soft: bool = False,
) -> torch.Tensor:
    """Frequencies cut below one turn within `cutoff_length` tokens.

    With c = 2 pi / cutoff_length: a frequency of at least c is kept, one between c / band and c becomes
    c / fixed_divisor, a slower one becomes 0. At those two the angle hardly changes within the window the model knows.

    Parameters
    ----------
    inv_freq : Tensor [rotary_dim / 2], float64
    cutoff_length : tokens within which a kept pair completes a turn, at least 2
    band : width of the fixed band, as a ratio of frequencies, above 1
    fixed_divisor : the fixed frequency is c over this, above 0
    soft : fade the kept frequencies into the cut ones over the octave below c, by a raised cosine, rather than at once

    Returns
    -------
    Tensor [rotary_dim / 2], float64
    """
    if cutoff_length < 2 or not band > 1 or not fixed_divisor > 0:
        raise LeverNotApplicable(
            "the truncated basis needs cutoff_length >= 2, band > 1 and fixed_divisor > 0, "
            f"not {cutoff_length}, {band} and {fixed_divisor}"
        )
    cutoff = 2 * math.pi / cutoff_length
    fixed = torch.full_like(inv_freq, cutoff / fixed_divisor)
    cut = torch.where(inv_freq >= cutoff / band, fixed, torch.zeros_like(inv_freq))
    if not soft:
        return torch.where(inv_freq >= cutoff, inv_freq, cut)
    octaves_below = torch.log2(cutoff / inv_freq.clamp(min=torch.finfo(inv_freq.dtype).tiny)).clamp(0, 1)
    kept = 0.5 * (1 + torch.cos(math.pi * octaves_below))
    return kept * inv_freq + (1 - kept) * cut


class TruncatedBasis(PositionLever):
    """Pairs that complete a turn within the trained window are kept; slower ones get one fixed small frequency, the
    slowest none. No pair is led into angles it has never met, and near distances stay as sharp as they were.

    The vector does not depend on the factor, which only names the window aimed at.

    Fields
    ------
    cutoff_length : tokens within which a kept pair completes a turn; the model's window if left out
    band, fixed_divisor, soft : see `truncated_vector`
    scale : divide all frequencies by this first

    Source: arXiv 2308.10882, section 4.
    """

    name: ClassVar[str] = "truncated-basis"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({},)

    cutoff_length: int | None = Field(default=None, ge=2)
    band: float = Field(default=8.0, gt=1, allow_inf_nan=False)
    fixed_divisor: float = Field(default=16.0, gt=0, allow_inf_nan=False)
    soft: bool = False
    scale: float = Field(default=1.0, ge=1, allow_inf_nan=False)

    def stretch(self, rope: RopeSpec) -> Stretched:
        scaled = linear_vector(rope.inv_freq, self.scale)
        length = self.cutoff_length or rope.target_length
        return Stretched(truncated_vector(scaled, length, self.band, self.fixed_divisor, self.soft))
