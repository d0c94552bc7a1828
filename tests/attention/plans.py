"""Random plans and the dense attention they are compared with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from farspan.attention import BlockPlan


def random_inputs(
    batch: int,
    heads: int,
    kv_heads: int,
    q_len: int,
    kv_len: int,
    dim: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of these shapes."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, heads, q_len, dim), (batch, kv_heads, kv_len, dim), (batch, kv_heads, kv_len, dim))
    query, key, value = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    return query, key, value


def random_keep(
    batch: int,
    selections: int,
    q_len: int,
    kv_len: int,
    block_q: int,
    block_k: int,
    *,
    share: float = 0.4,
    seed: int = 0,
) -> Tensor:
    """A random mask over blocks; the diagonal is not cared for."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, selections, -(-q_len // block_q), -(-kv_len // block_k), generator=generator) < share


def dense_attention(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Causal attention with the queries at the end of the keys, by torch; `allowed` [B, H, Lq, Lkv] restricts it."""
    rows = torch.arange(query.shape[2])[:, None] + key.shape[2] - query.shape[2]
    mask = (torch.arange(key.shape[2]) <= rows)[None, None]
    if allowed is not None:
        mask = mask & allowed
    keys, values = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)


def full_plan(query: Tensor, key: Tensor, block: int = 16, **arguments: object) -> BlockPlan:
    """A plan that keeps everything."""
    keep = torch.ones(len(query), 1, -(-query.shape[2] // block), -(-key.shape[2] // block), dtype=torch.bool)
    lengths = {"q_len": query.shape[2], "kv_len": key.shape[2], "block_q": block, "block_k": block}
    return BlockPlan.from_block_mask(keep, **lengths, **arguments)  # type: ignore[arg-type]
