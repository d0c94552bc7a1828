"""DPRoPE: each rotary pair is kept or interpolated, whichever disturbs its distribution of angles less.

The distributions and their divergence are in `angles`; here is the choice between candidates, and the lever.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, TypeAlias

import torch
from pydantic import Field, model_validator

from farspan.errors import LeverNotApplicable
from farspan.positions.angles import (
    EPSILON,
    Weighting,
    angle_histogram,
    default_bins,
    disturbance,
    released_disturbance,
    released_histogram,
)
from farspan.positions.lever import PositionLever, Stretched
from farspan.positions.rope import RopeSpec
from farspan.recipe import build_lever

Rule: TypeAlias = Literal["free", "monotone", "continuous"]
Candidate: TypeAlias = Literal["keep", "linear", "ntk", "yarn", "llama3"]

THRESHOLDS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2)
TOLERATED = 1.1
GRID = 32
FORBIDDEN = 1e6  # nats; far above any divergence


@dataclass(frozen=True, eq=False)
class DpropeResult:
    """What was chosen for each pair, and what it costs.

    inv_freq : Tensor [pairs], float64, the chosen frequencies
    choice : name of the chosen candidate of each pair; `between` where the divisor lies between 1 and the factor
    disturbance : for each candidate Tensor [pairs], in nats, and under `chosen` that of the result
    total : mean of `chosen`
    threshold : by how much another candidate had to beat the first, None where a number of pairs or a cut decided
    """

    inv_freq: torch.Tensor
    choice: tuple[str, ...]
    disturbance: dict[str, torch.Tensor]
    total: float
    threshold: float | None = None


def dprope_vector(
    inv_freq: torch.Tensor,
    original_length: int,
    target_length: int,
    *,
    bins: int | None = None,
    epsilon: float = EPSILON,
    threshold: float | Literal["auto"] = "auto",
    num_interpolated_dims: int | Literal["auto"] | None = None,
    candidates: Mapping[str, torch.Tensor] | None = None,
    variant: Literal["paper", "code"] = "paper",
    rule: Rule = "free",
    weighting: Weighting = "uniform",
    stretch_slow: bool = False,
) -> DpropeResult:
    """Choose, pair by pair, the candidate whose angles over the target window differ least from the trained ones.

    Parameters
    ----------
    inv_freq : Tensor [pairs], frequencies the model was trained with
    original_length, target_length : tokens
    bins : equal parts of the circle; see `default_bins`
    epsilon : see `disturbance`
    threshold : nats by which another candidate must beat the first one; `auto` takes the largest of `THRESHOLDS` that
        adds no more than a tenth to the total at 0, since small differences between fast pairs are noise
    num_interpolated_dims : change so many dimensions, two a pair, where the gain is largest, instead of a threshold;
        `auto` is the paper's share: 80 of 128 dimensions up to a factor of 2, 64 from 4 on
    candidates : names to vectors, the first one kept unless beaten; `keep` and `linear` if left out
    variant : `code` decides as the authors' program does, see `released_disturbance`, by the smallest value alone
    rule : `free` decides each pair on its own; `monotone` takes the first candidate below one cut and the best other
        from it on; `continuous` divides by a factor between 1 and the whole, never smaller than the pair before
    weighting : see `angle_histogram`
    stretch_slow : never keep a pair that makes no full turn within the target. It is led into new angles, which bins
        wider than these angles do not show: the paper's rule, blind there, keeps it

    Raises
    ------
    LeverNotApplicable : the target is not above the window, or a setting is out of range.

    Source: arXiv 2410.01490, sections 3.2 and 3.3.
    """
    factor = _checked_factor(original_length, target_length)
    parts = _checked_bins(bins, original_length)
    given = dict(candidates) if candidates is not None else {"keep": inv_freq, "linear": inv_freq / factor}
    if not given or any(vector.shape != inv_freq.shape for vector in given.values()):
        raise LeverNotApplicable(f"candidates must be vectors of {inv_freq.shape[0]} frequencies, at least one of them")
    if variant == "code":
        _refuse_with_code(rule, threshold, num_interpolated_dims, weighting)
        was = released_histogram(inv_freq, original_length, parts)
        costs = {
            name: released_disturbance(released_histogram(vector, target_length, parts), was).double()
            for name, vector in given.items()
        }
        return _picked(given, costs, torch.stack(list(costs.values())).argmin(0), None)
    trained = angle_histogram(inv_freq, original_length, parts, weighting)

    def cost(vector: torch.Tensor) -> torch.Tensor:
        return disturbance(angle_histogram(vector, target_length, parts, weighting), trained, epsilon)

    costs = {name: cost(vector) for name, vector in given.items()}
    slow = (inv_freq * target_length < 2 * math.pi) & stretch_slow
    if rule == "continuous":
        divisors = torch.logspace(0, math.log10(factor), GRID, dtype=torch.float64)
        grid = torch.stack([cost(inv_freq / by) for by in divisors])
        return _between(inv_freq.double(), divisors, grid, slow, costs)
    if len(given) == 1:
        return _picked(given, costs, torch.zeros(inv_freq.shape[0], dtype=torch.long), None)
    stacked = torch.stack(list(costs.values()))
    stacked[0, slow] = FORBIDDEN
    if rule == "monotone":
        return _picked(given, costs, cut_choice(stacked), None)
    if num_interpolated_dims is not None:
        dims = 2 * inv_freq.shape[0]
        wanted = interpolated_dims(dims, factor) if num_interpolated_dims == "auto" else num_interpolated_dims
        return _picked(given, costs, count_choice(stacked, wanted), None)
    level = settled_threshold(stacked) if threshold == "auto" else threshold
    return _picked(given, costs, threshold_choice(stacked, level), level)


def threshold_choice(costs: torch.Tensor, threshold: float) -> torch.Tensor:
    """The best other candidate where it beats the first by more than the threshold, else the first.

    Parameters
    ----------
    costs : Tensor [candidates, pairs]
    threshold : nats

    Returns
    -------
    Tensor [pairs] of candidate indices
    """
    least, which = costs[1:].min(0)
    return torch.where(costs[0] > least + threshold, which + 1, 0)


def settled_threshold(costs: torch.Tensor) -> float:
    """The largest of `THRESHOLDS` whose total is within a tenth of the total at 0."""

    def total(threshold: float) -> float:
        return float(costs.gather(0, threshold_choice(costs, threshold)[None]).sum())

    best = total(0.0)
    # Divergences with epsilon can fall a little below 0, where a ratio would mean nothing.
    limit = best + (TOLERATED - 1) * abs(best)
    return max(level for level in THRESHOLDS if total(level) <= limit)


def count_choice(costs: torch.Tensor, dims: int) -> torch.Tensor:
    """The best other candidate for the `dims / 2` pairs that gain most by it; of equal gains the faster pair's first.

    Parameters
    ----------
    costs : Tensor [candidates, pairs]
    dims : even, at most twice the number of pairs

    Returns
    -------
    Tensor [pairs] of candidate indices
    """
    pairs = costs.shape[1]
    if dims % 2 or not 0 <= dims <= 2 * pairs:
        raise LeverNotApplicable(
            f"num_interpolated_dims must be an even number from 0 to {2 * pairs}, two dimensions a pair, not {dims}"
        )
    least, which = costs[1:].min(0)
    first = torch.argsort(costs[0] - least, descending=True, stable=True)[: dims // 2]
    chosen = torch.zeros(pairs, dtype=torch.long)
    chosen[first] = which[first] + 1
    return chosen


def cut_choice(costs: torch.Tensor) -> torch.Tensor:
    """The first candidate below one cut and the best other from it on, with the smallest total; of equals the latest.

    Parameters
    ----------
    costs : Tensor [candidates, pairs]

    Returns
    -------
    Tensor [pairs] of candidate indices
    """
    least, which = costs[1:].min(0)
    pairs = costs.shape[1]
    nothing = torch.zeros(1, dtype=costs.dtype)
    below = torch.cat([nothing, costs[0].cumsum(0)])
    above = torch.cat([least.flip(0).cumsum(0).flip(0), nothing])
    cut = pairs - int((below + above).flip(0).argmin())
    return torch.where(torch.arange(pairs) < cut, 0, which + 1)


def rising_choice(costs: torch.Tensor) -> torch.Tensor:
    """Of one row of rising divisors for each pair, the choice with the smallest total that never falls along the pairs.

    Parameters
    ----------
    costs : Tensor [divisors, pairs]

    Returns
    -------
    Tensor [pairs] of divisor indices, non-decreasing
    """
    divisors, pairs = costs.shape
    back = torch.empty(pairs, divisors, dtype=torch.long)
    reached = torch.zeros(divisors, dtype=costs.dtype)
    for pair in range(pairs):
        # The cheapest way to stand at or below each divisor with the pair before.
        best, back[pair] = reached.cummin(0)
        reached = best + costs[:, pair]
    chosen = torch.empty(pairs, dtype=torch.long)
    at = int(reached.argmin())
    for pair in reversed(range(pairs)):
        chosen[pair] = at
        at = int(back[pair, at])
    return chosen


def interpolated_dims(rotary_dim: int, factor: float) -> int:
    """The paper's number of changed dimensions: 80 of 128 up to a factor of 2, 64 from 4 on, even in between.

    Source: arXiv 2410.01490, section 4.1; the line between its two settings, over the logarithm of the factor, is ours.
    """
    share = 0.625 - 0.125 * min(1.0, max(0.0, math.log2(factor) - 1))
    return 2 * round(rotary_dim * share / 2)


def _picked(
    vectors: Mapping[str, torch.Tensor], costs: dict[str, torch.Tensor], chosen: torch.Tensor, threshold: float | None
) -> DpropeResult:
    names = list(vectors)
    inv_freq = torch.stack([vector.double() for vector in vectors.values()]).gather(0, chosen[None])[0]
    paid = torch.stack(list(costs.values())).gather(0, chosen[None])[0]
    choice = tuple(names[index] for index in chosen.tolist())
    return DpropeResult(inv_freq, choice, {**costs, "chosen": paid}, float(paid.mean()), threshold)


def _between(
    inv_freq: torch.Tensor,
    divisors: torch.Tensor,
    grid: torch.Tensor,
    slow: torch.Tensor,
    costs: dict[str, torch.Tensor],
) -> DpropeResult:
    allowed = grid.clone()
    allowed[:-1, slow] = FORBIDDEN
    chosen = rising_choice(allowed)
    paid = grid.gather(0, chosen[None])[0]
    ends = {0: "keep", len(divisors) - 1: "linear"}
    choice = tuple(ends.get(index, "between") for index in chosen.tolist())
    return DpropeResult(inv_freq / divisors[chosen], choice, {**costs, "chosen": paid}, float(paid.mean()))


def _refuse_with_code(rule: Rule, threshold: object, number: object, weighting: Weighting) -> None:
    if rule != "free" or threshold != "auto" or number is not None or weighting != "uniform":
        raise LeverNotApplicable(
            "variant code knows neither rule, threshold, number nor weighting; leave them out, or take variant paper"
        )


def _checked_factor(original_length: int, target_length: int) -> float:
    if target_length <= original_length:
        raise LeverNotApplicable(
            f"target length {target_length} is not above the window of {original_length} tokens; choose a longer one"
        )
    return target_length / original_length


def _checked_bins(bins: int | None, original_length: int) -> int:
    if bins is None:
        return default_bins(original_length)
    if bins > original_length / 8:
        warnings.warn(
            f"{bins} bins are many for a window of {original_length} tokens; at most an eighth, "
            f"{default_bins(original_length)}, keeps the counts from being noise",
            stacklevel=3,
        )
    return bins


class DPRoPE(PositionLever):
    """Of keeping a pair and dividing it by the factor, whichever leads it less into angles it has rarely met.

    Decided from vectors alone, in seconds, before anything runs. With a large base and a long window every angle has
    been met, and the choice among fast pairs is noise; `threshold` and `rule` keep it sensible there.

    Fields
    ------
    bins, epsilon, threshold, num_interpolated_dims, variant, rule, weighting, stretch_slow : see `dprope_vector`
    candidates : what a pair may become, the first one unless beaten
    attention_factor : factor on cos and sin; the method itself has none

    Source: arXiv 2410.01490, section 3.
    """

    name: ClassVar[str] = "dprope"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({},)

    bins: int | None = Field(default=None, ge=2)
    epsilon: float = Field(default=EPSILON, gt=0, allow_inf_nan=False)
    threshold: float | Literal["auto"] = "auto"
    num_interpolated_dims: int | Literal["auto"] | None = None
    candidates: tuple[Candidate, ...] = ("keep", "linear")
    variant: Literal["paper", "code"] = "paper"
    rule: Rule = "free"
    weighting: Weighting = "uniform"
    stretch_slow: bool = True
    attention_factor: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_decision(self) -> DPRoPE:
        if len(set(self.candidates)) != len(self.candidates) or len(self.candidates) < 2:
            raise ValueError("candidates must be two or more different ones")
        if self.num_interpolated_dims is not None and self.threshold != "auto":
            raise ValueError("threshold and num_interpolated_dims exclude each other")
        if isinstance(self.num_interpolated_dims, int) and (
            self.num_interpolated_dims < 0 or self.num_interpolated_dims % 2
        ):
            raise ValueError("num_interpolated_dims must be even and not negative, two dimensions a pair")
        return self

    def choose(self, rope: RopeSpec) -> DpropeResult:
        """What becomes of each pair of a model with these positions."""
        candidates = tuple((name, tuple(self._candidate(rope, name).tolist())) for name in self.candidates)
        return _chosen(self, tuple(rope.inv_freq.tolist()), candidates, rope.target_length)

    def stretch(self, rope: RopeSpec) -> Stretched:
        return Stretched(self.choose(rope).inv_freq.clone(), self.attention_factor or 1.0)

    def _candidate(self, rope: RopeSpec, name: Candidate) -> torch.Tensor:
        if name == "keep":
            return rope.inv_freq
        lever = build_lever(name, {"factor": self.factor})
        assert isinstance(lever, PositionLever)
        return lever.stretch(rope).inv_freq


@lru_cache(maxsize=32)
def _chosen(
    lever: DPRoPE, inv_freq: tuple[float, ...], candidates: tuple[tuple[str, tuple[float, ...]], ...], length: int
) -> DpropeResult:
    """The choice for plain numbers, remembered: one lever is planned several times, and a long target takes seconds."""
    return dprope_vector(
        torch.tensor(inv_freq, dtype=torch.float64),
        length,
        round(length * lever.factor),
        candidates={name: torch.tensor(vector, dtype=torch.float64) for name, vector in candidates},
        bins=lever.bins,
        epsilon=lever.epsilon,
        threshold=lever.threshold,
        num_interpolated_dims=lever.num_interpolated_dims,
        variant=lever.variant,
        rule=lever.rule,
        weighting=lever.weighting,
        stretch_slow=lever.stretch_slow,
    )
