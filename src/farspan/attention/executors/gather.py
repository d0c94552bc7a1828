"""Attention over a block plan without a compiler: collect the kept blocks, then two matrix products.

The way for processors without a C++ compiler and, where matrix libraries are strong, the fastest way on a CPU. It has
no gradients; `masked` is the same computation with them.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from farspan.attention.executors.tasks import Batch, TaskList
from farspan.attention.plan import BlockPlan


def attend(
    query: Tensor, key: Tensor, value: Tensor, plan: BlockPlan, scaling: float, need_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Exact attention over the kept cells.

    query [B, Hq, q_len, D], key [B, Hkv, kv_len, D], value [B, Hkv, kv_len, Dv] -> output [B, Hq, q_len, Dv] in the
    dtype of the query, logsumexp [B, Hq, q_len] in float32 (float64 for float64) if asked for. Rows without a key
    give 0 and -inf.
    """
    tasks = TaskList(plan, query.shape[1], key.shape[1])
    rounded = query.dtype in (torch.bfloat16, torch.float16)
    native = rounded and query.device.type == "cpu" and key.shape[-1] == value.shape[-1]
    if rounded and not native:
        precise, norm = attend(query.float(), key.float(), value.float(), plan, scaling, need_lse)
        return precise.to(query.dtype), norm
    rows = tasks.pack_queries(query)
    keys, values = tasks.key_blocks(key), tasks.key_blocks(value)
    output = rows.new_empty(*rows.shape[:2], value.shape[-1])
    precision = torch.float32 if native else query.dtype
    lse = torch.full(rows.shape[:2], -torch.inf, dtype=precision, device=rows.device) if need_lse else None
    if tasks.some_idle:
        output.zero_()
    scratch = _Scratch(rows)
    wide_masks: dict[int, Tensor] = {}
    part: Tensor | None
    for batch in tasks.batches():
        queries = rows[batch.index]
        some_keys = collect(keys, batch, key.shape[-1], scratch, "keys")
        some_values = collect(values, batch, value.shape[-1], scratch, "values")
        if native:
            result, part = _fused(queries, some_keys, some_values, batch, scaling, wide_masks)
        else:
            scores = scratch.take("scores", (batch.size, queries.shape[1], batch.cols))
            multiply(queries, some_keys.transpose(1, 2), scores, scaling)
            mask_scores(scores, batch)
            part = scores.logsumexp(-1) if need_lse else None
            empty = scores.amax(-1, keepdim=True) == -torch.inf if batch.may_be_empty else None
            torch.softmax(scores, -1, out=scores)
            if empty is not None:
                scores.masked_fill_(empty, 0.0)
            if isinstance(batch.index, slice):
                multiply(scores, some_values, output[batch.index])
                result = None
            else:
                result = scores @ some_values
        if result is not None:
            output[batch.index] = result
        if lse is not None and part is not None:
            lse[batch.index] = part
    return tasks.unpack(output), None if lse is None else tasks.unpack(lse)


class _Scratch:
    """Buffers that grow and are used again, so that the memory stays in the processor's cache."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        size = prod(shape)
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = self._like.new_empty(size)
        return self._buffers[name][:size].view(shape)


def collect(table: Tensor, batch: Batch, dim: int, scratch: _Scratch | None = None, name: str = "") -> Tensor:
    """The keys (or values) a batch of tasks reads: [t, cols, dim], blocks first, then single keys.

    table : [rows, block_k * dim]
    """
    index, width = batch.key_rows.flatten(), batch.key_rows.shape[1] * (table.shape[1] // dim)
    if batch.single_rows is None:
        if scratch is None:
            return table.index_select(0, index).view(batch.size, batch.cols, dim)
        target = scratch.take(name, (len(index), table.shape[1]))
        return torch.index_select(table, 0, index, out=target).view(batch.size, batch.cols, dim)
    tokens, singles = table.view(-1, dim), batch.single_rows.flatten()
    if scratch is None or batch.size > 1:
        parts = (table.index_select(0, index), tokens.index_select(0, singles))
        return torch.cat([part.view(batch.size, -1, dim) for part in parts], dim=1)
    target = scratch.take(name, (batch.cols, dim))
    torch.index_select(table, 0, index, out=target[:width].view(len(index), table.shape[1]))
    torch.index_select(tokens, 0, singles, out=target[width:])
    return target[None]


def multiply(left: Tensor, right: Tensor, out: Tensor, factor: float = 1.0) -> None:
    """Batched product times a factor into `out`; a lone matrix takes the plain product, which threads share better."""
    if len(left) == 1:
        torch.addmm(out[0], left[0], right[0], beta=0, alpha=factor, out=out[0])
    else:
        torch.baddbmm(out, left, right, beta=0, alpha=factor, out=out)


def mask_scores(scores: Tensor, batch: Batch) -> None:
    """Set the forbidden cells of scores [t, rows, cols] to -inf, in place."""
    if batch.bias is not None:
        scores[..., : batch.masked_cols].add_(batch.bias)
    if batch.forbidden is not None:
        scores[..., : batch.masked_cols].masked_fill_(batch.forbidden, -torch.inf)
    if batch.late_singles is not None:
        scores[..., -batch.late_singles.shape[-1] :].masked_fill_(batch.late_singles, -torch.inf)
    if batch.surplus is not None:
        scores.masked_fill_(batch.surplus, -torch.inf)


def _fused(
    queries: Tensor, keys: Tensor, values: Tensor, batch: Batch, scaling: float, wide_masks: dict[int, Tensor]
) -> tuple[Tensor, Tensor]:
    """Half-precision inputs: torch's own fused kernel, which multiplies in hardware and accumulates in float32."""
    mask = _additive_mask(batch, queries.shape[1], wide_masks)
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        queries[None], keys[None], values[None], 0.0, False, attn_mask=mask, scale=scaling
    )
    if batch.may_be_empty:
        assert mask is not None
        empty = (mask[0] == -torch.inf).all(-1).expand(lse[0].shape)
        return output[0].masked_fill(empty[..., None], 0.0), lse[0].masked_fill(empty, -torch.inf)
    return output[0], lse[0]


def _additive_mask(batch: Batch, rows: int, wide_masks: dict[int, Tensor]) -> Tensor | None:
    """What to add to all scores [1, t or 1, rows, cols]; the common triangle is written out once and then cut."""
    extra = (batch.forbidden, batch.late_singles, batch.surplus)
    if batch.bias is None and all(part is None for part in extra):
        return None
    if batch.bias is not None and all(part is None for part in extra):
        wide = wide_masks.get(id(batch.bias))
        if wide is None or wide.shape[-1] < batch.cols:
            wide = torch.nn.functional.pad(batch.bias, (0, 2 * batch.cols - batch.bias.shape[-1]))
            wide_masks[id(batch.bias)] = wide
        return wide[None, ..., : batch.cols]
    mask = torch.zeros(batch.size, rows, batch.cols)
    mask_scores(mask, batch)
    return mask[None]
