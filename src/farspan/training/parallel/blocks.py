"""Attention of some queries over some keys, by their true positions: the local work of every strategy.

A block gives its output normalised over its own keys, and the logarithm of its softmax denominator, so that blocks can
be merged; backward takes the merged logarithm and is exact for each block by itself. Positions decide what is computed:
a block that is all future is skipped, one that is all past needs no mask, and only what is left gets one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from farspan.attention.merge import merge_attention

SCORES_AT_ONCE = 1 << 24

Kind = Literal["none", "full", "causal", "strict", "masked"]


@dataclass(frozen=True)
class Rule:
    """What a query may read.

    Attributes
    ----------
    causal : keys at positions up to the query's own only
    scaling : factor of the scores
    kv_start, kv_stop : Tensor [batch], the positions of a row's keys that are real; None for all
    """

    causal: bool
    scaling: float
    kv_start: Tensor | None = None
    kv_stop: Tensor | None = None

    def kind(self, q_pos: Tensor, k_pos: Tensor) -> Kind:
        """How the block of these positions looks; both change by even steps."""
        if not q_pos.numel() or not k_pos.numel():
            return "none"
        q_first, q_last = sorted((int(q_pos[0]), int(q_pos[-1])))
        k_first, k_last = sorted((int(k_pos[0]), int(k_pos[-1])))
        if self.causal and k_first > q_last:
            return "none"
        cut = self.kv_start is not None and k_first < int(self.kv_start.max())
        cut = cut or (self.kv_stop is not None and k_last >= int(self.kv_stop.min()))
        if cut:
            return "masked"
        if not self.causal or k_last <= q_first:
            return "full"
        if len(q_pos) == len(k_pos) and len(q_pos) > 1:
            step, other = int(q_pos[1] - q_pos[0]), int(k_pos[1] - k_pos[0])
            ahead = q_first - k_first
            if step == other and 0 <= ahead < step:
                return "causal"
            if step == other and -step < ahead < 0:
                return "strict"
        return "masked"

    def allowed(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """Bool, broadcastable to [batch, 1, queries, keys]."""
        mask = torch.ones(1, 1, len(q_pos), len(k_pos), dtype=torch.bool, device=k_pos.device)
        if self.causal:
            mask = mask & (k_pos <= q_pos[:, None])
        if self.kv_start is not None:
            mask = mask & (k_pos >= self.kv_start.to(k_pos.device)[:, None, None, None])
        if self.kv_stop is not None:
            mask = mask & (k_pos < self.kv_stop.to(k_pos.device)[:, None, None, None])
        return mask


def runs(positions: Tensor) -> list[slice]:
    """Stretches of a shard whose positions change by even steps."""
    steps = positions.diff().tolist()
    found, first = [], 0
    for last in range(2, len(positions)):
        if last - first >= 2 and steps[last - 1] != steps[first]:
            found.append(slice(first, last))
            first = last
    return [*found, slice(first, len(positions))]


def attend(q: Tensor, k: Tensor, v: Tensor, q_pos: Tensor, k_pos: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """Attention of a whole shard of queries over a whole shard of keys.

    Parameters
    ----------
    q : Tensor [batch, heads, queries, head_dim]; k, v : Tensor [batch, kv_heads, keys, head_dim]
    q_pos, k_pos : integer Tensors of their positions

    Returns
    -------
    (output, logsumexp) : [batch, heads, queries, value_dim] and [batch, heads, queries], float32 (float64 for float64
        inputs); 0 and -inf where a query has no key
    """
    precision = torch.float64 if q.dtype == torch.float64 else torch.float32
    output = q.new_zeros(*q.shape[:3], v.shape[-1], dtype=precision)
    total = q.new_full(q.shape[:3], -torch.inf, dtype=precision)
    for rows in runs(q_pos):
        for columns in runs(k_pos):
            kind = rule.kind(q_pos[rows], k_pos[columns])
            if kind == "none":
                continue
            part, lse = _forward(
                q[:, :, rows], k[:, :, columns], v[:, :, columns], q_pos[rows], k_pos[columns], rule, kind
            )
            merged, summed = merge_attention([output[:, :, rows], part], [total[:, :, rows], lse])
            output[:, :, rows], total[:, :, rows] = merged, summed
    return output, total


def attend_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lse: Tensor,
    delta: Tensor,
    q_pos: Tensor,
    k_pos: Tensor,
    rule: Rule,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients that come from one shard of keys.

    Parameters
    ----------
    lse : Tensor [batch, heads, queries], merged over all keys
    delta : Tensor [batch, heads, queries], the sum over channels of output times its gradient

    Returns
    -------
    (d_q, d_k, d_v) in float32 (float64 for float64 inputs)
    """
    precision = torch.float64 if q.dtype == torch.float64 else torch.float32
    d_q, d_k, d_v = (torch.zeros_like(x, dtype=precision) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    # a query without any key has no gradient; a finite number keeps its zero weights from becoming nan
    lse = torch.where(lse.isinf(), torch.zeros_like(lse), lse)
    for rows in runs(q_pos):
        for columns in runs(k_pos):
            kind = rule.kind(q_pos[rows], k_pos[columns])
            if kind == "none":
                continue
            keys, values = (x[:, :, columns].to(precision).repeat_interleave(group, 1) for x in (k, v))
            for part in _row_parts(rows, q, keys.shape[2]):
                query, gradient = q[:, :, part].to(precision), d_out[:, :, part].to(precision)
                scores = query @ keys.transpose(-1, -2) * rule.scaling
                weights = torch.exp(scores - lse[:, :, part, None])
                if kind != "full":
                    weights = weights * rule.allowed(q_pos[part], k_pos[columns])
                d_weights = gradient @ values.transpose(-1, -2)
                d_scores = weights * (d_weights - delta[:, :, part, None]) * rule.scaling
                d_q[:, :, part] += d_scores @ keys
                d_k[:, :, columns] += _grouped(d_scores.transpose(-1, -2) @ query, group)
                d_v[:, :, columns] += _grouped(weights.transpose(-1, -2) @ gradient, group)
    return d_q, d_k, d_v


def _grouped(x: Tensor, group: int) -> Tensor:
    """Sum over the query heads that share a key head."""
    return x if group == 1 else x.reshape(len(x), -1, group, *x.shape[2:]).sum(2)


def _row_parts(rows: slice, q: Tensor, keys: int) -> list[slice]:
    """The rows in parts whose scores fit into a bounded memory."""
    step = max(1, SCORES_AT_ONCE // max(1, q.shape[0] * q.shape[1] * keys))
    return [slice(start, min(start + step, rows.stop)) for start in range(rows.start, rows.stop, step)]


def _forward(
    q: Tensor, k: Tensor, v: Tensor, q_pos: Tensor, k_pos: Tensor, rule: Rule, kind: Kind
) -> tuple[Tensor, Tensor]:
    if kind == "strict":
        # the first query comes before every key; what is left is causal with the last key unseen
        shape = (*q.shape[:2], 1)
        part, lse = _forward(q[:, :, 1:], k[:, :, :-1], v[:, :, :-1], q_pos[1:], k_pos[:-1], rule, "causal")
        none = part.new_zeros(*shape, v.shape[-1]), lse.new_full(shape, -torch.inf)
        return torch.cat([none[0], part], 2), torch.cat([none[1], lse], 2)
    group = q.shape[1] // k.shape[1]
    keys, values = (x.repeat_interleave(group, 1) for x in (k, v))
    if q.device.type == "cpu" and kind in ("full", "causal") and k.shape[-1] == v.shape[-1]:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        output, lse = flash(q, keys, values, 0.0, kind == "causal", attn_mask=None, scale=rule.scaling)
        precision = torch.float64 if q.dtype == torch.float64 else torch.float32
        return output.to(precision), lse.to(precision)
    return _explicit(q, keys, values, q_pos, k_pos, rule, kind)


def _explicit(
    q: Tensor, k: Tensor, v: Tensor, q_pos: Tensor, k_pos: Tensor, rule: Rule, kind: Kind
) -> tuple[Tensor, Tensor]:
    precision = torch.float64 if q.dtype == torch.float64 else torch.float32
    keys, values = k.to(precision), v.to(precision)
    outputs, totals = [], []
    for part in _row_parts(slice(0, q.shape[2]), q, k.shape[2]):
        scores = q[:, :, part].to(precision) @ keys.transpose(-1, -2) * rule.scaling
        if kind != "full":
            scores = scores.masked_fill(~rule.allowed(q_pos[part], k_pos), -torch.inf)
        lse = torch.logsumexp(scores, -1)
        weights = torch.exp(scores - torch.where(lse.isinf(), torch.zeros_like(lse), lse)[..., None])
        outputs.append(weights @ values)
        totals.append(lse)
    return torch.cat(outputs, 2), torch.cat(totals, 2)
