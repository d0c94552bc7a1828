"""Exact attention over a sequence that lies in shards on several ranks, forward and backward.

Four strategies move different things: `ring` passes keys and values around, `allgather_kv` collects them all,
`ulysses` exchanges shards of tokens for shards of heads, `grid2d` collects queries along rows and keys along columns of
a grid of ranks. All give what one process would; the layout of tokens is carried by positions, never assumed.

Source: arXiv 2302.06218, abstract (distributed multi-head attention; its construction is not published); the
strategies are those of arXiv 2310.01889, DeepSpeed-Ulysses and arXiv 2503.15758, their backward passes derived here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from farspan.attention.merge import merge_attention
from farspan.training.parallel.blocks import Rule, attend, attend_backward
from farspan.training.parallel.communicator import Communicator, Group, Pending, communicator
from farspan.training.parallel.layouts import Layout, ParallelError, layout_indices
from farspan.training.parallel.plan import Strategy, choose_strategy, grid_rows, travelling_heads

Grads = tuple[Tensor, Tensor, Tensor]


def distributed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    group: Group = None,
    strategy: Strategy = "auto",
    layout: Layout = "zigzag",
    causal: bool = True,
    positions: Tensor | None = None,
    scaling: float | None = None,
    kv_start: Tensor | None = None,
    kv_lengths: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of this rank's queries over the keys of all ranks. Every rank of the group must call it.

    Parameters
    ----------
    q : Tensor [batch, heads, shard, head_dim]; k, v : Tensor [batch, kv_heads, shard, head_dim], equal on all ranks
    group : a torch.distributed group, None for all its processes, or a rank of `run_ranks`
    strategy : `auto` takes the one that receives least
    layout : how the shards were cut, see `shard_sequence`
    positions : integer Tensor [shard], positions of this rank's tokens, if they follow no layout
    scaling : head_dim ** -0.5 by default
    kv_start, kv_lengths : Tensor [batch], positions of each row's first key, and one past its last; all by default
    return_lse : also return the logsumexp, which carries no gradient

    Returns
    -------
    output [batch, heads, shard, head_dim] in the dtype of `q`, with logsumexp [batch, heads, shard] if asked for.
    Queries of padding give whatever their row gives, or 0 without any key.

    Raises
    ------
    ParallelError : heads that the strategy cannot divide, or shapes that do not fit.
    """
    if q.ndim != 4 or k.shape != v.shape or k.shape[2] != q.shape[2] or q.shape[1] % k.shape[1]:
        raise ParallelError(
            f"need q [batch, heads, shard, dim] and k, v alike with heads that divide; given {tuple(q.shape)}, "
            f"{tuple(k.shape)}, {tuple(v.shape)}"
        )
    ranks = communicator(group)
    batch, heads, shard, head_dim = q.shape
    sizes = (batch, heads, k.shape[1], shard * ranks.size, head_dim, ranks.size, q.element_size())
    if strategy == "auto":
        strategy = choose_strategy(*sizes)
    if strategy == "ulysses" and heads % ranks.size:
        raise ParallelError(f"ulysses needs heads divisible by ranks, given {heads} and {ranks.size}; take 'ring'")
    if positions is None:
        everyone = [part.to(q.device) for part in layout_indices(shard * ranks.size, ranks.size, layout)]
    else:
        everyone = ranks.all_gather(positions.to(q.device))
    rule = Rule(causal, head_dim**-0.5 if scaling is None else scaling, kv_start, kv_lengths)
    rows = grid_rows(*sizes) if strategy == "grid2d" else 1
    job = Job(ranks, everyone, rule, rows, return_lse)
    output, lse = _Distributed.apply(q, k, v, job, STEPS[strategy])  # type: ignore[no-untyped-call]
    return (output, lse) if return_lse else output


@dataclass(frozen=True)
class Job:
    """What all strategies need to know: ranks, positions by rank, the mask's rule, rows of the grid."""

    ranks: Communicator
    positions: list[Tensor]
    rule: Rule
    rows: int
    need_lse: bool

    @property
    def own(self) -> Tensor:
        """Positions of this rank's tokens."""
        return self.positions[self.ranks.rank]


class _Distributed(torch.autograd.Function):
    """Forward of a strategy, and its backward from the output and logsumexp that were saved."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor, job: Job, steps: type[RingSteps]
    ) -> tuple[Tensor, Tensor]:
        output, lse = steps.forward(q, k, v, job)
        result = output.to(q.dtype)
        ctx.save_for_backward(q, k, v, result, lse)
        ctx.job, ctx.steps = job, steps  # type: ignore[attr-defined]
        ctx.mark_non_differentiable(lse)
        return result, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_out: Tensor, d_lse: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, output, lse = ctx.saved_tensors  # type: ignore[attr-defined]
        grads = ctx.steps.backward(d_out, q, k, v, output, lse, ctx.job)  # type: ignore[attr-defined]
        d_q, d_k, d_v = (grad.to(x.dtype) for grad, x in zip(grads, (q, k, v), strict=True))
        return d_q, d_k, d_v, None, None


def _delta(d_out: Tensor, output: Tensor, lse: Tensor) -> Tensor:
    return (d_out.to(lse.dtype) * output.to(lse.dtype)).sum(-1)


class RingSteps:
    """Keys and values go around once; on the way back so do their gradients, which are home after a full turn."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, job: Job) -> tuple[Tensor, Tensor]:
        """Output and logsumexp of this rank's queries, in float32."""
        ranks = job.ranks
        held: list[Tensor] = [k, v]
        output, lse = None, None
        for step in range(ranks.size):
            moving = _pass_on(ranks, held) if step + 1 < ranks.size else None
            source = (ranks.rank - step) % ranks.size
            part, total = attend(q, held[0], held[1], job.own, job.positions[source], job.rule)
            if output is None or lse is None:
                output, lse = part, total
            else:
                output, lse = merge_attention([output, part], [lse, total])
            if moving is not None:
                held = moving.wait()[(ranks.rank - 1) % ranks.size]
        assert output is not None
        assert lse is not None
        return output, lse

    @staticmethod
    def backward(d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, lse: Tensor, job: Job) -> Grads:
        """Gradients of this rank's queries, keys and values."""
        ranks, delta = job.ranks, _delta(d_out, output, lse)
        before = (ranks.rank - 1) % ranks.size
        held: list[Tensor] = [k, v]
        d_q = torch.zeros_like(q, dtype=lse.dtype)
        carried: list[Tensor] | None = None
        returning = None
        for step in range(ranks.size):
            moving = _pass_on(ranks, held) if step + 1 < ranks.size else None
            source = (ranks.rank - step) % ranks.size
            grad, d_k, d_v = attend_backward(
                d_out, q, held[0], held[1], lse, delta, job.own, job.positions[source], job.rule
            )
            d_q += grad
            if moving is not None:
                held = moving.wait()[before]
            if returning is not None:
                arrived = returning.wait()[before]
                d_k, d_v = d_k + arrived[0], d_v + arrived[1]
            carried = [d_k, d_v]
            returning = _pass_on(ranks, carried) if ranks.size > 1 else None
        if returning is not None:
            carried = returning.wait()[before]
        assert carried is not None
        return d_q, carried[0], carried[1]


def _pass_on(ranks: Communicator, parcel: list[Tensor]) -> Pending:
    """Start sending to the next rank what the rank before sends here."""
    return ranks.start({(ranks.rank + 1) % ranks.size: parcel}, {(ranks.rank - 1) % ranks.size: parcel})


class GatherSteps(RingSteps):
    """Every rank collects all keys and values at once, and sends each its gradients."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, job: Job) -> tuple[Tensor, Tensor]:
        everyone = job.ranks.gather_among(range(job.ranks.size), [k, v])
        keys, values = (torch.cat([parcel[index] for parcel in everyone], 2) for index in (0, 1))
        return attend(q, keys, values, job.own, torch.cat(job.positions), job.rule)

    @staticmethod
    def backward(d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, lse: Tensor, job: Job) -> Grads:
        everyone = job.ranks.gather_among(range(job.ranks.size), [k, v])
        keys, values = (torch.cat([parcel[index] for parcel in everyone], 2) for index in (0, 1))
        delta = _delta(d_out, output, lse)
        d_q, d_k, d_v = attend_backward(d_out, q, keys, values, lse, delta, job.own, torch.cat(job.positions), job.rule)
        d_k, d_v = _scatter_sum(job.ranks, range(job.ranks.size), [d_k, d_v])
        return d_q, d_k, d_v


def _scatter_sum(ranks: Communicator, members: range, slabs: list[Tensor]) -> list[Tensor]:
    """Sum over members of each member's part of the slabs, which are cut along tokens in the order of members."""
    cut = [slab.chunk(len(members), 2) for slab in slabs]
    send = {rank: [parts[index] for parts in cut] for index, rank in enumerate(members)}
    arrived = ranks.exchange(send, dict.fromkeys(members, send[ranks.rank]))
    return [torch.stack([parcel[index] for parcel in arrived.values()]).sum(0) for index in range(len(slabs))]


class UlyssesSteps(RingSteps):
    """Shards of tokens become shards of heads; each rank attends over the whole sequence; and back."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, job: Job) -> tuple[Tensor, Tensor]:
        (head_q, head_k, head_v), tokens = _by_heads(job, q, k, v)
        output, lse = attend(head_q, head_k, head_v, tokens, tokens, job.rule)
        (result,) = _to_tokens(job.ranks, [output.to(q.dtype)])
        if job.need_lse:
            (lse,) = _to_tokens(job.ranks, [lse])
        elif job.ranks.size > 1:
            # backward makes its own; only the shape is needed here
            lse = lse.new_empty(q.shape[:3])
        return result.to(lse.dtype), lse

    @staticmethod
    def backward(d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, lse: Tensor, job: Job) -> Grads:
        (head_q, head_k, head_v), tokens = _by_heads(job, q, k, v)
        out, total = attend(head_q, head_k, head_v, tokens, tokens, job.rule)
        (gradient,) = _to_heads(job.ranks, [d_out])
        delta = _delta(gradient, out, total)
        grads = attend_backward(gradient, head_q, head_k, head_v, total, delta, tokens, tokens, job.rule)
        d_q, d_k, d_v = _to_tokens(job.ranks, list(grads))
        repeats = d_k.shape[1] // k.shape[1]
        if repeats > 1:
            d_k, d_v = (x.reshape(len(x), -1, repeats, *x.shape[2:]).sum(2) for x in (d_k, d_v))
        return d_q, d_k, d_v


def _by_heads(job: Job, q: Tensor, k: Tensor, v: Tensor) -> tuple[list[Tensor], Tensor]:
    repeats = travelling_heads(q.shape[1], k.shape[1], job.ranks.size) // k.shape[1]
    k, v = (x.repeat_interleave(repeats, 1) for x in (k, v))
    return _to_heads(job.ranks, [q, k, v]), torch.cat(job.positions)


def _to_heads(ranks: Communicator, tensors: list[Tensor]) -> list[Tensor]:
    """[batch, heads, shard, ...] -> [batch, heads / ranks, whole, ...], tokens in the order of ranks."""
    return _turn(ranks, tensors, cut=1, join=2)


def _to_tokens(ranks: Communicator, tensors: list[Tensor]) -> list[Tensor]:
    """The inverse of `_to_heads`."""
    return _turn(ranks, tensors, cut=2, join=1)


def _turn(ranks: Communicator, tensors: list[Tensor], cut: int, join: int) -> list[Tensor]:
    parts = [x.chunk(ranks.size, cut) for x in tensors]
    send = {rank: [part[rank] for part in parts] for rank in range(ranks.size)}
    arrived = ranks.exchange(send, dict.fromkeys(range(ranks.size), send[ranks.rank]))
    return [torch.cat([arrived[r][index] for r in range(ranks.size)], join) for index in range(len(tensors))]


class GridSteps(RingSteps):
    """Ranks in a grid: a row shares its queries, a column its keys; partial results are merged along the row."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, job: Job) -> tuple[Tensor, Tensor]:
        row, column = _grid(job)
        queries = torch.cat([parcel[0] for parcel in job.ranks.gather_among(row, [q])], 2)
        keys, values, k_pos = _column(job, column, k, v)
        output, lse = attend(queries, keys, values, _positions(job, row), k_pos, job.rule)
        outputs, totals = output.chunk(len(row), 2), lse.chunk(len(row), 2)
        send = {rank: [outputs[index], totals[index]] for index, rank in enumerate(row)}
        arrived = job.ranks.exchange(send, dict.fromkeys(row, send[job.ranks.rank])).values()
        return merge_attention([parcel[0] for parcel in arrived], [parcel[1] for parcel in arrived])

    @staticmethod
    def backward(d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, output: Tensor, lse: Tensor, job: Job) -> Grads:
        row, column = _grid(job)
        everyone = job.ranks.gather_among(row, [d_out, q, lse, _delta(d_out, output, lse)])
        gradient, queries, total, delta = (torch.cat([parcel[index] for parcel in everyone], 2) for index in range(4))
        keys, values, k_pos = _column(job, column, k, v)
        d_q, d_k, d_v = attend_backward(
            gradient, queries, keys, values, total, delta, _positions(job, row), k_pos, job.rule
        )
        (d_q,) = _scatter_sum(job.ranks, row, [d_q])
        d_k, d_v = _scatter_sum(job.ranks, column, [d_k, d_v])
        return d_q, d_k, d_v


def _grid(job: Job) -> tuple[range, range]:
    """Ranks of this rank's row and column."""
    columns = job.ranks.size // job.rows
    start = job.ranks.rank // columns * columns
    return range(start, start + columns), range(job.ranks.rank % columns, job.ranks.size, columns)


def _positions(job: Job, members: range) -> Tensor:
    return torch.cat([job.positions[rank] for rank in members])


def _column(job: Job, column: range, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    parcels = job.ranks.gather_among(column, [k, v])
    keys, values = (torch.cat([parcel[index] for parcel in parcels], 2) for index in (0, 1))
    return keys, values, _positions(job, column)


STEPS: dict[str, type[RingSteps]] = {
    "ring": RingSteps,
    "allgather_kv": GatherSteps,
    "ulysses": UlyssesSteps,
    "grid2d": GridSteps,
}
