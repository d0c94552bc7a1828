"""Scores of key blocks and choices by their mass, shared by selectors. Works on tensors, knows no plan and no model."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["mean", "max"]


def block_means(rows: Tensor, block_size: int, *, kv_start: Tensor | None = None) -> Tensor:
    """Means of consecutive rows [B, H, L, D] -> float32 [B, H, ceil(L / block_size), D].

    Short last blocks and rows before `kv_start` [B] are divided by their true number of rows; an empty block gives 0.
    """
    batch, heads, length, dim = rows.shape
    blocks = -(-length // block_size)
    fill = blocks * block_size - length
    if fill == 0 and kv_start is None:
        # one pass over the rows: this is most of what selecting blocks by means costs
        return rows.reshape(batch, heads, blocks, block_size, dim).mean(3, dtype=torch.float32)
    valid = torch.ones(batch, length, dtype=torch.bool, device=rows.device)
    if kv_start is not None:
        valid = torch.arange(length, device=rows.device) >= kv_start[:, None].to(rows.device)
    valid = torch.nn.functional.pad(valid, (0, fill)).view(batch, 1, blocks, block_size, 1)
    padded = torch.nn.functional.pad(rows.float(), (0, 0, 0, fill)).view(batch, heads, blocks, block_size, dim)
    total: Tensor = (padded * valid).sum(3) if kv_start is not None else padded.sum(3)
    return total / valid.sum(3).clamp(min=1)


def block_maxima(rows: Tensor, block_size: int) -> Tensor:
    """Channel-wise maxima of consecutive rows [B, H, L, D] -> float32 [B, H, ceil(L / block_size), D]."""
    batch, heads, length, dim = rows.shape
    blocks = -(-length // block_size)
    fill = (0, 0, 0, blocks * block_size - length)
    padded = torch.nn.functional.pad(rows.float(), fill, value=-torch.inf)
    return padded.view(batch, heads, blocks, block_size, dim).amax(3)


def block_scores(
    query: Tensor,
    key: Tensor,
    *,
    block_size: int,
    allowed: Tensor,
    scaling: float | None = None,
    kv_start: Tensor | None = None,
    pooling: Pooling = "mean",
) -> Tensor:
    """Estimated attention mass of each key block: softmax over pooled queries and keys.

    Parameters
    ----------
    query : Tensor [B, Hq, Lq, D]; key : Tensor [B, H, L, D], H dividing Hq, in the order the blocks are cut
    allowed : Tensor bool [nQ, nK], blocks that take part
    kv_start : Tensor int [B], keys before it are padding; for means only
    pooling : blocks are represented by the mean, or by the maximum of each channel

    With means, a short last query block counts as filled up with zeros, as published: its scores are flatter, so it
    reads more.

    Returns
    -------
    Tensor float32 [B, Hq, nQ, nK]; a row's allowed entries sum to 1, all others are 0.

    Source: arXiv 2510.21270, section 3.3 (mean pooling as in MInference, arXiv 2407.02490).
    """
    if pooling == "max":
        rows, keys = block_maxima(query, block_size), block_maxima(key, block_size)
    else:
        rows, keys = query_means(query, block_size), block_means(key, block_size, kv_start=kv_start)
    return pooled_scores(rows, keys, allowed, query.shape[-1] ** -0.5 if scaling is None else scaling)


def query_means(query: Tensor, block_size: int) -> Tensor:
    """Means of blocks of queries, a short last one filled up with zeros: float32 [B, Hq, nQ, D]."""
    rows = block_means(query, block_size)
    if short := query.shape[2] % block_size:
        rows[:, :, -1] *= short / block_size
    return rows


def pooled_scores(rows: Tensor, keys: Tensor, allowed: Tensor, scaling: float) -> Tensor:
    """As `block_scores`, for blocks that are pooled already: rows [B, Hq, nQ, D], keys [B, H, nK, D]."""
    keys = keys.repeat_interleave(rows.shape[1] // keys.shape[1], dim=1)
    scores = rows @ keys.transpose(-1, -2) * scaling
    return scores.masked_fill(~allowed, -torch.inf).softmax(-1).nan_to_num(0.0).masked_fill(~allowed, 0.0)


def group_means(scores: Tensor, heads: int) -> Tensor:
    """Mean over the query heads of each group: [B, Hq, ...] -> [B, heads, ...]."""
    return scores.reshape(scores.shape[0], heads, -1, *scores.shape[2:]).mean(2)


def select_by_mass(
    scores: Tensor,
    threshold: float | Tensor,
    *,
    crossing: Literal["include", "exclude"] = "include",
    forced: Tensor | None = None,
) -> Tensor:
    """The largest entries of each row up to a mass.

    Parameters
    ----------
    scores : Tensor float [..., n], non-negative; ties go to the lower index
    threshold : the mass, a Tensor [..., 1] where rows differ
    crossing : `include` keeps the entry that crosses the threshold, so at least this mass; `exclude` leaves it out, so
        at most this mass, but never less than one entry
    forced : Tensor bool [..., n], entries kept in any case; their mass counts first

    Returns
    -------
    Tensor bool [..., n]. Everything is kept where a number of 1 is given or the threshold is not reached, so callers
    cut off entries that must not be read.

    Source: arXiv 2510.21270, section 3.3 (`include`); arXiv 2503.16428, section 2.2 (`forced`); arXiv 2502.18137,
    section 3.2 (`exclude`).
    """
    if not isinstance(threshold, Tensor) and threshold >= 1.0:
        return torch.ones_like(scores, dtype=torch.bool)
    begun: Tensor | float = 0.0
    rest = scores
    if forced is not None:
        begun = (scores * forced).sum(-1, keepdim=True)
        rest = scores.masked_fill(forced, 0.0)
    ordered, order = rest.sort(dim=-1, descending=True, stable=True)
    mass = ordered.cumsum(-1)
    before = torch.nn.functional.pad(mass[..., :-1], (1, 0)) + begun
    mass = mass + begun
    if crossing == "include":
        kept = (before < threshold) | (mass[..., -1:] < threshold)
    else:
        kept = mass <= threshold
        if forced is None:
            kept[..., 0] = True
    chosen = torch.zeros_like(kept).scatter(-1, order, kept)
    return chosen if forced is None else chosen | forced
