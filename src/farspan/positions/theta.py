"""Theta re-basing: a new base for the frequencies, chosen by hand or by a law."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from farspan.positions.lever import PositionLever, Stretched
from farspan.positions.rope import RopeSpec, default_inv_freq


class ThetaRebase(PositionLever):
    """The base replaced by a given one, usually much larger and followed by training on long documents.

    The factor only names the window aimed at.

    Fields
    ------
    rope_theta : the new base

    Source: arXiv 2309.16039, section 2.1; bases chosen for long windows in arXiv 2410.02660, section 4.
    """

    name: ClassVar[str] = "theta"

    rope_theta: float = Field(gt=1, allow_inf_nan=False)

    def stretch(self, rope: RopeSpec) -> Stretched:
        new, old = (default_inv_freq(theta, rope.rotary_dim) for theta in (self.rope_theta, rope.rope_theta))
        native = {"rope_type": "default", "rope_theta": self.rope_theta}
        return Stretched(rope.inv_freq * (new / old), native=native if rope.method == "default" else None)
