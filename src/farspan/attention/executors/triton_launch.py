"""Launches the Triton kernels over a block plan: sizes of tiles, order of work, splitting, and the autograd function.

Not run on a GPU yet: the kernels agree with `reference` in Triton's interpreter and compile for compute capability
9.0. Imported only where the triton package is installed; `kernel.py` beside it is the way in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from farspan.attention.executors import triton_kernels, triton_key_kernels
from farspan.attention.executors.tiles import Tiles, forward_candidates, tuned
from farspan.attention.executors.work import heaviest_first
from farspan.attention.merge import merge_attention
from farspan.attention.plan import BlockPlan

LOG2_E = 1.4426950408889634
# blocks of keys a split should have at least, so that its work outweighs merging
SPLIT_WORK = 8


@dataclass(frozen=True)
class Shape:
    """The sizes a launch is made from, for given tensors and plan."""

    plan: BlockPlan
    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype

    @property
    def units(self) -> int:
        """KV heads where the heads of a group share a selection, else query heads."""
        return self.heads if self.plan.selections > self.kv_heads else self.kv_heads

    @property
    def group(self) -> int:
        """Query heads of one unit."""
        return self.heads // self.units

    def constants(self, tiles: Tiles) -> dict[str, Any]:
        """What a kernel is compiled for."""
        return {
            "KEY_DIM": self.key_dim,
            "VALUE_DIM": self.value_dim,
            "KEY_WIDE": max(16, triton.next_power_of_2(self.key_dim)),
            "VALUE_WIDE": max(16, triton.next_power_of_2(self.value_dim)),
            "ROWS": tiles.rows,
            "TILE_Q": min(self.plan.block_q, max(1, tiles.rows // triton.next_power_of_2(self.group))),
            "TILE_K": min(self.plan.block_k, tiles.keys),
            "BLOCK_Q": self.plan.block_q,
            "PRECISION": "ieee" if self.dtype == torch.float32 else "tf32",
            "num_warps": tiles.warps,
            "num_stages": tiles.stages,
        }

    def layout(self) -> tuple[int, ...]:
        """Numbers of heads, units, query heads a unit, selections and key orders, as kernels take them."""
        plan = self.plan
        return self.heads, self.kv_heads, self.units, self.group, plan.selections, plan.positions.shape[1]

    def lengths(self) -> tuple[int, ...]:
        """Lengths and numbers of blocks, as kernels take them."""
        plan = self.plan
        return plan.q_len, plan.kv_len, plan.q_offset, plan.n_q, plan.n_k, plan.positions.shape[2]


def attend(
    query: Tensor, key: Tensor, value: Tensor, plan: BlockPlan, scaling: float, need_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """As `gather.attend`, differentiable in query, key and value."""
    output, lse = _Attention.apply(query, key, value, plan, scaling)  # type: ignore[no-untyped-call]
    return output, lse if need_lse else None


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: BlockPlan,
    scaling: float,
    *,
    tiles: Tiles | None = None,
    splits: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Output [B, Hq, q_len, Dv] and logsumexp float32 [B, Hq, q_len], without gradients.

    tiles : sizes of the tiles, by default measured once for this kind of problem
    splits : parts the lists of keys are cut into, by default as many as fill the processors of the GPU
    """
    shape = Shape(plan, query.shape[1], key.shape[1], query.shape[3], value.shape[3], query.dtype)
    query, key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value))
    if tiles is None:
        candidates = forward_candidates(shape.group, plan)
        kind = ("forward", shape.key_dim, shape.value_dim, shape.group, plan.block_q, plan.block_k, str(shape.dtype))
        tiles = tuned(kind, candidates, query.device, lambda some: _run(query, key, value, shape, scaling, some, 1))
    if splits is None:
        splits = _splits(shape, tiles, query.device)
    return _run(query, key, value, shape, scaling, tiles, splits)


def _run(
    query: Tensor, key: Tensor, value: Tensor, shape: Shape, scaling: float, tiles: Tiles, splits: int
) -> tuple[Tensor, Tensor]:
    plan, batch = shape.plan, len(query)
    constants = shape.constants(tiles)
    part = torch.float32 if splits > 1 else query.dtype
    output = torch.empty(splits, batch, shape.heads, plan.q_len, shape.value_dim, dtype=part, device=query.device)
    lse = torch.empty(splits, batch, shape.heads, plan.q_len, dtype=torch.float32, device=query.device)
    order = heaviest_first(plan, shape.units)
    per_block = triton.cdiv(min(plan.block_q, plan.q_len), constants["TILE_Q"])
    triton_kernels.forward[(len(order) * per_block, splits)](
        query,
        key,
        value,
        output,
        lse,
        *_lists(plan),
        order,
        *query.stride()[:3],
        *key.stride()[:3],
        *value.stride()[:3],
        scaling * LOG2_E,
        *shape.lengths(),
        plan.full_idx.shape[-1],
        plan.partial_idx.shape[-1],
        splits,
        batch,
        *shape.layout(),
        per_block,
        **constants,
        BLOCK_K=plan.block_k,
        HAS_COLUMNS=plan.col_ptr is not None,
    )
    if splits == 1:
        return output[0], lse[0]
    merged, norm = merge_attention(list(output), list(lse))
    return merged.to(query.dtype), norm


def _splits(shape: Shape, tiles: Tiles, device: torch.device) -> int:
    """Enough parts for every multiprocessor to have work, and no part too small."""
    if device.type != "cuda":
        return 1
    plan = shape.plan
    per_block = -(-min(plan.block_q, plan.q_len) // int(shape.constants(tiles)["TILE_Q"]))
    programs = plan.batch * shape.units * plan.n_q * per_block
    processors = int(torch.cuda.get_device_properties(device).multi_processor_count)
    if programs >= processors:
        return 1
    longest = plan.full_idx.shape[-1] + plan.partial_idx.shape[-1]
    return max(1, min(-(-2 * processors // programs), longest // SPLIT_WORK))


def _lists(plan: BlockPlan) -> tuple[Tensor, ...]:
    """The tables of the plan in the order kernels take them; without columns something stands in their place."""
    pointers = plan.full_num if plan.col_ptr is None else plan.col_ptr
    columns = plan.full_num if plan.col_idx is None else plan.col_idx
    tables = (plan.full_num, plan.full_idx, plan.partial_num, plan.partial_idx, plan.positions, pointers, columns)
    return tuple(table.contiguous() for table in tables)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor, plan: BlockPlan, scaling: float
    ) -> tuple[Tensor, Tensor]:
        output, lse = forward(query, key, value, plan, scaling)
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.plan, ctx.scaling = plan, scaling  # type: ignore[attr-defined]
        return output, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_output: Tensor, d_lse: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, lse = ctx.saved_tensors  # type: ignore[attr-defined]
        plan, scaling = ctx.plan, ctx.scaling  # type: ignore[attr-defined]
        gradients = gradients_of(query, key, value, output, lse, d_output, d_lse, plan, scaling)
        return *gradients, None, None


def gradients_of(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    d_output: Tensor,
    d_lse: Tensor,
    plan: BlockPlan,
    scaling: float,
    *,
    tiles: Tiles | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, from the results of `forward` and their gradients."""
    shape = Shape(plan, query.shape[1], key.shape[1], query.shape[3], value.shape[3], query.dtype)
    query, key, value = (x.contiguous() for x in (query, key, value))
    # a gradient of the logsumexp enters with the opposite sign of the row term of the softmax's derivative
    row_terms = ((d_output.float() * output.float()).sum(-1) - d_lse).contiguous()
    norms = (lse * LOG2_E).masked_fill(lse == -torch.inf, torch.inf)
    tables = (query, key, value, d_output.to(value.dtype).contiguous(), norms, row_terms)
    if tiles is None:
        candidates = forward_candidates(shape.group, plan)
        kind = ("backward", shape.key_dim, shape.value_dim, shape.group, plan.block_q, plan.block_k, str(shape.dtype))
        tiles = tuned(kind, candidates, query.device, lambda some: _all_gradients(tables, shape, scaling, some))
    return _all_gradients(tables, shape, scaling, tiles)


def _all_gradients(
    tables: tuple[Tensor, ...], shape: Shape, scaling: float, tiles: Tiles
) -> tuple[Tensor, Tensor, Tensor]:
    plan, (query, key, value) = shape.plan, tables[:3]
    constants = shape.constants(tiles)
    d_query = torch.empty(query.shape, dtype=torch.float32, device=query.device)
    order = heaviest_first(plan, shape.units)
    per_block = triton.cdiv(min(plan.block_q, plan.q_len), constants["TILE_Q"])
    triton_kernels.backward_queries[(len(order) * per_block,)](
        *tables,
        d_query,
        *_lists(plan),
        order,
        scaling * LOG2_E,
        scaling,
        *shape.lengths(),
        plan.full_idx.shape[-1],
        plan.partial_idx.shape[-1],
        *shape.layout(),
        per_block,
        **constants,
        BLOCK_K=plan.block_k,
        HAS_COLUMNS=plan.col_ptr is not None,
    )
    batch, spread = len(query), shape.units // shape.kv_heads
    d_key = query.new_empty(batch, shape.units, plan.kv_len, shape.key_dim, dtype=torch.float32)
    d_value = query.new_empty(batch, shape.units, plan.kv_len, shape.value_dim, dtype=torch.float32)
    lists = plan.transpose()
    unit = torch.arange(shape.units, device=query.device) * plan.selections // shape.units
    work = (lists.full_num + lists.partial_num)[:, unit].flatten()
    per_block = triton.cdiv(min(plan.block_k, plan.kv_len), constants["TILE_K"])
    triton_key_kernels.backward_blocks[(work.numel() * per_block,)](
        *tables,
        d_key,
        d_value,
        lists.full_num.contiguous(),
        lists.full_idx.contiguous(),
        lists.partial_num.contiguous(),
        lists.partial_idx.contiguous(),
        plan.positions.contiguous(),
        work.argsort(descending=True, stable=True).int(),
        scaling * LOG2_E,
        scaling,
        *shape.lengths(),
        lists.full_idx.shape[-1],
        lists.partial_idx.shape[-1],
        *shape.layout(),
        per_block,
        **constants,
        BLOCK_K=plan.block_k,
    )
    if plan.col_ptr is not None:
        _add_columns(tables, shape, scaling, constants, d_key, d_value)
    grouped = (x.view(batch, shape.kv_heads, spread, *x.shape[2:]).sum(2) for x in (d_key, d_value))
    d_key, d_value = grouped
    return d_query.to(query.dtype), d_key.to(key.dtype), d_value.to(value.dtype)


def _add_columns(
    tables: tuple[Tensor, ...], shape: Shape, scaling: float, constants: dict[str, Any], d_key: Tensor, d_value: Tensor
) -> None:
    """Add the gradients of the single key columns to d_key and d_value [B, units, kv_len, dim], in place."""
    plan, device = shape.plan, d_key.device
    columns, members = column_members(plan)
    width = columns.shape[-1]
    if width == 0:
        return
    parts = [d_key.new_empty(*d_key.shape[:2], width, x.shape[-1]) for x in (d_key, d_value)]
    per_line = triton.cdiv(width, constants["TILE_K"])
    triton_key_kernels.backward_columns[(plan.batch * shape.units * per_line,)](
        *tables,
        *parts,
        columns,
        members,
        plan.positions.contiguous(),
        scaling * LOG2_E,
        scaling,
        plan.q_len,
        plan.kv_len,
        plan.q_offset,
        plan.n_q,
        plan.positions.shape[2],
        width,
        *shape.layout(),
        per_line,
        **constants,
    )
    unit = torch.arange(shape.units, device=device) * plan.selections // shape.units
    places = columns[:, unit].long()
    real = (places >= 0)[..., None]
    for whole, part in ((d_key, parts[0]), (d_value, parts[1])):
        at = places.clamp(min=0)[..., None].expand_as(part)
        whole.scatter_add_(2, at, part.masked_fill(~real, 0.0))


def column_members(plan: BlockPlan) -> tuple[Tensor, Tensor]:
    """The single key columns seen from the keys.

    Returns
    -------
    columns : Tensor int32 [B, Hs, width], the different keys of each line, ascending; -1 fills up
    members : Tensor int8 [B, Hs, nQ, width], 1 where the query block reads the key
    """
    assert plan.col_ptr is not None
    assert plan.col_idx is not None
    device, lines = plan.col_idx.device, plan.batch * plan.selections
    task = torch.repeat_interleave(torch.arange(len(plan.col_ptr) - 1, device=device), plan.col_ptr.diff())
    line, block = task // plan.n_q, task % plan.n_q
    different, which = torch.unique(line * plan.kv_len + plan.col_idx.long(), return_inverse=True)
    count = torch.bincount(different // plan.kv_len, minlength=lines)
    begin = count.cumsum(0) - count
    width = int(count.max()) if len(different) else 0
    columns = torch.full((lines, width), -1, dtype=torch.int32, device=device)
    owner = different // plan.kv_len
    columns[owner, torch.arange(len(different), device=device) - begin[owner]] = (different % plan.kv_len).int()
    members = torch.zeros(lines, plan.n_q, width, dtype=torch.int8, device=device)
    members[line, block, which - begin[line]] = 1
    return columns.view(plan.batch, plan.selections, width), members.view(plan.batch, plan.selections, plan.n_q, width)
