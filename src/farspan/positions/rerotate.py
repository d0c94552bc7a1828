"""Turning cached keys from one frequency vector to another.

Keys are cached after rotation, so a change of frequencies leaves the old ones behind. Rotation is linear: turning a key
by its position times the difference of the frequencies gives exactly the key that the new frequencies would have given.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from farspan.errors import LeverNotApplicable

if TYPE_CHECKING:
    from transformers import Cache


def rotate_keys(
    keys: torch.Tensor, positions: torch.Tensor, inv_freq: torch.Tensor, interleaved: bool = False, scale: float = 1.0
) -> torch.Tensor:
    """Rotate each pair of channels by position times frequency, in float32.

    Parameters
    ----------
    keys : Tensor [batch, kv_heads, length, head_dim]; channels beyond the rotary ones pass through
    positions : Tensor [length] or [batch, length]
    inv_freq : Tensor [rotary_dim / 2], radians a token, negative to turn back
    interleaved : channel 2i is paired with 2i + 1, rather than i with i + rotary_dim / 2
    scale : factor on the rotary channels

    Returns
    -------
    Tensor like `keys`
    """
    return _turned(keys, *_rotation(positions, inv_freq, keys.device, scale), interleaved)


def _rotation(
    positions: torch.Tensor, inv_freq: torch.Tensor, device: torch.device, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, float32 [length, pairs] or [batch, 1, length, pairs]."""
    # Angles of long positions lose their fraction in float32, and not every accelerator has a wider type.
    wide = device if device.type in ("cpu", "cuda") else torch.device("cpu")
    angles = positions.to(wide).double()[..., None] * inv_freq.to(wide).double()
    angles = angles[:, None] if angles.ndim == 3 else angles
    return (scale * angles.cos()).float().to(device), (scale * angles.sin()).float().to(device)


def _turned(keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool) -> torch.Tensor:
    pairs = cos.shape[-1]
    turned = keys.clone()
    rotary = keys[..., : 2 * pairs].float()
    if interleaved:
        first, second = rotary[..., 0::2], rotary[..., 1::2]
        turned[..., 0 : 2 * pairs : 2] = (first * cos - second * sin).to(keys.dtype)
        turned[..., 1 : 2 * pairs : 2] = (second * cos + first * sin).to(keys.dtype)
    else:
        first, second = rotary[..., :pairs], rotary[..., pairs:]
        turned[..., :pairs] = (first * cos - second * sin).to(keys.dtype)
        turned[..., pairs : 2 * pairs] = (second * cos + first * sin).to(keys.dtype)
    return turned


def rerotate_cache_(
    cache: Cache,
    positions: torch.Tensor,
    old_inv_freq: torch.Tensor,
    new_inv_freq: torch.Tensor,
    *,
    layers: Iterable[int] | None = None,
    interleaved: bool = False,
    scale: float = 1.0,
) -> None:
    """Turn all cached keys, in place, from the old frequencies to the new ones.

    The result equals caching keys before rotation. It does not equal reading the context again under the new
    frequencies where the model has more than one layer: deeper keys and all values were computed under the old ones.

    Parameters
    ----------
    cache : of dynamic layers, sliding ones included
    positions : Tensor [length] or [batch, length], position of each cached token; a sliding layer takes its last ones
    old_inv_freq, new_inv_freq : Tensor [rotary_dim / 2]
    layers : indices of the layers to turn; all that hold keys if left out
    interleaved : channel 2i is paired with 2i + 1 (GLM, Cohere), rather than i with i + rotary_dim / 2
    scale : new attention factor over the old one

    Raises
    ------
    LeverNotApplicable : keys are quantised, offloaded or in preallocated (static) layers.

    Source: arXiv 2310.16450, section 3 (keys cached without positions), in the equivalent form of a second rotation.
    """
    difference = new_inv_freq.double() - old_inv_freq.double()
    if getattr(cache, "offloading", False):
        raise LeverNotApplicable(
            "cached keys cannot be re-rotated in an offloaded cache; use a dynamic one on the device"
        )
    wanted = range(len(cache.layers)) if layers is None else layers
    targets = [cache.layers[index] for index in wanted]
    for layer in targets:
        if hasattr(layer, "_quantized_keys") or hasattr(layer, "max_cache_len"):
            raise LeverNotApplicable(
                f"cached keys cannot be re-rotated in a {type(layer).__name__}; use transformers' dynamic cache"
            )
    # Layers share their angles: computing them once is most of the work saved.
    rotations: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}
    for layer in targets:
        keys = getattr(layer, "keys", None)
        if keys is not None and keys.numel():
            if keys.device not in rotations:
                rotations[keys.device] = _rotation(positions, difference, keys.device, scale)
            cos, sin = (part[..., -keys.shape[-2] :, :] for part in rotations[keys.device])
            turned = _turned(keys, cos, sin, interleaved)
            setattr(layer, "keys", turned)  # noqa: B010  not all kinds of layers declare keys


def pairs_interleaved(rotary: nn.Module, rotary_dim: int) -> bool:
    """Whether the model of a rotary module pairs neighbouring channels, found by turning one channel a quarter."""
    rotate = getattr(sys.modules[type(rotary).__module__], "apply_rotary_pos_emb", None)
    if rotate is None or list(inspect.signature(rotate).parameters)[:4] != ["q", "k", "cos", "sin"]:
        raise LeverNotApplicable(f"the pairing of rotary channels of {type(rotary).__name__} cannot be found out")
    unit = torch.zeros(1, 1, 1, rotary_dim)
    unit[..., 0] = 1
    turned = rotate(unit, unit, torch.zeros(1, 1, rotary_dim), torch.ones(1, 1, rotary_dim))[0].flatten()
    partner = int(turned.abs().argmax())
    if partner not in (1, rotary_dim // 2):
        raise LeverNotApplicable(
            f"{type(rotary).__name__} pairs rotary channel 0 with {partner}, which is not supported"
        )
    return partner == 1 and rotary_dim > 2
