"""NTK-aware scaling: the base grows, so that fast pairs stay and the slowest is interpolated by the whole factor."""

from __future__ import annotations

from typing import ClassVar

import torch

from farspan.errors import LeverNotApplicable
from farspan.positions.lever import PositionLever, Stretched
from farspan.positions.rope import RopeSpec, default_inv_freq


def ntk_aware(rope_theta: float, head_dim: int, factor: float) -> tuple[float, torch.Tensor]:
    """The base `theta * factor^(d / (d - 2))` and its frequencies.

    Parameters
    ----------
    rope_theta : present base
    head_dim : rotary channels of a head, at least 4
    factor : target length over trained length, at least 1

    Returns
    -------
    (new base, Tensor [head_dim / 2], float64)
    """
    if head_dim < 4 or not factor >= 1:
        raise LeverNotApplicable(
            f"NTK-aware scaling needs at least 4 rotary channels and a factor >= 1, not {head_dim} and {factor}"
        )
    theta = rope_theta * factor ** (head_dim / (head_dim - 2))
    return theta, default_inv_freq(theta, head_dim)


class NTKAware(PositionLever):
    """A larger base: the fastest pair keeps its frequency, the slowest is divided by the factor, the rest in between.

    Works without fine-tuning; the reachable length stays somewhat below the nominal one.

    Source: arXiv 2309.00071, section 3.1 (after a community post, "NTK-aware scaled RoPE", 2023).
    """

    name: ClassVar[str] = "ntk"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({},)

    def stretch(self, rope: RopeSpec) -> Stretched:
        theta, inv_freq = ntk_aware(rope.rope_theta, rope.rotary_dim, self.factor)
        ratio = inv_freq / default_inv_freq(rope.rope_theta, rope.rotary_dim)
        native = {"rope_type": "default", "rope_theta": theta}
        return Stretched(rope.inv_freq * ratio, native=native if rope.method == "default" else None)
