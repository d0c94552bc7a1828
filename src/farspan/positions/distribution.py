"""What DPRoPE decides on, laid open: distributions of single pairs, disturbances of all, totals of other methods.

For tables and figures; the decision itself is made in `dprope`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from farspan.errors import LeverNotApplicable
from farspan.positions.angles import angle_histogram, default_bins, disturbance_of
from farspan.positions.dprope import DPRoPE
from farspan.positions.lever import PositionLever
from farspan.positions.rope import get_rope
from farspan.recipe import build_lever

if TYPE_CHECKING:
    from transformers import PretrainedConfig

COMPARED = ("linear", "ntk", "yarn")
"""Methods whose totals stand beside the choice."""


@dataclass(frozen=True)
class PairDistribution:
    """Shares of positions over equal parts of the circle: of one pair as trained, if kept, and if interpolated.

    index : of the pair
    trained, kept, interpolated : one share a bin, each summing to 1; the first over the window, the others over the
        target
    """

    index: int
    trained: tuple[float, ...]
    kept: tuple[float, ...]
    interpolated: tuple[float, ...]


@dataclass(frozen=True)
class Distributions:
    """Everything DPRoPE weighs for one model and target.

    original_length, target_length : tokens
    bins : equal parts of the circle
    wavelengths : tokens of a full turn of each pair
    choice : name of the chosen candidate of each pair
    disturbance : nats of each pair, by candidate and under `chosen`
    totals : mean nats of whole vectors: the chosen one, keeping all, and other methods
    pairs : the distributions of a few telling pairs
    threshold : nats by which a candidate had to win, None where no threshold decided
    """

    original_length: int
    target_length: int
    bins: int
    wavelengths: tuple[float, ...]
    choice: tuple[str, ...]
    disturbance: dict[str, tuple[float, ...]]
    totals: dict[str, float]
    pairs: tuple[PairDistribution, ...]
    threshold: float | None


def distributions(config: PretrainedConfig, lever: DPRoPE) -> Distributions:
    """Lay open what the lever weighs for a model of this configuration.

    The telling pairs are the one that gains most by interpolation, of those that turn fully within the target, and the
    one that loses most by it, if any does.

    Raises
    ------
    LeverNotApplicable : no rotary positions, stretched already and not `compose`, or a factor of 1.
    """
    if lever.factor == 1:
        raise LeverNotApplicable("distributions are compared between two windows; choose a target above the window")
    lever.plan(config)
    rope = get_rope(config, lever.layer_type)
    length, target = rope.target_length, round(rope.target_length * lever.factor)
    bins = lever.bins or default_bins(length)
    found = lever.choose(rope)
    vectors = {"chosen": found.inv_freq, "keep": rope.inv_freq}
    for name in COMPARED:
        other = build_lever(name, {"factor": lever.factor})
        assert isinstance(other, PositionLever)
        vectors[name] = other.stretch(rope).inv_freq
    totals = {
        name: disturbance_of(vector, rope.inv_freq, length, target, bins, lever.epsilon, lever.weighting)
        for name, vector in vectors.items()
    }
    factor = target / length
    trained, kept, divided = (
        angle_histogram(vector, span, bins, lever.weighting)
        for vector, span in ((rope.inv_freq, length), (rope.inv_freq, target), (rope.inv_freq / factor, target))
    )
    first, *others = found.disturbance.values()
    gain = first - others[0]
    turning = rope.inv_freq * target >= 2 * math.pi
    shown = gain.masked_fill(~turning, -math.inf) if turning.any() else gain
    telling = [int(shown.argmax()), *([int(gain.argmin())] if gain.min() < 0 else [])]
    return Distributions(
        original_length=length,
        target_length=target,
        bins=bins,
        wavelengths=tuple(rope.wavelengths.tolist()),
        choice=found.choice,
        disturbance={name: tuple(values.tolist()) for name, values in found.disturbance.items()},
        totals=totals,
        pairs=tuple(
            PairDistribution(
                index, tuple(trained[index].tolist()), tuple(kept[index].tolist()), tuple(divided[index].tolist())
            )
            for index in telling
        ),
        threshold=found.threshold,
    )
