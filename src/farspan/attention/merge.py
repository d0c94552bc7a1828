"""Exact merging of attention computed in parts.

Attention over a set of keys can be computed over any partition of them and put together from the partial outputs and
the logarithms of their softmax denominators. Used for a diagonal beside its past, for splits along the keys, for a
prefix beside new tokens, and for the steps of a ring.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def merge_attention(outputs: Sequence[Tensor], logsumexps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Put partial attention results over disjoint sets of keys together.

    Parameters
    ----------
    outputs : tensors [..., length, head_dim], each normalised over its own keys
    logsumexps : tensors [..., length], log of each part's sum of exponentials; -inf where a part has no key

    Returns
    -------
    (output, logsumexp) : output in the dtype of the inputs, logsumexp in float32 (float64 for float64 inputs); a row
        without any key gives 0 and -inf. Differentiable in both.

    Raises
    ------
    ValueError : no parts, or different numbers of outputs and logsumexps.
    """
    if not outputs or len(outputs) != len(logsumexps):
        raise ValueError(f"need outputs and as many logsumexps, given {len(outputs)} and {len(logsumexps)}")
    precision = torch.float64 if outputs[0].dtype == torch.float64 else torch.float32
    lse = torch.stack([part.to(precision) for part in logsumexps])
    peak = lse.amax(0).detach()
    peak = torch.where(peak.isinf(), torch.zeros_like(peak), peak)
    weights = (lse - peak).exp()
    total = weights.sum(0)
    parts = torch.stack([part.to(precision) for part in outputs])
    empty = total == 0
    safe = torch.where(empty, torch.ones_like(total), total)
    merged = (weights[..., None] * parts).sum(0) / safe[..., None]
    log_total = torch.where(empty, torch.full_like(total, -torch.inf), peak + safe.log())
    return merged.to(outputs[0].dtype), log_total
