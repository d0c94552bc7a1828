"""Attention that skips nothing: what every method falls back to, and what every method is compared with.

`attend` runs a complete plan through torch's fused kernels. `explicit_attention` writes the scores out, a bounded
number of rows at a time, for what fused kernels do not know: capped scores, learned sinks, returned weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from farspan.attention.plan import BlockPlan

SCORES_AT_ONCE = 1 << 26  # 256 MiB of float32 scores


def refusal(plan: BlockPlan, need_lse: bool) -> str | None:
    """Why `attend` cannot take this call, or None."""
    if plan.kv_pos is not None or plan.kv_start is not None or plan.kv_stop is not None:
        return "dense wants keys in their own order and without padding"
    if need_lse:
        return "dense gives no logsumexp"
    if plan.density() < 1.0:
        return f"dense reads everything, the plan only {plan.density():.0%}"
    return None


def attend(
    query: Tensor, key: Tensor, value: Tensor, plan: BlockPlan, scaling: float, need_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Causal attention over all keys; shapes as in `gather.attend`."""
    mask = None
    if plan.q_len != plan.kv_len or plan.q_offset != 0:
        # torch aligns its causal flag to the first key, so a later chunk needs the mask written out
        mask = torch.arange(plan.kv_len, device=query.device) <= plan.query_positions[:, None]
    grouped = query.shape[1] != key.shape[1]
    output = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
    )
    return output, None


def explicit_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    dropout: float = 0.0,
    return_weights: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Attention with written-out scores.

    Parameters
    ----------
    query, key, value : [B, Hq, Lq, D], [B, Hkv, Lkv, D], [B, Hkv, Lkv, Dv]
    mask : boolean (True is read) or additive, broadcastable to [B, Hq, Lq, Lkv]; None reads everything
    softcap : scores s become softcap * tanh(s / softcap)
    sinks : [Hq], logits that take part in the softmax and carry no value

    Returns
    -------
    (output, weights) : [B, Hq, Lq, Dv] and [B, Hq, Lq, Lkv] or None. A row that reads no key gives 0.
    """
    heads, length = query.shape[1], query.shape[2]
    keys, values = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (key, value))
    step = max(1, SCORES_AT_ONCE // (query.shape[0] * heads * key.shape[2]))
    outputs, all_weights = [], []
    for start in range(0, length, step):
        rows = query[:, :, start : start + step]
        scores = (rows @ keys.transpose(-1, -2)).float() * scaling
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if mask is not None:
            part = mask if mask.shape[-2] == 1 else mask[..., start : start + step, :]
            scores = scores.masked_fill(~part, -torch.inf) if part.dtype == torch.bool else scores + part
        if sinks is not None:
            sink = sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
            weights = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
        else:
            empty = (scores == -torch.inf).all(-1, keepdim=True)
            weights = scores.masked_fill(empty, 0.0).softmax(-1).masked_fill(empty, 0.0)
        weights = F.dropout(weights.to(value.dtype), dropout)
        outputs.append(weights @ values)
        if return_weights:
            all_weights.append(weights)
    return torch.cat(outputs, 2), torch.cat(all_weights, 2) if return_weights else None
