"""SpargeAttn: trust a block's mean only where its rows resemble each other.

Blocks of queries and keys are represented by their means where they are *self-similar* (a high mean cosine between
their rows); among those the blocks with most estimated attention are read. Blocks that are not self-similar cannot be
judged by a mean: such keys are always read, and such queries read everything. Training-free.

Only the map of blocks is made here; the published kernel also skips products inside a block and multiplies in int8.

Source: arXiv 2502.18137, section 3.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from farspan.attention.lever import AttentionLever, BlockSize
from farspan.attention.plan import BlockPlan
from farspan.attention.scoring import block_means, select_by_mass
from farspan.attention.selection import AttentionContext, Selection


class SpargeAttn(AttentionLever):
    """Keeps blocks by the means of self-similar ones, and all blocks whose rows differ.

    block_size, key_block_size : tokens of a block of queries and of keys
    similarity : mean cosine above which a block counts as self-similar; above 1 reads everything
    cdf : share of the estimated attention a row reads at most, but at least one block
    topk : instead of `cdf`, the share of all key blocks a row reads; blocks after the query count, so early rows read
        everything
    sink : always read the first block
    """

    name: ClassVar[str] = "spargeattn"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({"block_size": 64}, {"block_size": 64, "cdf": 0.9})

    block_size: BlockSize = 128
    key_block_size: BlockSize = 64
    similarity: float = 0.6
    cdf: Annotated[float, Field(gt=0.0, le=1.0)] = 0.98
    topk: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    sink: bool = False

    def select(self, query: Tensor, key: Tensor, context: AttentionContext) -> Selection | None:
        q_len, kv_len = query.shape[2], key.shape[2]
        if context.stage == "decode" or kv_len <= self.block_size:
            return None
        keep = self_similar_blocks(
            query,
            key,
            block_q=self.block_size,
            block_k=self.key_block_size,
            similarity=self.similarity,
            cdf=self.cdf,
            topk=self.topk,
            sink=self.sink,
            scaling=context.scaling,
        )
        keep = keep | diagonal_blocks(q_len, kv_len, self.block_size, self.key_block_size, query.device)
        plan = BlockPlan.from_block_mask(
            keep, q_len=q_len, kv_len=kv_len, block_q=self.block_size, block_k=self.key_block_size
        )
        return Selection(plan)

    def selection_flops(self, query: Tensor, key: Tensor) -> float:
        blocks = (query.shape[2] / self.block_size) * (key.shape[2] / self.key_block_size)
        return 2.0 * blocks * query.shape[1] * query.shape[-1] * len(query)


def block_self_similarity(rows: Tensor, block_size: int) -> Tensor:
    """Mean cosine over all pairs of rows of a block, a row with itself included.

    rows : Tensor [B, H, L, D] -> Tensor float32 [B, H, ceil(L / block_size)]; a short last block counts its own rows

    Source: arXiv 2502.18137, section 3.2.
    """
    # the mean over pairs of unit vectors is the squared length of their mean
    return block_means(F.normalize(rows.float(), dim=-1), block_size).square().sum(-1)


def self_similar_blocks(
    query: Tensor,
    key: Tensor,
    *,
    block_q: int,
    block_k: int,
    similarity: float,
    cdf: float = 1.0,
    topk: float | None = None,
    sink: bool = False,
    scaling: float | None = None,
) -> Tensor:
    """The published map of blocks: Tensor bool [B, Hq, nQ, nK]. The diagonal is not forced.

    query : Tensor [B, Hq, Lq, D], the last Lq positions; key : Tensor [B, Hkv, L, D]

    Source: arXiv 2502.18137, algorithm 1.
    """
    group, device = query.shape[1] // key.shape[1], query.device
    means = block_means(key, block_k).repeat_interleave(group, dim=1)
    alike_k = (block_self_similarity(key, block_k) > similarity).repeat_interleave(group, dim=1)
    alike_q = block_self_similarity(query, block_q) > similarity
    causal = _causal_blocks(query.shape[2], key.shape[2], block_q, block_k, device)
    judged = alike_k[..., None, :] & causal
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = block_means(query, block_q) @ means.transpose(-1, -2) * factor
    mass = scores.masked_fill(~judged, -torch.inf).softmax(-1).nan_to_num(0.0)
    if topk is None:
        chosen = select_by_mass(mass, cdf, crossing="exclude")
    else:
        count = max(1, int(topk * mass.shape[-1]))
        chosen = mass.sort(dim=-1, descending=True, stable=True).indices.argsort(-1) < count
    keep = chosen | ~alike_k[..., None, :] | ~alike_q[..., None]
    if sink:
        keep[..., 0] = True
    return keep & causal


def diagonal_blocks(q_len: int, kv_len: int, block_q: int, block_k: int, device: torch.device) -> Tensor:
    """Key blocks that hold the position of a query of the row block: bool [nQ, nK]."""
    first = torch.arange(-(-q_len // block_q), device=device) * block_q + kv_len - q_len
    last = (first + block_q - 1).clamp(max=kv_len - 1)
    start = torch.arange(-(-kv_len // block_k), device=device) * block_k
    return (start <= last[:, None]) & (start + block_k > first[:, None])


def _causal_blocks(q_len: int, kv_len: int, block_q: int, block_k: int, device: torch.device) -> Tensor:
    last = (torch.arange(-(-q_len // block_q), device=device) + 1) * block_q - 1 + kv_len - q_len
    start = torch.arange(-(-kv_len // block_k), device=device) * block_k
    return start <= last.clamp(max=kv_len - 1)[:, None]
