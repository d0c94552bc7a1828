"""What a method does to each rotary pair, row by row: for tables and figures, before anything is changed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from farspan.errors import LeverNotApplicable
from farspan.positions.rope import RopeSpec

Fate: TypeAlias = Literal["kept", "interpolated", "between", "slowed", "faster", "at rest"]

TOLERANCE = 1e-4


@dataclass(frozen=True)
class PairRow:
    """One rotary pair before and after.

    index : of the pair, the fastest first in most models
    frequency, new_frequency : radians a token
    wavelength, new_wavelength : tokens of one full turn, infinite at rest
    turns, new_turns : full turns within the native window before, and within the target window after
    divisor : frequency over new frequency, infinite at rest
    fate : `kept`; `interpolated` by the whole factor; `between` the two; `slowed` by more than the factor; `faster`;
        `at rest`, where the pair no longer sees distance
    """

    index: int
    frequency: float
    new_frequency: float
    wavelength: float
    new_wavelength: float
    turns: float
    new_turns: float
    divisor: float
    fate: Fate


def pair_rows(before: RopeSpec, after: RopeSpec) -> list[PairRow]:
    """Every pair of a model, as it is and as a plan makes it.

    Parameters
    ----------
    before, after : positions of the same model; the same twice for a model that is only shown

    Raises
    ------
    LeverNotApplicable : the two have different numbers of pairs.
    """
    if before.inv_freq.shape != after.inv_freq.shape:
        raise LeverNotApplicable(
            f"positions of {before.inv_freq.numel()} and {after.inv_freq.numel()} pairs cannot be compared"
        )
    factor = after.target_length / before.target_length
    pairs = zip(before.inv_freq.tolist(), after.inv_freq.tolist(), strict=True)
    return [
        PairRow(
            index=index,
            frequency=old,
            new_frequency=new,
            wavelength=_over(2 * math.pi, old),
            new_wavelength=_over(2 * math.pi, new),
            turns=old * before.target_length / (2 * math.pi),
            new_turns=new * after.target_length / (2 * math.pi),
            divisor=1.0 if old == new else _over(old, new),
            fate=fate_of(old, new, factor),
        )
        for index, (old, new) in enumerate(pairs)
    ]


def fate_of(old: float, new: float, factor: float) -> Fate:
    """What became of a pair whose window grew by `factor`; see `PairRow`."""
    if new == 0:
        return "at rest"
    divisor = old / new
    if abs(divisor - 1) <= TOLERANCE:
        return "kept"
    if divisor < 1:
        return "faster"
    if abs(divisor / factor - 1) <= TOLERANCE:
        return "interpolated"
    return "between" if divisor < factor else "slowed"


def _over(above: float, below: float) -> float:
    return above / below if below else math.inf
