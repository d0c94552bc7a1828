"""Mean pooling: keep the key blocks whose pooled keys look most attended to.

Each block of queries and of keys is represented by its mean; the blocks that hold the wanted share of the estimated
mass are kept. The baseline that permuted block-sparse attention improves on.

Source: arXiv 2510.21270, section 4.1, baseline "MeanPooling"; the estimate is that of arXiv 2407.02490.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from farspan.attention.lever import AttentionLever, BlockSize
from farspan.attention.plan import BlockPlan
from farspan.attention.scoring import block_scores, group_means, select_by_mass
from farspan.attention.selection import AttentionContext, Selection


class MeanPool(AttentionLever):
    """Keeps blocks by mean-pooled scores until their estimated mass reaches `threshold`.

    The first block and the diagonal are always kept. Query heads of a group share a selection, made from their mean
    mass, so that executors may pack them.
    """

    name: ClassVar[str] = "mean-pool"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({"block_size": 64}, {"block_size": 64, "threshold": 0.8})

    block_size: BlockSize = 128
    threshold: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9

    def select(self, query: Tensor, key: Tensor, context: AttentionContext) -> Selection | None:
        size, q_len, kv_len = self.block_size, query.shape[2], key.shape[2]
        if context.stage == "decode" or kv_len <= size:
            return None
        first = torch.arange(-(-q_len // size), device=query.device) * size + context.q_offset
        last = (first + size - 1).clamp(max=kv_len - 1)
        start = torch.arange(-(-kv_len // size), device=query.device) * size
        allowed = start <= last[:, None]
        scores = block_scores(query, key, block_size=size, allowed=allowed, scaling=context.scaling)
        keep = select_by_mass(group_means(scores, key.shape[1]), self.threshold) & allowed
        keep[..., 0] = True
        keep |= allowed & (start + size > first[:, None])
        plan = BlockPlan.from_block_mask(keep, q_len=q_len, kv_len=kv_len, block_q=size, block_k=size)
        return Selection(plan)

    def selection_flops(self, query: Tensor, key: Tensor) -> float:
        blocks = (query.shape[2] / self.block_size) * (key.shape[2] / self.block_size)
        return 2.0 * blocks * query.shape[1] * query.shape[-1] * len(query)
