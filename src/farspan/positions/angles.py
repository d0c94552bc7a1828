"""How often each rotary pair meets each angle, and how far stretching moves that distribution.

A pair of frequency f turns to the angle `m f` modulo a full turn at position m. Over a window these angles fill the
circle, or a part of it; a stretched vector is judged by how much it disturbs what training has filled. Only vectors and
lengths are read here: no model is run.

Source: arXiv 2410.01490, sections 3.1 and 3.2.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch

from farspan.errors import LeverNotApplicable

Weighting: TypeAlias = Literal["uniform", "relative"]

EPSILON = 4e-4
"""Added to both sides of the divergence, which else is infinite where training left a bin empty. The paper calls it
very small; this value comes nearest to the disturbances it tabulates."""
BINS = 360
CHUNK = 1 << 17  # angles at a time, as many as a processor's cache holds
FLOAT16_TINY = 6.103515625e-5


def default_bins(original_length: int) -> int:
    """Bins for a window: 360, or an eighth of the window where that is less, since thinner bins count noise."""
    return min(BINS, max(8, original_length // 8))


def angle_histogram(
    inv_freq: torch.Tensor, length: int, bins: int = BINS, weighting: Weighting = "uniform"
) -> torch.Tensor:
    """Shares of the positions 0 to length - 1 at which each pair's angle falls into each bin of the circle.

    Angles are taken in float64: in float32 they drift by whole bins at positions beyond about 1e5.

    Parameters
    ----------
    inv_freq : Tensor [pairs], radians a token
    length : tokens
    bins : equal parts of the circle, at least 2
    weighting : `uniform` counts every position once; `relative` counts m `length - m` times, as often as two tokens
        of a causal window lie m apart, because only distances reach the scores

    Returns
    -------
    Tensor [pairs, bins], float64, rows summing to 1
    """
    _check(bins, length)
    # In units of a bin, the angle within its turn is a remainder of whole numbers, five times as fast as one of floats.
    bins_a_token = inv_freq.detach().cpu().double() * (bins / (2 * math.pi))
    pairs = bins_a_token.shape[0]
    counts = torch.zeros(pairs * bins, dtype=torch.float64)
    offsets = torch.arange(pairs)[:, None] * bins
    step = max(1, CHUNK // max(1, pairs))
    for start in range(0, length, step):
        positions = torch.arange(start, min(start + step, length), dtype=torch.float64)
        flat = (bins_a_token[:, None] * positions).long().remainder_(bins).add_(offsets).flatten()
        if weighting == "relative":
            weights = (length - positions).expand(pairs, -1).flatten()
            counts += torch.bincount(flat, weights=weights, minlength=pairs * bins)
        else:
            counts += torch.bincount(flat, minlength=pairs * bins)
    histogram = counts.view(pairs, bins)
    return histogram / histogram.sum(-1, keepdim=True)


def disturbance(extended: torch.Tensor, trained: torch.Tensor, epsilon: float = EPSILON) -> torch.Tensor:
    """Divergence of the extended distribution from the trained one, `sum Q ln((Q + e) / (P + e))`.

    Parameters
    ----------
    extended, trained : Tensor [pairs, bins], the distributions Q and P
    epsilon : e above, above 0

    Returns
    -------
    Tensor [pairs], float64, in nats; 0 for equal distributions, and never far below it
    """
    _check_epsilon(epsilon)
    return (extended * ((extended + epsilon) / (trained + epsilon)).log()).sum(-1)


def disturbance_of(
    new_inv_freq: torch.Tensor,
    old_inv_freq: torch.Tensor,
    original_length: int,
    target_length: int,
    bins: int | None = None,
    epsilon: float = EPSILON,
    weighting: Weighting = "uniform",
) -> float:
    """Mean disturbance of a whole vector over the target window: a score for any method that needs no model run.

    Parameters
    ----------
    new_inv_freq, old_inv_freq : Tensor [pairs], stretched and trained frequencies
    original_length, target_length : tokens
    bins : equal parts of the circle; see `default_bins`
    epsilon, weighting : see `disturbance` and `angle_histogram`

    Returns
    -------
    Nats, a mean over the pairs.
    """
    parts = default_bins(original_length) if bins is None else bins
    trained = angle_histogram(old_inv_freq, original_length, parts, weighting)
    extended = angle_histogram(new_inv_freq, target_length, parts, weighting)
    return float(disturbance(extended, trained, epsilon).mean())


def released_histogram(inv_freq: torch.Tensor, length: int, bins: int = BINS) -> torch.Tensor:
    """The distribution as the authors' program counts it: float32 angles, and a small count added to every bin.

    Returns
    -------
    Tensor [pairs, bins], float32, rows summing to a little more than 1
    """
    _check(bins, length)
    frequencies = inv_freq.detach().cpu().float()
    pairs = frequencies.shape[0]
    counts = torch.zeros(pairs, bins, dtype=torch.float32)
    step = max(1, CHUNK // max(1, pairs))
    for start in range(0, length, step):
        positions = torch.arange(start, min(start + step, length), dtype=torch.float32)
        angles = torch.remainder(positions[None] * frequencies[:, None], 2 * math.pi)
        index = (angles * (bins / (2 * math.pi))).floor_().long().clamp_(max=bins - 1)
        counts.scatter_add_(1, index, torch.ones_like(angles))
    return (counts + FLOAT16_TINY) / length


def released_disturbance(extended: torch.Tensor, trained: torch.Tensor) -> torch.Tensor:
    """The divergence as the authors' program takes it: of the trained distribution from the extended one, a bin's mean.

    The direction is opposite to the paper's equation.

    Returns
    -------
    Tensor [pairs]
    """
    return (trained * (trained.log() - extended.log())).mean(-1)


def _check(bins: int, length: int) -> None:
    if bins < 2:
        raise LeverNotApplicable(f"a distribution of angles needs at least 2 bins, not {bins}")
    if length < 1:
        raise LeverNotApplicable(f"a distribution of angles needs a length of at least 1 token, not {length}")


def _check_epsilon(epsilon: float) -> None:
    if not 0 < epsilon < math.inf:
        raise LeverNotApplicable(
            f"epsilon must be above 0, not {epsilon}; at 0 an empty bin makes the divergence infinite"
        )
