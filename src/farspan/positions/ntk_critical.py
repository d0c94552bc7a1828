"""NTK by the critical dimension: the base grows just as far as the pairs that never turned fully need it.

A pair is critical if it saw no full turn within the trained window. The law picks the base at which the last pair
that did turn makes one full turn in the target length. It holds for causal and for bidirectional models alike.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from farspan.errors import LeverNotApplicable
from farspan.positions.lever import PositionLever, Stretched
from farspan.positions.rope import RopeSpec
from farspan.positions.theta import ThetaRebase

Rounding = Literal["ceil", "none"]

LEAST_FIT = 0.5
"""What the law must give at least for the trained window, where 1 is exact. The published models give 0.85 to 0.99."""


def critical_dim(rope_theta: float, head_dim: int, train_length: int) -> int:
    """Rotary dimensions whose pairs turned fully within the trained window.

    Unlike `farspan.systems.critical_rope_dimension` the number may exceed `head_dim`, which says by how much a base is
    too small for its window; the law for the base needs that.

    Parameters
    ----------
    rope_theta : base, above 1
    head_dim : rotary channels of a head
    train_length : window in tokens, above 2 pi

    Returns
    -------
    `2 ceil(d / 2 * log_theta(T / 2 pi))`

    Raises
    ------
    LeverNotApplicable : a value is out of range.

    Source: arXiv 2506.14429.
    """
    return 2 * math.ceil(head_dim / 2 * _turned_share(rope_theta, head_dim, train_length))


def ntk_lambda(
    rope_theta: float, head_dim: int, train_length: int, target_length: int, rounding: Rounding = "ceil"
) -> float:
    """Factor on the base that stretches a window of `train_length` tokens to `target_length`.

    Parameters
    ----------
    rope_theta, head_dim, train_length : as for `critical_dim`
    target_length : window wanted, in tokens, above 2 pi
    rounding : `ceil` rounds up to a whole number, as the published factors are; `none` keeps the fraction

    Returns
    -------
    `(t / 2 pi)^(d / d_crit) / theta`, below 1 where the rounding of `d_crit` to a whole pair outweighs the stretch.

    Raises
    ------
    LeverNotApplicable : a value is out of range.

    Source: arXiv 2506.14429.
    """
    exponent = head_dim / critical_dim(rope_theta, head_dim, train_length)
    return _rounded(_law(rope_theta, target_length, exponent), rounding)


class NTKCritical(PositionLever):
    """A larger base, by a law of the window, the target and the number of pairs that turned fully in training.

    With few pairs a head, rounding the critical dimension up to a whole pair can lose most of the stretch. Where the
    law would give the window itself less than half of the base it has, the critical dimension is taken as a fraction
    instead; that depends on the model alone, never on the factor.

    Fields
    ------
    rounding : `ceil` for a whole factor on the base, `none` for the law's own

    Source: arXiv 2506.14429.
    """

    name: ClassVar[str] = "ntk-critical"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({},)

    rounding: Rounding = "ceil"

    def stretch(self, rope: RopeSpec) -> Stretched:
        theta, dim, window = rope.rope_theta, rope.rotary_dim, rope.target_length
        target = round(window * self.factor)
        growth = ntk_lambda(theta, dim, window, target, self.rounding)
        if ntk_lambda(theta, dim, window, window, "none") < LEAST_FIT:
            growth = _rounded(_law(theta, target, 1 / _turned_share(theta, dim, window)), self.rounding)
        # Never below the model's own base: the law may ask for that where the stretch is smaller than the rounding.
        growth = max(1.0, growth)
        return ThetaRebase(factor=self.factor, rope_theta=theta * growth).stretch(rope)


def _law(rope_theta: float, target_length: int, exponent: float) -> float:
    if not target_length > 2 * math.pi:
        raise LeverNotApplicable(
            f"target length {target_length} is below one turn of the fastest pair; give at least 7"
        )
    return float((target_length / (2 * math.pi)) ** exponent / rope_theta)


def _rounded(growth: float, rounding: Rounding) -> float:
    # A target that is the window itself may miss 1 by the rounding of a power.
    return float(math.ceil(growth * (1 - 1e-12))) if rounding == "ceil" else growth


def _turned_share(rope_theta: float, head_dim: int, train_length: int) -> float:
    """`log_theta(T / 2 pi)`: the share of pairs that turned fully, as a fraction."""
    if head_dim < 2 or head_dim % 2 or not (math.isfinite(rope_theta) and rope_theta > 1):
        raise LeverNotApplicable(
            f"head_dim must be even and positive and rope_theta above 1; given {head_dim} and {rope_theta}"
        )
    if not train_length > 2 * math.pi:
        raise LeverNotApplicable(f"window of {train_length} tokens is below one turn of the fastest pair, 7 tokens")
    return math.log(train_length / (2 * math.pi)) / math.log(rope_theta)
