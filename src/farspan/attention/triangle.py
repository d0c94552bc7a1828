"""A-shape, Tri-shape and TriangleMix: fixed shapes of attention, blind to content.

An A-shape reads the first tokens and a window; a Tri-shape adds that the last queries, which are about to answer, read
everything; TriangleMix keeps the first layers dense besides. Keys keep their positions. `sink-window` is the same
A-shape with the defaults of streaming; these have those of the published prefill baselines.

Source: arXiv 2407.02490, section 3.2 (A-shape); arXiv 2412.10319, section 3 (Tri-shape); arXiv 2507.21526
(TriangleMix).
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from farspan.attention.lever import AttentionLever, BlockSize
from farspan.attention.plan import BlockPlan
from farspan.attention.selection import AttentionContext, Selection
from farspan.attention.sink_window import window_blocks


class AShape(AttentionLever):
    """Reads the first `n_init` tokens and the last `n_local`, rounded up to whole blocks."""

    name: ClassVar[str] = "a-shape"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({"n_init": 64, "n_local": 960},)

    block_size: BlockSize = 128
    n_init: Annotated[int, Field(ge=0)] = 128
    n_local: Annotated[int, Field(ge=1)] = 3968

    def select(self, query: Tensor, key: Tensor, context: AttentionContext) -> Selection | None:
        if context.stage == "decode" or key.shape[2] <= self.n_init + self.n_local:
            return None
        return Selection(shape_plan(query, key, self.block_size, self.n_init, self.n_local, 0))


class TriShape(AttentionLever):
    """An A-shape whose last `n_last` queries read everything.

    n_init, n_local : tokens read at the beginning and before each query
    n_last : queries that read everything, in chunked prefill the last ones of every chunk
    dense_first : number of first layers that stay dense (TriangleMix)
    """

    name: ClassVar[str] = "tri-shape"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({"n_init": 64, "n_local": 960},)

    block_size: BlockSize = 128
    n_init: Annotated[int, Field(ge=0)] = 128
    n_local: Annotated[int, Field(ge=1)] = 3968
    n_last: Annotated[int, Field(ge=0)] = 128
    dense_first: Annotated[int, Field(ge=0)] = 0

    def select(self, query: Tensor, key: Tensor, context: AttentionContext) -> Selection | None:
        if context.stage == "decode" or key.shape[2] <= self.n_init + self.n_local:
            return None
        if 0 <= context.layer_idx < self.dense_first:
            return None
        return Selection(shape_plan(query, key, self.block_size, self.n_init, self.n_local, self.n_last))


def shape_cells(q_len: int, kv_len: int, n_init: int, n_local: int, n_last: int = 0) -> Tensor:
    """The shape cell by cell, for tests and small sizes: bool [q_len, kv_len], queries at the end of the keys."""
    row, column = torch.arange(q_len)[:, None] + kv_len - q_len, torch.arange(kv_len)
    wanted = (column < n_init) | (row - column < n_local) | (row >= kv_len - n_last)
    return wanted & (column <= row)


def shape_blocks(
    q_len: int, kv_len: int, block_size: int, n_init: int, n_local: int, n_last: int, device: torch.device
) -> Tensor:
    """Blocks that hold a cell of the shape: bool [nQ, nK]."""
    keep = window_blocks(q_len, kv_len, kv_len - q_len, block_size, n_local, device)
    keep[:, : -(-n_init // block_size)] = True
    if n_last:
        keep[max(0, q_len - n_last) // block_size :] = True
    return keep


def shape_plan(query: Tensor, key: Tensor, block_size: int, n_init: int, n_local: int, n_last: int) -> BlockPlan:
    """The plan of a shape, one for all heads."""
    q_len, kv_len = query.shape[2], key.shape[2]
    keep = shape_blocks(q_len, kv_len, block_size, n_init, n_local, n_last, query.device)
    return BlockPlan.from_block_mask(
        keep.expand(len(query), 1, -1, -1), q_len=q_len, kv_len=kv_len, block_q=block_size, block_k=block_size
    )
