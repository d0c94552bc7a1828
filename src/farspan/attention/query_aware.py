"""FlexPrefill: every head decides by itself, on every prompt, between lines and blocks.

The last block of queries is asked. Where its mean already predicts which blocks it attends to, block estimates can be
trusted and the head also reads the blocks that its own queries look for (*query-aware*); elsewhere it reads vertical
and slash lines, as many as hold the share `gamma` of the attention. Training-free, no offline search.

Source: arXiv 2502.20766, section 3.
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
from farspan.attention.vertical_slash import diagonal_sums, last_attention

# entries that make one block of budget, whatever the block size, as published
ENTRIES_A_BLOCK = 128


class FlexPrefill(AttentionLever):
    """Keeps vertical and slash blocks holding `gamma` of the attention, or blocks by pooled estimates.

    gamma : share of the attention a head wants
    tau : largest square root of the Jensen-Shannon divergence between estimate and truth at which a head is
        query-aware; 0 makes none so
    min_budget, max_budget : tokens a head reads at least and at most, as verticals and again as slashes
    """

    name: ClassVar[str] = "flexprefill"
    trials: ClassVar[tuple[dict[str, object], ...]] = (
        {"block_size": 64, "min_budget": 256},
        {"block_size": 64, "min_budget": 256, "gamma": 0.95},
    )

    block_size: BlockSize = 128
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    tau: Annotated[float, Field(ge=0.0)] = 0.1
    min_budget: Annotated[int, Field(ge=1)] = 1024
    max_budget: Annotated[int, Field(ge=1)] | None = None

    def select(self, query: Tensor, key: Tensor, context: AttentionContext) -> Selection | None:
        size, q_len, kv_len = self.block_size, query.shape[2], key.shape[2]
        least = -(-self.min_budget // size)
        if context.stage == "decode" or kv_len <= max(2 * size, least * size):
            return None
        keep, aware = query_aware_blocks(
            query,
            key,
            block_size=size,
            gamma=self.gamma,
            tau=self.tau,
            min_blocks=least,
            max_blocks=None if self.max_budget is None else -(-self.max_budget // size),
            scaling=context.scaling,
        )
        context.record("query_aware", aware.float().mean(0))
        return Selection(BlockPlan.from_block_mask(keep, q_len=q_len, kv_len=kv_len, block_q=size, block_k=size))

    def selection_flops(self, query: Tensor, key: Tensor) -> float:
        blocks = (query.shape[2] / self.block_size) * (key.shape[2] / self.block_size)
        return 2.0 * len(query) * query.shape[1] * query.shape[-1] * (self.block_size * key.shape[2] + blocks)


def query_aware_blocks(
    query: Tensor,
    key: Tensor,
    *,
    block_size: int,
    gamma: float,
    tau: float,
    min_blocks: int,
    max_blocks: int | None = None,
    scaling: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Blocks each query block reads, and which heads are query-aware.

    query : Tensor [B, Hq, Lq, D], the last Lq positions; key : Tensor [B, Hkv, L, D]

    Returns
    -------
    keep Tensor bool [B, Hq, nQ, nK] and aware Tensor bool [B, Hq]

    Source: arXiv 2502.20766, algorithms 1 to 4.
    """
    q_len, kv_len = query.shape[2], key.shape[2]
    n_k, offset = -(-kv_len // block_size), kv_len - q_len
    attention = last_attention(query, key, min(block_size, q_len), scaling)
    rows = attention.shape[-2]
    vertical, slash = attention.mean(-2), diagonal_sums(attention) / rows
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    pooled = query[:, :, -rows:].float().mean(2, keepdim=True)
    keys = block_means(key, block_size).repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    estimate = (pooled @ keys.transpose(-1, -2) * factor).softmax(-1)[..., 0, :]
    columns = _block_sums(vertical, block_size)
    aware = root_js_divergence(estimate, columns) < tau
    most = n_k if max_blocks is None else min(max_blocks, n_k)

    def budget(lines: Tensor) -> Tensor:
        wanted = entries_for(lines, gamma) // ENTRIES_A_BLOCK + 1
        return torch.where(aware, min_blocks, wanted.clamp(min=min_blocks)).clamp(max=most)

    columns[..., 0] = torch.inf
    # the blocks of distances are cut from the far end, so the nearest one may be short
    distances = _block_sums(slash.flip(-1), block_size).flip(-1)
    distances[..., 0] = torch.inf
    keep_columns, keep_distances = _largest(columns, budget(vertical)), _largest(distances, budget(slash))
    device = query.device
    first = torch.arange(-(-q_len // block_size), device=device) * block_size + offset
    last = (first + block_size - 1).clamp(max=kv_len - 1)
    start = torch.arange(n_k, device=device) * block_size
    causal = start <= last[:, None]
    keep = keep_columns[..., None, :] & causal
    # with an offset that is no multiple of the block size a row block stands between two distances: both are read
    for edge in (first, last):
        apart = (edge // block_size)[:, None] - torch.arange(n_k, device=device)
        keep = keep | (keep_distances[..., apart.clamp(0, n_k - 1)] & (apart >= 0))
    if gamma >= 1.0:
        keep = keep | causal
    elif bool(aware.any()):
        means = block_means(query, block_size)
        scores = (means @ keys.transpose(-1, -2) * factor).masked_fill(~causal, -torch.inf).softmax(-1)
        # one budget for all rows of a head together: rows that know what they want leave theirs to others
        whole = torch.tensor([gamma * len(first)], device=device)
        flat = select_by_mass(scores.flatten(-2), whole, crossing="exclude")
        keep = keep | (flat.view_as(scores) & causal & aware[..., None, None])
    return keep, aware


def entries_for(mass: Tensor, share: float) -> Tensor:
    """How many of the largest entries reach a share, the one that crosses included: [..., n] -> Tensor int64 [...]."""
    upto = mass.sort(dim=-1, descending=True).values.cumsum(-1)
    return ((upto <= share).sum(-1) + 1).clamp(max=mass.shape[-1])


def root_js_divergence(first: Tensor, second: Tensor) -> Tensor:
    """Square root of the Jensen-Shannon divergence of distributions over the last axis, in nats."""
    middle = (first + second) / 2
    parts = [torch.special.xlogy(p, p) - torch.special.xlogy(p, middle) for p in (first, second)]
    divergence: Tensor = (parts[0] + parts[1]).sum(-1) / 2
    return divergence.clamp(min=0.0).sqrt()


def _block_sums(lines: Tensor, block_size: int) -> Tensor:
    blocks = -(-lines.shape[-1] // block_size)
    padded = F.pad(lines, (0, blocks * block_size - lines.shape[-1]))
    return padded.view(*lines.shape[:-1], blocks, block_size).sum(-1)


def _largest(scores: Tensor, count: Tensor) -> Tensor:
    """The `count` [...] largest entries of each row [..., n]: Tensor bool."""
    rank = scores.sort(dim=-1, descending=True, stable=True).indices.argsort(-1)
    return rank < count[..., None]
