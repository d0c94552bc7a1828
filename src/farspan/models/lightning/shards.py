"""Lightning attention over a sequence in shards: each shard needs one state, not its predecessors' keys and values.

Every shard computes the state its own tokens leave; these small states are exchanged, and each shard's initial state
follows from those before it. How they are exchanged is not decided here.

Source: arXiv 2501.08313 (MiniMax-01), section 2.2 (LASP+).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def states_before(states: Tensor, slopes: Tensor, lengths: Sequence[int]) -> Tensor:
    """The state before each shard's first token.

    Parameters
    ----------
    states : Tensor [shards, batch, heads, key_dim, value_dim], what each shard leaves if it starts from nothing
    slopes : Tensor [heads]
    lengths : tokens of each shard

    Returns
    -------
    Tensor like `states`
    """
    rates = slopes.to(device=states.device, dtype=states.dtype)[:, None, None]
    before = [torch.zeros_like(states[0])]
    for state, length in zip(states[:-1], lengths, strict=False):
        before.append(torch.exp(-rates * length) * before[-1] + state)
    return torch.stack(before)
