"""Vertical and slash lines: which key columns and which distances the end of a text attends to.

Heads of long-context models mostly attend along verticals (some keys, from everywhere) and slashes (some distances).
The last queries show which: their attention is summed along columns and along diagonals, and the strongest lines are
taken for all queries. This file finds lines and turns them into blocks; it makes no choice between patterns.

Source: arXiv 2407.02490, section 3.2 and appendix C.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FORCED_COLUMNS = 30
FORCED_DISTANCES = 100
LEAST_SLASHES = 50


def last_attention(query: Tensor, key: Tensor, rows: int, scaling: float | None = None) -> Tensor:
    """Attention of the last queries.

    query : Tensor [B, Hq, Lq, D], the last Lq positions; key : Tensor [B, Hkv, L, D]
    rows : how many queries, at most Lq

    Returns
    -------
    Tensor float32 [B, Hq, rows, L], causal
    """
    last = query[:, :, -rows:]
    batch, heads, count, dim = last.shape
    packed = last.reshape(batch, key.shape[1], -1, dim)
    scores = (packed @ key.transpose(-1, -2)).float() * (dim**-0.5 if scaling is None else scaling)
    scores = scores.view(batch, heads, count, -1)
    future = torch.ones(count, count, dtype=torch.bool, device=query.device).triu(1)
    scores[..., -count:].masked_fill_(future, -torch.inf)
    return scores.softmax(-1)


def diagonal_sums(attention: Tensor) -> Tensor:
    """Sums along distances of causal attention [B, H, rows, L] of the last rows: Tensor [B, H, L] by distance."""
    rows, length = attention.shape[-2:]
    # row r stands at position L - rows + r; shifting it to the right by rows - 1 - r lines its own key up at the end
    padded = F.pad(attention, (rows - 1, 0)).contiguous()
    strides = (*padded.stride()[:-2], padded.stride(-2) + 1, 1)
    lined_up = padded.as_strided((*attention.shape[:-2], rows, length), strides)
    return lined_up.sum(-2).flip(-1)


def vertical_slash_indices(
    query: Tensor,
    key: Tensor,
    *,
    vertical_size: int,
    slash_size: int,
    last_q: int = 64,
    scaling: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The strongest key columns and distances of every head.

    Parameters
    ----------
    query : Tensor [B, Hq, Lq, D], the last Lq positions; key : Tensor [B, Hkv, L, D]
    vertical_size, slash_size : how many columns and distances, at least 30 and 50 and at most L
    last_q : queries that are asked, at most Lq

    The first 30 columns and the distances below 100 are among them, the nearest first where there is no room for all.

    Returns
    -------
    columns Tensor int64 [B, Hq, V] and distances Tensor int64 [B, Hq, S], ascending; cell (i, j) is read if j is one of
    the columns or i - j one of the distances

    Source: arXiv 2407.02490, algorithm 1.
    """
    return strongest_lines(last_attention(query, key, min(last_q, query.shape[2]), scaling), vertical_size, slash_size)


def strongest_lines(
    attention: Tensor, vertical_size: int, slash_size: int, forced_distances: int = FORCED_DISTANCES
) -> tuple[Tensor, Tensor]:
    """As `vertical_slash_indices`, from the attention of the last queries [B, H, rows, L]."""
    length = attention.shape[-1]
    columns = _strongest(attention.sum(-2), min(length, max(vertical_size, FORCED_COLUMNS)), FORCED_COLUMNS)
    distances = _strongest(diagonal_sums(attention), min(length, max(slash_size, LEAST_SLASHES)), forced_distances)
    return columns, distances


def _strongest(scores: Tensor, count: int, forced: int) -> Tensor:
    """Indices of the `count` largest entries, ascending; the first `forced` come before all others, in order."""
    rank = scores.clone()
    lead = min(forced, scores.shape[-1])
    # attention sums are at most the number of rows, far below these
    rank[..., :lead] = torch.arange(lead, 0, -1, device=scores.device) + 1e6
    order = rank.sort(dim=-1, descending=True, stable=True).indices
    return order[..., :count].sort(-1).values


def slash_blocks(distances: Tensor, *, q_len: int, kv_len: int, q_offset: int, block_size: int) -> Tensor:
    """Blocks that hold a cell of one of the distances.

    distances : Tensor int64 [B, H, S]

    Returns
    -------
    Tensor bool [B, H, nQ, nK]. A slash crosses up to two blocks of every row block; both are read whole.
    """
    device = distances.device
    hit = torch.zeros(*distances.shape[:2], kv_len, dtype=torch.int32, device=device).scatter_(2, distances, 1)
    upto = F.pad(hit.cumsum(-1), (1, 0))
    first = torch.arange(-(-q_len // block_size), device=device) * block_size + q_offset
    last = (first + block_size - 1).clamp(max=q_offset + q_len - 1)
    start = torch.arange(-(-kv_len // block_size), device=device) * block_size
    nearest = (first[:, None] - start - block_size + 1).clamp(0, kv_len)
    farthest = (last[:, None] - start + 1).clamp(0, kv_len)
    # the distance from a row block to a key block takes few values, so this is a lookup of [nQ, nK] numbers a head
    return upto[..., farthest] > upto[..., nearest]
