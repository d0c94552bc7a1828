"""Lightning attention in tiles, in plain torch: a masked product inside each tile, a running state across tiles.

All tiles of a stretch go through three batched products; only the small states are updated one after the other. No
gradients here: the backward pass of `op.py` is this same function with its arguments exchanged.

Source: arXiv 2401.04658 (Lightning Attention-2), algorithm 1; arXiv 2501.08313 (MiniMax-01), section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TILE = 64
# tokens that go through the batched products at once: their tiles should stay in the processor's cache
STRETCH = 4096


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor,
    state: Tensor | None,
    bounds: Sequence[int] | None,
    *,
    tile: int = TILE,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Output and final state of every sequence.

    Parameters
    ----------
    q, k, v : Tensor [batch, length, heads, dim]; keys and queries may be wider than values
    slopes : Tensor [heads]
    state : Tensor [sequences, heads, key_dim, value_dim] before the first token, or None for zeros
    bounds : where sequences packed into one row begin, and the total; None for one sequence a row
    reverse : time runs from the last token to the first

    Returns
    -------
    (output, state) : [batch, length, heads, value_dim] in the dtype of `v`, and the state after the last token, in
        float32, or float64 for float64 inputs
    """
    precision = torch.float64 if q.dtype == torch.float64 else torch.float32
    sequences = len(q) if bounds is None else len(bounds) - 1
    final = q.new_zeros(sequences, q.shape[2], q.shape[3], v.shape[3], dtype=precision)
    if state is not None:
        final.copy_(state)
    output = torch.empty_like(v)
    rates = slopes.to(device=q.device, dtype=precision)
    if bounds is None:
        _sequence(q, k, v, rates, final, output, tile, reverse)
        return output, final
    for index in range(sequences):
        span = slice(bounds[index], bounds[index + 1])
        part = final[index : index + 1]
        _sequence(q[:, span], k[:, span], v[:, span], rates, part, output[:, span], tile, reverse)
    return output, final


def _sequence(
    q: Tensor, k: Tensor, v: Tensor, rates: Tensor, state: Tensor, output: Tensor, tile: int, reverse: bool
) -> None:
    """Write the output of one sequence a row and update `state` in place."""
    length, stretch = q.shape[1], max(STRETCH // tile, 1) * tile
    for start in range(0, length, stretch):
        stop = min(start + stretch, length)
        whole = start + (stop - start) // tile * tile
        for first, last, size in ((start, whole, tile), (whole, stop, stop - whole)):
            if first == last:
                continue
            if reverse:
                span = slice(length - last, length - first)
                late = (q[:, span].flip(1), k[:, span].flip(1), v[:, span].flip(1))
                output[:, span] = _tiles(*late, rates, state, size).flip(1)
            else:
                span = slice(first, last)
                output[:, span] = _tiles(q[:, span], k[:, span], v[:, span], rates, state, size)


def _tiles(q: Tensor, k: Tensor, v: Tensor, rates: Tensor, state: Tensor, size: int) -> Tensor:
    """Output of whole tiles, [batch, length, heads, value_dim]; `state` moves on in place."""
    tiles, heads = q.shape[1] // size, q.shape[2]
    q, k, v = (_by_tile(x, size, state.dtype) for x in (q, k, v))
    index = torch.arange(size, device=q.device, dtype=state.dtype)
    rate = rates.view(heads, 1, 1)
    apart = index[:, None] - index
    # exponents of cells above the diagonal would be positive; they are cut before exp, not after
    inside = torch.exp(-rate * apart.clamp(min=0)).tril_()
    since_start = torch.exp(-rate * (index + 1)[:, None])
    until_end = torch.exp(-rate * (size - 1 - index)[:, None])
    across = torch.exp(-rate * size)

    gained = (k * until_end[:, None]).transpose(-1, -2) @ v
    before = torch.empty_like(gained)
    for t in range(tiles):
        before[:, :, t] = state
        state.mul_(across).add_(gained[:, :, t])
    scores = (q @ k.transpose(-1, -2)).mul_(inside[:, None])
    output = (scores @ v).add_((q * since_start[:, None]) @ before)
    return output.permute(0, 2, 3, 1, 4).flatten(1, 2)


def _by_tile(x: Tensor, size: int, precision: torch.dtype) -> Tensor:
    """[batch, length, heads, dim] -> [batch, heads, tiles, size, dim]"""
    return x.reshape(len(x), -1, size, *x.shape[2:]).permute(0, 3, 1, 2, 4).to(precision).contiguous()
