"""Lightning attention over a sequence in contiguous shards: ranks exchange one small state each.

Every rank attends over its own tokens as if nothing came before, collects the states the others leave, and adds what
its queries read from the sum of earlier ones. What travels does not grow with the length.

Source: arXiv 2501.08313 (MiniMax-01), section 2.2 (LASP+).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from farspan.models.lightning import Backend, lightning_attention
from farspan.models.lightning.shards import states_before
from farspan.training.parallel.communicator import Communicator, Group, communicator


def distributed_lightning(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, *, group: Group = None, backend: Backend = "auto"
) -> Tensor:
    """This rank's part of lightning attention over the sequence of all ranks, in the order of ranks.

    Parameters
    ----------
    q, k : Tensor [batch, shard, heads, key_dim]; v : Tensor [batch, shard, heads, value_dim]; equal on all ranks
    slopes : Tensor [heads]

    Returns
    -------
    [batch, shard, heads, value_dim] in the dtype of `v`
    """
    ranks = communicator(group)
    own, state = lightning_attention(q, k, v, slopes, output_final_state=True, backend=backend)
    assert state is not None
    states: Tensor = _Gather.apply(state, ranks)  # type: ignore[no-untyped-call]
    earlier = states_before(states, slopes, [q.shape[1]] * ranks.size)[ranks.rank]
    index = torch.arange(1, q.shape[1] + 1, device=q.device, dtype=state.dtype)
    fading = torch.exp(-slopes.to(index) * index[:, None])
    read = torch.einsum("bnhd,bhde->bnhe", q.to(state.dtype) * fading[:, :, None], earlier)
    return (own.to(state.dtype) + read).to(v.dtype)


class _Gather(torch.autograd.Function):
    """States of all ranks; backward, each rank gets the sum of what all ranks' gradients say about its own."""

    @staticmethod
    def forward(ctx: FunctionCtx, state: Tensor, ranks: Communicator) -> Tensor:
        ctx.ranks = ranks  # type: ignore[attr-defined]
        return torch.stack(ranks.all_gather(state))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_states: Tensor) -> tuple[Tensor, None]:
        ranks: Communicator = ctx.ranks  # type: ignore[attr-defined]
        send = {rank: [d_states[rank]] for rank in range(ranks.size)}
        arrived = ranks.exchange(send, send)
        return torch.stack([parcel[0] for parcel in arrived.values()]).sum(0), None
