"""Which tokens of a sequence each rank holds, and moving whole sequences into shards and back.

Causal attention gives late tokens more work than early ones. Contiguous shards are uneven; zigzag gives every rank one
early and one late chunk, which is even; striped deals tokens out in turn, which is nearly even for any length.

Source: arXiv 2310.01889 (contiguous), arXiv 2311.09431 (striped); zigzag is common practice of ring attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from farspan.errors import FarspanError
from farspan.training.parallel.communicator import Group, communicator

Layout = Literal["contiguous", "zigzag", "striped"]
LAYOUTS: tuple[Layout, ...] = ("contiguous", "zigzag", "striped")


class ParallelError(FarspanError):
    """Sizes, layouts or strategies that sequence parallelism cannot take."""


def layout_indices(length: int, world_size: int, layout: Layout) -> list[Tensor]:
    """Positions that each rank holds, in the order it holds them.

    Parameters
    ----------
    length : tokens of the whole sequence
    layout : `contiguous`, `zigzag` or `striped`

    Returns
    -------
    One integer Tensor [length / world_size] a rank

    Raises
    ------
    ParallelError : a length the layout cannot divide; `padded_length` is the next it can.
    """
    unit = _unit(world_size, layout)
    if length < 1 or length % unit:
        raise ParallelError(
            f"a {layout} layout over {world_size} ranks needs a length divisible by {unit}, not {length}; "
            f"pad to {padded_length(max(length, 1), world_size, layout)}"
        )
    positions = torch.arange(length)
    if layout == "striped":
        return [positions[rank::world_size] for rank in range(world_size)]
    if layout == "contiguous":
        return list(positions.chunk(world_size))
    chunks = positions.chunk(2 * world_size)
    return [torch.cat([chunks[rank], chunks[-1 - rank]]) for rank in range(world_size)]


def padded_length(length: int, world_size: int, layout: Layout) -> int:
    """The smallest length of at least `length` that the layout divides."""
    unit = _unit(world_size, layout)
    return -(-length // unit) * unit


def _unit(world_size: int, layout: Layout) -> int:
    if world_size < 1 or layout not in LAYOUTS:
        raise ParallelError(
            f"need world_size >= 1 and a layout of {', '.join(LAYOUTS)}; given {world_size}, {layout!r}"
        )
    return 2 * world_size if layout == "zigzag" else world_size


def causal_cells(indices: Sequence[Tensor]) -> list[int]:
    """Query-key pairs that each rank computes for its own queries under a causal mask."""
    return [int((positions + 1).sum()) for positions in indices]


def imbalance(indices: Sequence[Tensor]) -> float:
    """Work of the busiest rank over the mean; 1 is even."""
    cells = causal_cells(indices)
    return max(cells) * len(cells) / sum(cells)


def shard_sequence(
    x: Tensor, group: Group, layout: Layout = "zigzag", dim: int = 1, *, pad: bool = False, pad_value: float = 0.0
) -> Tensor:
    """This rank's shard of a sequence that every rank holds whole.

    Parameters
    ----------
    dim : the dimension of tokens
    pad : fill up with `pad_value` at the end where the length does not divide; else that is an error

    Raises
    ------
    ParallelError : the length does not divide and `pad` is False.
    """
    ranks = communicator(group)
    length = x.shape[dim]
    whole = padded_length(length, ranks.size, layout) if pad else length
    positions = layout_indices(whole, ranks.size, layout)[ranks.rank].to(x.device)
    if whole > length:
        x = F.pad(x.transpose(dim, -1), (0, whole - length), value=pad_value).transpose(dim, -1)
    return x.index_select(dim, positions)


def unshard_sequence(
    x: Tensor, group: Group, layout: Layout = "zigzag", dim: int = 1, *, length: int | None = None
) -> Tensor:
    """The whole sequence, on every rank, from the shards; no gradient flows through.

    Parameters
    ----------
    length : tokens before padding; what was padded is cut off
    """
    ranks = communicator(group)
    shards = ranks.all_gather(x.detach())
    if any(shard.shape != x.shape for shard in shards):
        raise ParallelError(f"shards must be equal, given {[tuple(shard.shape) for shard in shards]}")
    order = torch.cat(layout_indices(x.shape[dim] * ranks.size, ranks.size, layout)).to(x.device)
    whole = torch.cat(shards, dim).index_select(dim, order.argsort())
    return whole if length is None else whole.narrow(dim, 0, length)
