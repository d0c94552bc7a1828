"""Attention with its keys and values elsewhere: shards of a cache on several ranks, or tiles that stream in.

Both compute partial results over a part of the keys and merge them exactly. Nothing here has gradients; it is for
reading, with more keys than one device holds.

Source: arXiv 2302.06218, abstract (million-scale dependencies); merging is that of `farspan.attention.merge`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from farspan.attention.merge import merge_attention
from farspan.training.parallel.blocks import Rule, attend
from farspan.training.parallel.communicator import Group, communicator


@torch.no_grad()
def distributed_decode(
    q: Tensor, k: Tensor, v: Tensor, *, group: Group = None, scaling: float | None = None, kv_mask: Tensor | None = None
) -> Tensor:
    """New tokens, alike on all ranks, over a cache whose keys lie in shards of any length.

    Parameters
    ----------
    q : Tensor [batch, heads, new, head_dim], later than every key
    k, v : Tensor [batch, kv_heads, shard, head_dim], this rank's keys; there may be none
    kv_mask : bool Tensor [batch, shard], which of them are real

    Returns
    -------
    [batch, heads, new, head_dim], alike on all ranks
    """
    ranks = communicator(group)
    factor = q.shape[-1] ** -0.5 if scaling is None else scaling
    precision = torch.float64 if q.dtype == torch.float64 else torch.float32
    keys, values = (x.to(precision).repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = q.to(precision) @ keys.transpose(-1, -2) * factor
    if kv_mask is not None:
        scores = scores.masked_fill(~kv_mask[:, None, None].bool(), -torch.inf)
    lse = torch.logsumexp(scores, -1)
    weights = torch.exp(scores - torch.where(lse.isinf(), torch.zeros_like(lse), lse)[..., None])
    parcels = ranks.gather_among(range(ranks.size), [weights @ values, lse])
    output, _ = merge_attention([parcel[0] for parcel in parcels], [parcel[1] for parcel in parcels])
    return output.to(q.dtype)


@torch.no_grad()
def streaming_attention(
    q: Tensor,
    kv_source: Iterable[tuple[Tensor, Tensor]],
    *,
    causal: bool = True,
    q_start: int = 0,
    scaling: float | None = None,
) -> Tensor:
    """Attention over keys and values that come in tiles, from the host's memory or a mapped file.

    Parameters
    ----------
    q : Tensor [batch, heads, queries, head_dim]
    kv_source : tiles (k, v), [batch, kv_heads, tokens, head_dim], in the order of their positions, on any device; see
        `tiles`
    q_start : position of the first query

    Returns
    -------
    [batch, heads, queries, head_dim]
    """
    rule = Rule(causal, q.shape[-1] ** -0.5 if scaling is None else scaling)
    q_pos = torch.arange(q_start, q_start + q.shape[2])
    output, lse, start = None, None, 0
    for keys, values in kv_source:
        if causal and start > int(q_pos[-1]):
            break
        k_pos = torch.arange(start, start + keys.shape[2])
        start += keys.shape[2]
        key, value = (x.to(q.device, non_blocking=True) for x in (keys, values))
        part, total = attend(q, key, value, q_pos.to(q.device), k_pos.to(q.device), rule)
        if output is None or lse is None:
            output, lse = part, total
        else:
            output, lse = merge_attention([output, part], [lse, total])
    return torch.zeros_like(q) if output is None else output.to(q.dtype)


def tiles(k: Tensor, v: Tensor, tile: int = 8192) -> Iterator[tuple[Tensor, Tensor]]:
    """Keys and values [batch, kv_heads, tokens, head_dim] in views of `tile` tokens; a tensor over a mapped file is
    read only as far as it is used."""
    for start in range(0, k.shape[2], tile):
        yield k[:, :, start : start + tile], v[:, :, start : start + tile]
