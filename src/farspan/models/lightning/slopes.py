"""Decay slopes of lightning attention, and where its softmax layers stand: numbers that follow from sizes alone.

They are computed when needed, in float32, and never stored in a checkpoint: half precision would round the smallest
decays of the deepest layer to zero.

Source: arXiv 2501.08313 (MiniMax-01), section 2.2; the rule for head counts that are no power of two is that of
arXiv 2108.12409 (ALiBi), appendix A.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from farspan.errors import FarspanError

LINEAR, FULL = "linear_attention", "full_attention"


class LightningError(FarspanError):
    """Sizes, slopes or layouts that lightning attention cannot take."""


def decay_slopes(num_heads: int, layer_idx: int | None = None, num_layers: int | None = None) -> Tensor:
    """Decay rate of each head: a state shrinks by exp(-slope) with every token.

    Parameters
    ----------
    num_heads : heads of the layer
    layer_idx, num_layers : depth of the layer; deeper layers forget less. Without them, the slopes before that factor

    Returns
    -------
    Tensor [num_heads], float32

    Raises
    ------
    LightningError : no heads, or a layer outside the model.
    """
    if num_heads < 1:
        raise LightningError(f"num_heads must be at least 1, not {num_heads}")
    factor = 1.0
    if layer_idx is not None:
        if num_layers is None or not 0 <= layer_idx < num_layers:
            raise LightningError(f"layer_idx {layer_idx} is outside a model of {num_layers} layers")
        factor = 1.0 - layer_idx / max(num_layers - 1, 1) + 1e-5
    # on the CPU even while a model is built without memory: nothing would fill them later
    return torch.tensor([slope * factor for slope in _geometric(num_heads)], dtype=torch.float32, device="cpu")


def _geometric(num_heads: int) -> list[float]:
    if num_heads & (num_heads - 1) == 0:
        return [2.0 ** (-8.0 * (head + 1) / num_heads) for head in range(num_heads)]
    below = 1 << math.floor(math.log2(num_heads))
    return _geometric(below) + _geometric(2 * below)[::2][: num_heads - below]


def hybrid_layer_types(num_layers: int, softmax_every: int = 8) -> list[str]:
    """Layer types of a hybrid: every `softmax_every`-th layer full attention, all others linear.

    Parameters
    ----------
    softmax_every : 8 is seven linear layers before each softmax layer; 1 is a plain Transformer
    """
    if num_layers < 1 or softmax_every < 1:
        raise LightningError(f"need at least one layer and softmax_every >= 1, given {num_layers} and {softmax_every}")
    return [FULL if (index + 1) % softmax_every == 0 else LINEAR for index in range(num_layers)]


def check_slopes(slopes: Tensor, num_heads: int) -> None:
    """Raise `LightningError` unless there is one slope, not negative, for each head."""
    if slopes.shape != (num_heads,):
        raise LightningError(f"slopes must have shape ({num_heads},), one for each head, not {tuple(slopes.shape)}")


def softmax_layers(layer_types: Sequence[str]) -> list[int]:
    """Indices of the layers that attend with softmax."""
    return [index for index, kind in enumerate(layer_types) if kind != LINEAR]
