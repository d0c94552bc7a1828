"""The language-model head and its loss, over the supervised positions only.

A long context has few tokens that are answers; logits of all the others would cost most of the memory and be thrown
away. Rows are selected before the head, and the head runs in chunks, so that [tokens, vocabulary] never exists whole.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from farspan.training.data.packing import IGNORE_INDEX

# Supervised rows are filled up to a multiple of this with rows that weigh nothing.
ROWS = 128


def linear_cross_entropy_sum(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    token_weights: torch.Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    ignore_index: int = IGNORE_INDEX,
    chunk_size: int = 2048,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy of a linear head, without the full matrix of logits.

    Parameters
    ----------
    hidden : [tokens, hidden_size]
    weight : [vocabulary, hidden_size]
    targets : [tokens], `ignore_index` where the loss does not look
    token_weights : [tokens], what each target weighs; 1 where absent
    softcap : logits become `softcap * tanh(logits / softcap)`
    chunk_size : rows whose logits exist at the same time

    Returns
    -------
    The weighted sum of losses, and the sum of weights (the number of targets where `token_weights` is absent).
    """
    keep = targets != ignore_index
    hidden, targets = hidden[keep], targets[keep]
    weights = torch.ones_like(targets, dtype=torch.float32) if token_weights is None else token_weights[keep].float()
    # Kernels for matrix products on a CPU are built and cached for every number of rows: few numbers, little memory.
    spare = -len(targets) % ROWS if hidden.device.type == "cpu" else 0
    hidden, targets, weights = F.pad(hidden, (0, 0, 0, spare)), F.pad(targets, (0, spare)), F.pad(weights, (0, spare))
    total = (hidden.sum() + weight.sum()) * 0.0  # keeps the graph whole where nothing is supervised
    total = total.to(torch.promote_types(total.dtype, torch.float32))

    def chunk_loss(rows: torch.Tensor, labels: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        logits = F.linear(rows, weight, bias) * logit_scale
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        losses = F.cross_entropy(logits, labels, reduction="none")
        return (losses * shares.to(losses.dtype)).sum()

    for start in range(0, len(targets), chunk_size):
        part = slice(start, start + chunk_size)
        if len(targets) > chunk_size and torch.is_grad_enabled():
            total = total + checkpoint(chunk_loss, hidden[part], targets[part], weights[part], use_reentrant=False)
        else:
            total = total + chunk_loss(hidden[part], targets[part], weights[part])
    return total, weights.sum()
