"""Attention over a block plan with exact gradients, without a compiler.

The forward pass of `gather` and a hand-written backward pass that keeps no scores: it computes them once more, block
by block, from the logsumexp. Gradients flow through the output and through the logsumexp, so partial results may be
merged and trained through. torch's fused CPU kernel offers no such logsumexp.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from farspan.attention.executors import gather
from farspan.attention.executors.tasks import TaskList
from farspan.attention.plan import BlockPlan


def attend(
    query: Tensor, key: Tensor, value: Tensor, plan: BlockPlan, scaling: float, need_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """As `gather.attend`, differentiable in query, key and value; half precision is computed in float32."""
    precision = torch.float64 if query.dtype == torch.float64 else torch.float32
    inputs = (query.to(precision), key.to(precision), value.to(precision))
    output, lse = _Attention.apply(*inputs, plan, scaling)  # type: ignore[no-untyped-call]
    return output.to(query.dtype), lse if need_lse else None


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor, plan: BlockPlan, scaling: float
    ) -> tuple[Tensor, Tensor]:
        output, lse = gather.attend(query, key, value, plan, scaling, True)
        assert lse is not None
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.plan, ctx.scaling = plan, scaling  # type: ignore[attr-defined]
        return output, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_output: Tensor, d_lse: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, lse = ctx.saved_tensors  # type: ignore[attr-defined]
        plan: BlockPlan = ctx.plan  # type: ignore[attr-defined]
        tasks = TaskList(plan, query.shape[1], key.shape[1])
        rows = tasks.pack_queries(query * ctx.scaling)  # type: ignore[attr-defined]
        keys, values = tasks.key_blocks(key), tasks.key_blocks(value)
        grads = tasks.pack_queries(d_output)
        # the row term of the softmax's derivative; a gradient of the logsumexp enters with the opposite sign
        row_term = tasks.pack_queries(((d_output * output).sum(-1) - d_lse)[..., None])
        norm = tasks.pack_queries(lse.masked_fill(lse == -torch.inf, 0.0)[..., None])
        d_rows, d_keys, d_values = torch.zeros_like(rows), torch.zeros_like(keys), torch.zeros_like(values)
        for batch in tasks.batches():
            some_keys = gather.collect(keys, batch, key.shape[-1])
            some_values = gather.collect(values, batch, value.shape[-1])
            scores = rows[batch.index] @ some_keys.transpose(1, 2)
            gather.mask_scores(scores, batch)
            weights = (scores - norm[batch.index]).exp()
            out_grads = grads[batch.index]
            d_scores = weights * (out_grads @ some_values.transpose(1, 2) - row_term[batch.index])
            d_rows[batch.index] = d_scores @ some_keys
            for target, part, dim in (
                (d_keys, d_scores.transpose(1, 2) @ rows[batch.index], key.shape[-1]),
                (d_values, weights.transpose(1, 2) @ out_grads, value.shape[-1]),
            ):
                blocks = batch.key_rows.shape[1] * plan.block_k
                target.index_add_(0, batch.key_rows.flatten(), part[:, :blocks].reshape(-1, target.shape[1]))
                if batch.single_rows is not None:
                    rest = part[:, blocks:].reshape(-1, dim)
                    target.view(-1, dim).index_add_(0, batch.single_rows.flatten(), rest)
        shape = (key.shape[0], key.shape[1], plan.n_k * plan.block_k, -1)
        d_query = tasks.unpack(d_rows) * ctx.scaling  # type: ignore[attr-defined]
        d_key, d_value = (x.view(shape)[:, :, : plan.kv_len] for x in (d_keys, d_values))
        return d_query, d_key, d_value, None, None
