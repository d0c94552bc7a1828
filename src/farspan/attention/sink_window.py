"""Sink and window: every query reads the first tokens and the most recent ones.

The simplest selector, blind to content: the floor every other one must beat, and a fair method where only the recent
text matters. Keys keep their positions (nothing is evicted from the cache and nothing is renumbered).

Source: arXiv 2309.17453 (attention sinks), section 3; arXiv 2407.02490 calls the same shape "A-shape".
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from farspan.attention.lever import AttentionLever, BlockSize
from farspan.attention.plan import BlockPlan
from farspan.attention.selection import AttentionContext, Selection


class SinkWindow(AttentionLever):
    """Reads the first `sinks` and the last `window` tokens, both rounded up to whole blocks."""

    name: ClassVar[str] = "sink-window"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({},)

    block_size: BlockSize = 128
    sinks: Annotated[int, Field(ge=0)] = 128
    window: Annotated[int, Field(ge=1)] = 1024

    def select(self, query: Tensor, key: Tensor, context: AttentionContext) -> Selection | None:
        length, size = key.shape[2], self.block_size
        if length <= self.sinks + self.window:
            return None
        keep = window_blocks(query.shape[2], length, context.q_offset, size, self.window, query.device)
        keep[:, : -(-self.sinks // size)] = True
        plan = BlockPlan.from_block_mask(
            keep.expand(len(query), 1, -1, -1), q_len=query.shape[2], kv_len=length, block_q=size, block_k=size
        )
        return Selection(plan)


def window_blocks(q_len: int, kv_len: int, q_offset: int, block_size: int, window: int, device: torch.device) -> Tensor:
    """Blocks holding one of the last `window` keys of some query of the row block: bool [nQ, nK]."""
    first = torch.arange(-(-q_len // block_size), device=device) * block_size + q_offset
    last = (first + block_size - 1).clamp(max=q_offset + q_len - 1)
    oldest = (first - window + 1).clamp(min=0) // block_size
    block = torch.arange(-(-kv_len // block_size), device=device)
    return (block >= oldest[:, None]) & (block <= (last // block_size)[:, None])
