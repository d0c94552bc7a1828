"""Theta re-basing: a new base for the frequencies, chosen by hand or by a law."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from farspan.errors import LeverNotApplicable
from farspan.positions.lever import PositionLever, Stretched
from farspan.positions.ntk_aware import ntk_aware
from farspan.positions.rope import RopeSpec, default_inv_freq


def suggest_rope_base(rope_theta: float, factor: float, head_dim: int, multiplier: float = 1.0) -> float:
    """The base to train a window `factor` times as long with: the NTK-aware one, times a multiplier.

    Parameters
    ----------
    rope_theta : present base
    factor : new length over present length, at least 1
    head_dim : rotary channels of a head, at least 4
    multiplier : above 0. Runs with long training took about 2; 1, 2 and 4 are worth trying

    Source: arXiv 2410.02660, appendix B.1.
    """
    if not multiplier > 0:
        raise LeverNotApplicable(f"the multiplier of a suggested base must be above 0, not {multiplier}")
    return multiplier * ntk_aware(rope_theta, head_dim, factor)[0]


class ThetaRebase(PositionLever):
    """The base replaced by a larger one, usually followed by training on long documents.

    With a base given by hand, the factor only names the window aimed at.

    Fields
    ------
    rope_theta : the new base; the suggested one if left out, see `suggest_rope_base`
    multiplier : of the suggested base

    Source: arXiv 2309.16039, section 2.1; bases chosen for long windows in arXiv 2410.02660, section 4.
    """

    name: ClassVar[str] = "theta"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({},)

    rope_theta: float | None = Field(default=None, gt=1, allow_inf_nan=False)
    multiplier: float = Field(default=2.0, gt=0, allow_inf_nan=False)

    def stretch(self, rope: RopeSpec) -> Stretched:
        theta = self.rope_theta
        if theta is None:
            theta = suggest_rope_base(rope.rope_theta, self.factor, rope.rotary_dim, self.multiplier)
        new, old = (default_inv_freq(base, rope.rotary_dim) for base in (theta, rope.rope_theta))
        native = {"rope_type": "default", "rope_theta": theta}
        return Stretched(rope.inv_freq * (new / old), native=native if rope.method == "default" else None)
