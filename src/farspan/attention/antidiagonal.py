"""XAttention: blocks are scored by the sums of their antidiagonals.

Every vertical and every diagonal stripe of an attention map crosses the antidiagonals of a block, so a few strided
antidiagonals tell whether a block holds either. Reading groups of queries backwards and groups of keys forwards makes
each such sum one entry of a matrix product that is `stride` times smaller each way. Training-free.

An antidiagonal of an even stride holds odd distances only, so a slash one token wide at an even distance is seen by its
neighbours alone.

Source: arXiv 2503.16428, sections 2.1 and 2.2.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from farspan.attention.lever import AttentionLever, BlockSize
from farspan.attention.plan import BlockPlan
from farspan.attention.scoring import select_by_mass
from farspan.attention.selection import AttentionContext, Selection
from farspan.errors import FarspanError

# group scores of at most this many cells are held at once: 256 MiB of float32
CELLS_AT_ONCE = 1 << 26

Share = Annotated[float, Field(gt=0.0, le=1.0)]


class XAttention(AttentionLever):
    """Keeps the blocks with the largest antidiagonal sums until `threshold` of a row's mass is reached.

    stride : distance of the antidiagonals; tokens of a group, dividing `block_size`
    threshold : share of the mass; several numbers are one for each query head
    norm : further divisor of the scores; larger is flatter, so more is read

    The first block and the diagonal are always kept, and their mass counts.
    """

    name: ClassVar[str] = "xattention"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({"block_size": 64}, {"block_size": 64, "threshold": 0.8})

    block_size: BlockSize = 128
    stride: Annotated[int, Field(ge=1)] = 8
    threshold: Share | tuple[Share, ...] = 0.9
    norm: Annotated[float, Field(gt=0.0)] = 1.0

    @model_validator(mode="after")
    def _groups_fill_blocks(self) -> XAttention:
        if self.block_size % self.stride:
            raise ValueError(f"stride {self.stride} must divide block_size {self.block_size}")
        return self

    def select(self, query: Tensor, key: Tensor, context: AttentionContext) -> Selection | None:
        size, q_len, kv_len = self.block_size, query.shape[2], key.shape[2]
        if context.stage == "decode" or kv_len <= size:
            return None
        sums = antidiagonal_scores(
            query, key, block_size=size, stride=self.stride, norm=self.norm, scaling=context.scaling
        )
        share = self._share(query)
        keep = antidiagonal_blocks(sums, share, block_size=size, q_offset=context.q_offset, kv_len=kv_len)
        return Selection(BlockPlan.from_block_mask(keep, q_len=q_len, kv_len=kv_len, block_q=size, block_k=size))

    def _share(self, query: Tensor) -> float | Tensor:
        if not isinstance(self.threshold, tuple):
            return self.threshold
        if len(self.threshold) != query.shape[1]:
            raise FarspanError(
                f"lever 'xattention': {len(self.threshold)} thresholds given for {query.shape[1]} query heads; "
                "give one number, or one for each"
            )
        return torch.tensor(self.threshold, device=query.device)

    def selection_flops(self, query: Tensor, key: Tensor) -> float:
        return query.shape[2] / self.stride * key.shape[2] * query.shape[1] * query.shape[-1] * len(query)


def antidiagonal_scores(
    query: Tensor,
    key: Tensor,
    *,
    block_size: int,
    stride: int,
    norm: float = 1.0,
    scaling: float | None = None,
    allowed: Tensor | None = None,
) -> Tensor:
    """Estimated attention mass between blocks, from the sums of strided antidiagonals.

    Parameters
    ----------
    query : Tensor [B, Hq, Lq, D], the last Lq positions; key : Tensor [B, H, L, D], H dividing Hq
    stride : tokens of a group; a row of groups has softmax mass 1, so a row of blocks has as much as it has groups
    norm : divides the scores besides `stride`
    allowed : Tensor bool [nQ, nK], blocks that take part; by default every group not after the query's

    A group that is all padding takes no part; one that is partly so counts with its tokens.

    Returns
    -------
    Tensor float32 [B, Hq, nQ, nK]

    Source: arXiv 2503.16428, section 2.1.
    """
    batch, heads, q_len, dim = query.shape
    kv_len, offset = key.shape[2], key.shape[2] - q_len
    factor = (dim**-0.5 if scaling is None else scaling) / (stride * norm)
    n_q, n_k, size = -(-q_len // block_size), -(-kv_len // block_size), block_size // stride
    rows = F.pad(query, (0, 0, 0, n_q * block_size - q_len)).view(batch, heads, n_q * size, stride, dim)
    rows = rows.flip(3).flatten(3)
    cols = F.pad(key, (0, 0, 0, n_k * block_size - kv_len)).reshape(batch, -1, n_k * size, stride * dim)
    group = torch.arange(n_k * size, device=key.device)
    real = group * stride < kv_len
    step = max(1, CELLS_AT_ONCE // (batch * heads * n_k * size * size)) * size
    sums = []
    for start in range(0, n_q * size, step):
        some = rows[:, :, start : start + step]
        own = torch.arange(start, start + some.shape[2], device=key.device)
        if allowed is None:
            last = offset + own * stride + stride - 1
            open_ = real & (group * stride <= last[:, None])
        else:
            open_ = real & allowed.repeat_interleave(size, 1)[own // size]
        scores = _grouped_product(some, cols).float() * factor
        mass = scores.masked_fill_(~open_, -torch.inf).softmax(-1).masked_fill(~open_, 0.0)
        # rows of groups that are all padding have nothing to say
        mass = mass * (own * stride < q_len)[:, None]
        sums.append(mass.view(batch, heads, -1, size, n_k, size).sum((3, 5)))
    return torch.cat(sums, 2)


def _grouped_product(rows: Tensor, cols: Tensor) -> Tensor:
    """Products [B, Hq, n, m] of rows [B, Hq, n, E] with the columns [B, H, m, E] of their group."""
    batch, heads, length, width = rows.shape
    packed = rows.reshape(batch, cols.shape[1], -1, width)
    return (packed @ cols.transpose(-1, -2)).view(batch, heads, length, -1)


def antidiagonal_blocks(
    sums: Tensor, threshold: float | Tensor, *, block_size: int, q_offset: int, kv_len: int
) -> Tensor:
    """Blocks to read: the first, the diagonal, then the largest until the mass is reached.

    Parameters
    ----------
    sums : Tensor [B, H, nQ, nK] of `antidiagonal_scores`
    threshold : share of a row's mass, a Tensor [H] where heads differ

    Returns
    -------
    Tensor bool [B, H, nQ, nK]

    Source: arXiv 2503.16428, section 2.2.
    """
    device = sums.device
    first = torch.arange(sums.shape[2], device=device) * block_size + q_offset
    last = (first + block_size - 1).clamp(max=kv_len - 1)
    start = torch.arange(sums.shape[3], device=device) * block_size
    causal = start <= last[:, None]
    forced = causal & (start + block_size > first[:, None])
    forced[:, 0] = True
    if not isinstance(threshold, Tensor) and threshold >= 1.0:
        return causal.expand_as(sums)
    share = threshold.view(-1, 1, 1) if isinstance(threshold, Tensor) else threshold
    whole = sums.sum(-1, keepdim=True)
    # a share of one means everything, whatever rounding makes of the sums
    wanted = whole * share + (whole + 1.0) * torch.as_tensor(share >= 1.0, device=device)
    return select_by_mass(sums, wanted, forced=forced.expand_as(sums)) & causal


__all__ = ["XAttention", "antidiagonal_blocks", "antidiagonal_scores"]
