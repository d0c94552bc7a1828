"""Lightning attention as its definition says it, one token after the other: the oracle of every faster form.

For tests and small sizes; gradients flow.

Source: arXiv 2501.08313 (MiniMax-01), section 2.2.
"""

from __future__ import annotations

import torch
from torch import Tensor


def recurrent(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """S_t = exp(-slope) S_{t-1} + k_t^T v_t and o_t = q_t S_t; the present token is not decayed, nothing is divided.

    Parameters
    ----------
    q, k : Tensor [batch, length, heads, key_dim]
    v : Tensor [batch, length, heads, value_dim]
    slopes : Tensor [heads]
    state : Tensor [batch, heads, key_dim, value_dim], zeros if None

    Returns
    -------
    (output, state) : [batch, length, heads, value_dim] and the state after the last token, in float32, or float64 for
        float64 inputs
    """
    precision = torch.float64 if q.dtype == torch.float64 else torch.float32
    q, k, v = (x.to(precision) for x in (q, k, v))
    keep = torch.exp(-slopes.to(precision))[:, None, None]
    if state is None:
        state = q.new_zeros(len(q), q.shape[2], q.shape[3], v.shape[3])
    state = state.to(precision)
    outputs = []
    for t in range(q.shape[1]):
        state = keep * state + k[:, t, :, :, None] * v[:, t, :, None, :]
        outputs.append(torch.einsum("bhd,bhde->bhe", q[:, t], state))
    return torch.stack(outputs, 1) if outputs else v, state
