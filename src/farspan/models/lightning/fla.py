"""Lightning attention through the kernels of flash-linear-attention, where that package is installed.

Its "simple gated linear attention" with one fixed decay a head and scale 1 is the operation. Its own function named
after lightning attention is a different one: it scales by the head size and derives other decays from the layer.

Source: github.com/fla-org/flash-linear-attention, fla/ops/simple_gla.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise

import torch
from torch import Tensor


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor,
    state: Tensor | None,
    bounds: Sequence[int] | None,
    *,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """As `tiled.run`."""
    chunk = import_module("fla.ops.simple_gla").chunk_simple_gla
    order = _backwards(q.shape[1], bounds, q.device) if reverse else None
    if order is not None:
        q, k, v = (x[:, order] for x in (q, k, v))
    output, final = chunk(
        q,
        k,
        v,
        g_gamma=-slopes.to(device=q.device, dtype=torch.float32),
        scale=1.0,
        initial_state=state,
        output_final_state=True,
        cu_seqlens=None if bounds is None else torch.tensor(bounds, device=q.device),
    )
    return (output if order is None else output[:, order]), final


def _backwards(length: int, bounds: Sequence[int] | None, device: torch.device) -> Tensor:
    """Indices that turn every sequence around where it stands; its own inverse."""
    bounds = [0, length] if bounds is None else bounds
    spans = [torch.arange(last - 1, first - 1, -1) for first, last in pairwise(bounds)]
    return torch.cat(spans).to(device)
