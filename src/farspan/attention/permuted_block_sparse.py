"""Permuted block-sparse attention (PBS): sort keys by importance inside segments, then drop whole blocks.

Attention does not care in which order keys are stored. Inside segments of a few hundred tokens the keys the prompt's
end attends to most are moved to the front, so that a few blocks hold the heavy hitters of a segment and the others can
be dropped. Whole earlier segments need no causal test; the segment around the diagonal is always read and tested by
position. Training-free, and exact when nothing is dropped. The cache keeps its order, only copies are sorted.

The permutation follows the last queries, so it depends on the text's end: outputs of early queries change slightly
with what comes later.

Source: arXiv 2510.21270, sections 3.1 to 3.4.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from farspan.attention.antidiagonal import antidiagonal_scores
from farspan.attention.lever import AttentionLever, BlockSize
from farspan.attention.plan import BlockPlan
from farspan.attention.scoring import (
    Pooling,
    block_means,
    block_scores,
    group_means,
    pooled_scores,
    query_means,
    select_by_mass,
)
from farspan.attention.selection import AttentionContext, Selection, stored

Scoring = Literal["mean_pool", "xattention"]


class PermutedBlockSparse(AttentionLever):
    """Sorts keys inside segments and keeps blocks until their estimated mass reaches `threshold`.

    segment_size : tokens of a segment, a multiple of `block_size`
    scoring : estimate of a block's mass: from pooled queries and keys, or by the antidiagonals of XAttention (PBS+)
    pooling : how `mean_pool` represents a block, by its mean or by the maximum of each channel
    stride : distance of the antidiagonals, dividing `block_size`
    force_first : always read the block that holds the first token
    share_permutation : one order per KV head, from its group's mean query, or one per query head (more copies)
    diagonal : `original` reads the segment around the diagonal in its own order, so that blocks beyond it drop out;
        `segment` reads it sorted and whole, as published
    head_opt_out : heads that keep the original order; `auto` finds, in every call, those that would need fewer blocks
        without sorting (heads that attend along diagonals)
    """

    name: ClassVar[str] = "pbs"
    trials: ClassVar[tuple[dict[str, object], ...]] = (
        {"threshold": 0.9, "block_size": 64, "segment_size": 128},
        {"threshold": 0.8, "block_size": 64, "segment_size": 128},
    )

    block_size: BlockSize = 128
    segment_size: Annotated[int, Field(ge=16)] = 256
    threshold: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    scoring: Scoring = "mean_pool"
    pooling: Pooling = "mean"
    stride: Annotated[int, Field(ge=1)] = 8
    force_first: bool = True
    share_permutation: Literal["kv_head", "query_head"] = "kv_head"
    diagonal: Literal["original", "segment"] = "original"
    head_opt_out: Literal["auto"] | tuple[Annotated[int, Field(ge=0)], ...] | None = "auto"

    @model_validator(mode="after")
    def _segments_hold_blocks(self) -> PermutedBlockSparse:
        if self.segment_size % self.block_size:
            raise ValueError(f"segment_size {self.segment_size} must be a multiple of block_size {self.block_size}")
        if self.scoring == "xattention" and self.block_size % self.stride:
            raise ValueError(f"stride {self.stride} must divide block_size {self.block_size}")
        return self

    def select(self, query: Tensor, key: Tensor, context: AttentionContext) -> Selection | None:
        if context.stage == "decode":
            return None
        return permuted_selection(
            query,
            key,
            block_size=self.block_size,
            segment_size=self.segment_size,
            threshold=self.threshold,
            scaling=context.scaling,
            force_first=self.force_first,
            per_query_head=self.share_permutation == "query_head",
            diagonal=self.diagonal,
            opt_out=self.head_opt_out,
            scoring=self.scoring,
            pooling=self.pooling,
            stride=self.stride,
            context=context,
        )

    def selection_flops(self, query: Tensor, key: Tensor) -> float:
        heads, dim, kv_len = query.shape[1], query.shape[-1], key.shape[2]
        proxy = 2.0 * self.block_size * kv_len * dim * heads
        blocks = (query.shape[2] / self.block_size) * (kv_len / self.block_size)
        scoring = 2.0 * blocks * heads * dim
        if self.scoring == "xattention":
            scoring *= self.block_size**2 / self.stride
        return len(query) * (proxy + scoring * (2 if self.head_opt_out == "auto" else 1))


def key_permutation(
    query: Tensor,
    key: Tensor,
    *,
    block_size: int,
    segment_size: int,
    scaling: float | None = None,
    kv_start: Tensor | None = None,
    per_query_head: bool = False,
) -> Tensor:
    """Order of the keys: inside each full segment by falling attention from the last block of queries.

    Parameters
    ----------
    query : Tensor [B, Hq, Lq, D], the last Lq positions; key : Tensor [B, Hkv, L, D]
    kv_start : Tensor int [B], keys before it are padding and go to the end of their segment
    per_query_head : an order for every query head, otherwise one per KV head from its group's mean query

    Returns
    -------
    Tensor int64 [B, Hq or Hkv, L] of key indices; keys after the last full segment keep their place, ties keep their
    order.

    Source: arXiv 2510.21270, section 3.2.
    """
    batch, kv_heads, length, dim = key.shape
    sorted_length = length // segment_size * segment_size
    last = query[:, :, -block_size:]
    if not per_query_head:
        last = last.reshape(batch, kv_heads, -1, *last.shape[2:]).float().mean(2).to(query.dtype)
    heads = last.shape[1]
    index = torch.arange(length, device=key.device).expand(batch, heads, length)
    if sorted_length == 0:
        return index.clone()
    last = last * (dim**-0.5 if scaling is None else scaling)
    padding = None if kv_start is None else index[:, 0, :sorted_length] < kv_start[:, None].to(key.device)
    importance = torch.empty(batch, heads, sorted_length, device=key.device)
    product = torch.empty(batch, last.shape[2], sorted_length, dtype=last.dtype, device=key.device)
    # head by head: the scores of one fit a cache, those of all would be written to memory and read back twice
    for head in range(heads):
        keys = key[:, head * kv_heads // heads, :sorted_length]
        scores = torch.matmul(last[:, head], keys.transpose(-1, -2), out=product).float()
        if padding is not None:
            scores.masked_fill_(padding[:, None], -torch.inf)
        torch.softmax(scores, -1, out=scores)
        importance[:, head] = scores.mean(1)
    if padding is not None:
        importance.masked_fill_(padding[:, None], -torch.inf)
    segments = importance.reshape(batch, heads, -1, segment_size)
    inside = segments.argsort(dim=-1, descending=True, stable=True)
    start = torch.arange(0, sorted_length, segment_size, device=key.device)[:, None]
    return torch.cat([(inside + start).flatten(2), index[..., sorted_length:]], dim=-1)


def permuted_blocks(
    query: Tensor,
    stored_key: Tensor,
    order: Tensor,
    *,
    block_size: int,
    segment_size: int,
    threshold: float,
    scaling: float | None = None,
    force_first: bool = True,
    scoring: Scoring = "mean_pool",
    pooling: Pooling = "mean",
    stride: int = 8,
) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks of sorted keys to read, the segment around the diagonal left out.

    query : Tensor [B, Hq, Lq, D]; stored_key : Tensor [B, H, L, D], keys in `order` [B, H, L]
    scoring, pooling, stride : as in `PermutedBlockSparse`

    Returns
    -------
    keep : Tensor bool [B, H, nQ, nK], for H < Hq made from the mean mass of a group
    diagonal : Tensor bool [nQ, nK], blocks of the segments that hold a query of the row block
    scores : Tensor float32 [B, H, nQ, nK], estimated mass of the blocks before the diagonal segment

    Source: arXiv 2510.21270, sections 3.3 and 4.1.
    """
    before, diagonal = _regions(query.shape[2], stored_key.shape[2], block_size, segment_size, query.device)
    if scoring == "xattention":
        scores = antidiagonal_scores(
            query, stored_key, block_size=block_size, stride=stride, scaling=scaling, allowed=before
        )
        # a row of blocks has the mass of its groups; what is wanted is a share
        scores = scores / scores.sum(-1, keepdim=True).clamp(min=1e-12)
    else:
        scores = block_scores(
            query, stored_key, block_size=block_size, allowed=before, scaling=scaling, pooling=pooling
        )
    scores = group_means(scores, stored_key.shape[1])
    return _kept(scores, before, order, threshold, force_first, block_size), diagonal, scores


def _regions(
    q_len: int, length: int, block_size: int, segment_size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Blocks before the segment of a row block, and blocks of its segments: bool [nQ, nK] each."""
    first = torch.arange(-(-q_len // block_size), device=device) * block_size + length - q_len
    last = (first + block_size - 1).clamp(max=length - 1)
    segment = torch.arange(-(-length // block_size), device=device) * block_size // segment_size
    before = segment < (first // segment_size)[:, None]
    return before, ~before & (segment <= (last // segment_size)[:, None])


def _kept(
    scores: Tensor, before: Tensor, order: Tensor, threshold: float, force_first: bool, block_size: int
) -> Tensor:
    keep = select_by_mass(scores, threshold) & before
    if force_first:
        home = (order == 0).byte().argmax(-1) // block_size
        keep |= (torch.arange(before.shape[1], device=keep.device) == home[..., None])[:, :, None] & before
    return keep


def sorted_means(key: Tensor, order: Tensor, block_size: int, segment_size: int) -> Tensor:
    """Means of blocks of sorted keys, without sorting them: float32 [B, H, ceil(L / block_size), D].

    key : Tensor [B, Hkv, L, D]; order : Tensor int64 [B, H, L] that moves keys inside full segments only, H a multiple
        of Hkv

    In a segment a block's mean is a product with its members, which reads the keys once and writes nothing as long.
    """
    batch, heads, length = order.shape
    segments = length // segment_size
    count = segment_size // block_size
    inside = (order[..., : segments * segment_size] % segment_size).view(batch, heads, segments, segment_size)
    place = torch.arange(segment_size, device=key.device) // block_size
    member = torch.zeros(batch, heads, segments, count, segment_size, device=key.device)
    member.view(batch, heads, segments, -1).scatter_(-1, place * segment_size + inside, 1.0 / block_size)
    whole = key[:, :, : segments * segment_size].reshape(batch, key.shape[1], segments, segment_size, -1)
    spread = heads // key.shape[1]
    if spread > 1:
        whole = whole.repeat_interleave(spread, dim=1)
    means = (member @ whole.float()).flatten(2, 3)
    if length % segment_size == 0:
        return means
    rest = block_means(key[:, :, segments * segment_size :], block_size)
    return torch.cat([means, rest.repeat_interleave(spread, dim=1)], dim=2)


def permuted_selection(
    query: Tensor,
    key: Tensor,
    *,
    block_size: int,
    segment_size: int,
    threshold: float,
    scaling: float | None = None,
    force_first: bool = True,
    per_query_head: bool = False,
    diagonal: Literal["original", "segment"] = "original",
    opt_out: Literal["auto"] | tuple[int, ...] | None = None,
    scoring: Scoring = "mean_pool",
    pooling: Pooling = "mean",
    stride: int = 8,
    context: AttentionContext | None = None,
) -> Selection | None:
    """The whole method: permutation, blocks, and the plan over the stored keys; None for at most one segment.

    Arguments as in `PermutedBlockSparse`; `opt_out` counts the heads that have an order of their own.
    """
    length = key.shape[2]
    if length <= segment_size:
        return None
    order = key_permutation(
        query,
        key,
        block_size=block_size,
        segment_size=segment_size,
        scaling=scaling,
        per_query_head=per_query_head,
    )

    spread = order.shape[1] // key.shape[1]
    by_means = scoring == "mean_pool" and pooling == "mean"
    rows = query_means(query, block_size) if by_means else None

    def choose(some_order: Tensor, moved: bool) -> tuple[Tensor, Tensor]:
        if rows is not None:
            before, around = _regions(query.shape[2], length, block_size, segment_size, query.device)
            means = sorted_means(key, some_order, block_size, segment_size) if moved else block_means(key, block_size)
            scores = pooled_scores(rows, means, before, key.shape[-1] ** -0.5 if scaling is None else scaling)
            scores = group_means(scores, some_order.shape[1])
            return _kept(scores, before, some_order, threshold, force_first, block_size), around
        plain = key if spread == 1 else key.repeat_interleave(spread, dim=1)
        keep, around, _ = permuted_blocks(
            query,
            stored(key, some_order) if moved else plain,
            some_order,
            block_size=block_size,
            segment_size=segment_size,
            threshold=threshold,
            scaling=scaling,
            force_first=force_first,
            scoring=scoring,
            pooling=pooling,
            stride=stride,
        )
        return keep, around

    keep, around = choose(order, moved=True)
    if opt_out is not None:
        unsorted = torch.arange(length, device=key.device).expand_as(order)
        plain, _ = choose(unsorted, moved=False)
        sorted_blocks, plain_blocks = (x.sum((0, 2, 3)) for x in (keep, plain))
        if context is not None:
            context.record("blocks_without_permutation", plain_blocks / sorted_blocks.clamp(min=1))
        if opt_out == "auto":
            out = plain_blocks < sorted_blocks
        else:
            out = torch.isin(torch.arange(order.shape[1], device=key.device), torch.tensor(opt_out, device=key.device))
        order = torch.where(out[:, None], unsorted, order)
        keep = torch.where(out[:, None, None], plain, keep)
    if diagonal == "segment":
        keep = keep | around
    else:
        order, keep = _with_original_diagonal(order, keep, query.shape[2], block_size, segment_size)
    plan = BlockPlan.from_block_mask(
        keep,
        q_len=query.shape[2],
        kv_len=order.shape[2],
        block_q=block_size,
        block_k=block_size,
        q_offset=length - query.shape[2],
        kv_pos=order,
    )
    return Selection(plan, order)


def _with_original_diagonal(
    order: Tensor, keep: Tensor, q_len: int, block_size: int, segment_size: int
) -> tuple[Tensor, Tensor]:
    """Store sorted keys of the earlier segments first, then unsorted keys from the first query's segment on.

    Returns the order [B, H, stored] and the blocks of stored keys to read [B, H, nQ, stored blocks].
    """
    length, device = order.shape[2], order.device
    offset = length - q_len
    first = torch.arange(keep.shape[2], device=device) * block_size + offset
    last = (first + block_size - 1).clamp(max=length - 1)
    reach = int(first[-1]) // segment_size * segment_size
    base = offset // segment_size * segment_size
    own = torch.arange(base, length, device=device).expand(*order.shape[:2], -1)
    start = torch.arange(base, length, block_size, device=device)
    around = (start // segment_size >= (first // segment_size)[:, None]) & (start <= last[:, None])
    blocks = torch.cat([keep[..., : reach // block_size], around.expand(*keep.shape[:3], -1)], dim=-1)
    return torch.cat([order[..., :reach], own], dim=-1), blocks
