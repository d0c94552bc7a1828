"""The frequency vectors of Giraffe composed: linear, then power, then truncation, each optional."""

from __future__ import annotations

import torch

from farspan.positions.linear import linear_vector
from farspan.positions.power_basis import power_vector
from farspan.positions.rope import default_inv_freq
from farspan.positions.truncated_basis import truncated_vector


def giraffe_vector(
    rope_theta: float, head_dim: int, scale: float = 1.0, power: float = 0.0, truncate: int = 0
) -> torch.Tensor:
    """Frequencies after linear interpolation, the power law and truncation, in this order.

    Parameters
    ----------
    rope_theta : base
    head_dim : rotary channels of a head
    scale : divide by this first; 1 for no interpolation
    power : exponent of the power law; 0 for none
    truncate : length within which a kept pair completes a turn, after the other two; 0 for no truncation

    Returns
    -------
    Tensor [head_dim / 2], float64

    Source: arXiv 2308.10882, section 4.
    """
    inv_freq = power_vector(linear_vector(default_inv_freq(rope_theta, head_dim), scale), power)
    return truncated_vector(inv_freq, truncate) if truncate else inv_freq
