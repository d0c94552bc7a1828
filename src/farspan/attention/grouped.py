"""Attention of few queries over a long cache, exact, without expanding grouped heads.

The query heads of a group read the same keys, so they are rows of one matrix: each key and value is fetched once a
group instead of once a head, and nothing is copied. This is the decode path of a CPU, where fetching keys is all the
cost. It selects nothing; `reference` beside it is the definition the tests compare against.
"""

from __future__ import annotations

import torch
from torch import Tensor


def grouped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scaling: float | None = None,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention with the heads of a group packed as rows.

    Parameters
    ----------
    query : Tensor [B, Hq, Lq, D]; key : Tensor [B, Hkv, L, D]; value : Tensor [B, Hkv, L, Dv]
    scaling : factor of the scores, by default D ** -0.5
    mask : Tensor bool [Lq, L] or [B, Lq, L], True is read; None reads everything
    bias : Tensor [B, L] in the query's dtype, added to the scores of all queries in place of a mask; not all -inf

    Returns
    -------
    (output, logsumexp) : [B, Hq, Lq, Dv] in the query's dtype; [B, Hq, Lq] in float32 (float64 for float64). A query
        that reads no key gives 0 and -inf. No gradients.
    """
    batch, heads, length, _ = query.shape
    kv_heads = key.shape[1]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    packed = query.reshape(batch, kv_heads, heads // kv_heads * length, query.shape[-1])
    if bias is not None:
        bias = bias[:, None, None].expand(batch, 1, packed.shape[2], -1)
    if mask is not None:
        cells = (mask if mask.ndim == 3 else mask[None]).expand(batch, length, key.shape[2])
        bias = torch.zeros(cells.shape, dtype=query.dtype, device=query.device).masked_fill_(~cells, -torch.inf)
        bias = bias[:, None].expand(batch, heads // kv_heads, length, -1).flatten(1, 2)[:, None]
    if query.device.type == "cpu" and key.shape[-1] == value.shape[-1] and key.shape[2] > 0:
        output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            packed, key, value, 0.0, False, attn_mask=bias, scale=scale
        )
        lse = lse.to(torch.float64 if query.dtype == torch.float64 else torch.float32)
    else:
        output, lse = _written_out(packed, key, value, scale, bias)
    if mask is not None:
        idle = ~cells.any(-1)
        if bool(idle.any()):
            idle = idle[:, None].expand(batch, heads // kv_heads, length).flatten(1)[:, None].expand(lse.shape)
            output, lse = output.masked_fill(idle[..., None], 0.0), lse.masked_fill(idle, -torch.inf)
    return output.reshape(batch, heads, length, value.shape[-1]), lse.reshape(batch, heads, length)


def reference(
    query: Tensor, key: Tensor, value: Tensor, *, scaling: float | None = None, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same, head by head with every head's keys written out; arguments and results as in `grouped_attention`."""
    groups = query.shape[1] // key.shape[1]
    keys, values = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    bias = None
    if mask is not None:
        cells = mask if mask.ndim == 3 else mask[None]
        bias = torch.zeros(cells.shape, dtype=torch.float64).masked_fill(~cells, -torch.inf)[:, None]
    output, lse = _written_out(query.double(), keys.double(), values.double(), scale, bias)
    precision = torch.float64 if query.dtype == torch.float64 else torch.float32
    return output.to(query.dtype), lse.to(precision)


def _written_out(query: Tensor, key: Tensor, value: Tensor, scale: float, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    scores = (query @ key.transpose(-1, -2)).to(torch.promote_types(query.dtype, torch.float32)) * scale
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    lse = scores.logsumexp(-1)
    weights = (scores - lse.masked_fill(lse == -torch.inf, 0.0)[..., None]).exp()
    return weights.to(value.dtype) @ value, lse
