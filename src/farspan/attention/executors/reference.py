"""Attention over a block plan as its definition says it, cell by cell: the oracle of every other executor.

Quadratic memory, any device, gradients. For tests and small sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from farspan.attention.plan import BlockPlan


def attend(
    query: Tensor, key: Tensor, value: Tensor, plan: BlockPlan, scaling: float, need_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Softmax over the allowed cells in float32 (float64 for float64 inputs); shapes as in `gather.attend`."""
    precision = torch.float64 if query.dtype == torch.float64 else torch.float32
    heads = query.shape[1]
    keys, values = (x.to(precision).repeat_interleave(heads // x.shape[1], dim=1) for x in (key, value))
    allowed = plan.to_token_mask().repeat_interleave(heads // plan.selections, dim=1)
    scores = (query.to(precision) @ keys.transpose(-1, -2) * scaling).masked_fill(~allowed, -torch.inf)
    some = allowed.any(-1, keepdim=True)
    weights = scores.masked_fill(~some, 0.0).softmax(-1).masked_fill(~allowed, 0.0)
    output = (weights @ values).to(query.dtype)
    return output, torch.logsumexp(scores, -1) if need_lse else None
