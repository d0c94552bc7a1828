"""Attention over a block plan with torch's compiled `flex_attention`.

Needs a C++ compiler on a CPU, Triton on a GPU. Always compiled with `fullgraph`: uncompiled `flex_attention` ignores
the block lists and would silently compute something else, so a failure must be an error, never a detour.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from farspan.attention.executors.failure import ExecutorFailed
from farspan.attention.plan import BlockPlan


class FlexFailed(ExecutorFailed):
    """`flex_attention` could not be compiled on this machine."""


@cache
def _compiled() -> Callable[..., Tensor | tuple[Tensor, Tensor]]:
    # every number of heads and every block size is one compilation; torch's own limit of eight is too few
    limit = {"recompile_limit": 128} if "recompile_limit" in inspect.signature(torch.compile).parameters else {}
    compiled = torch.compile(flex_attention, fullgraph=True, **limit)  # type: ignore[call-overload]
    return cast("Callable[..., Tensor | tuple[Tensor, Tensor]]", compiled)


def refusal(query: Tensor, key: Tensor, plan: BlockPlan, need_lse: bool, need_grad: bool) -> str | None:
    """Why `attend` cannot take this call, or None."""
    if query.dtype == torch.float64:
        return "flex has no float64"
    if plan.col_ptr is not None:
        return "flex has no single key columns"
    if query.device.type == "cpu":
        if need_grad:
            return "flex has no gradients on a CPU"
        if need_lse:
            return "flex gives no logsumexp on a CPU"
        if plan.q_len == 1:
            return "flex takes more than one query on a CPU"
    elif plan.block_q % 128 or plan.block_k % 128:
        return "flex wants blocks that are multiples of 128 on a GPU"
    return None


def attend(
    query: Tensor, key: Tensor, value: Tensor, plan: BlockPlan, scaling: float, need_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """As `gather.attend`. Half precision without hardware for it is computed in float32, which is faster there.

    Raises
    ------
    FlexFailed : it does not compile here.
    """
    dtype = query.dtype
    if query.device.type == "cpu" and dtype != torch.float32 and not has_half_precision_tiles(dtype):
        query, key, value = query.float(), key.float(), value.float()
    mask = block_mask(plan, query.shape[1])
    try:
        result = _compiled()(
            query.contiguous(),
            key.contiguous(),
            value.contiguous(),
            block_mask=mask,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
            return_lse=need_lse,
        )
    except Exception as error:  # the compiler raises whatever its stages raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FlexFailed(f"flex_attention does not compile here ({first[:200]}); use backend='gather'") from error
    if isinstance(result, tuple):
        output, lse = result
        return output.to(dtype), lse
    return result.to(dtype), None


def has_half_precision_tiles(dtype: torch.dtype) -> bool:
    """Whether the CPU multiplies matrices of this half-precision type in hardware (AMX)."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16" if dtype == torch.bfloat16 else "amx_fp16", False))


def block_mask(plan: BlockPlan, query_heads: int) -> BlockMask:
    """The plan in the form `flex_attention` reads: block lists for every query head, and the element test."""
    spread = query_heads // plan.selections
    group = query_heads // plan.positions.shape[1]
    positions = plan.positions.contiguous()
    offset = torch.tensor([plan.q_offset], dtype=torch.int32, device=positions.device)

    def not_younger(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return positions[batch, head // group, key] <= query + offset[0]

    def widen(idx: Tensor) -> Tensor:
        full = torch.nn.functional.pad(idx, (0, plan.n_k - idx.shape[-1]))
        return full.repeat_interleave(spread, dim=1).contiguous()

    return BlockMask.from_kv_blocks(
        plan.partial_num.repeat_interleave(spread, dim=1).contiguous(),
        widen(plan.partial_idx),
        plan.full_num.repeat_interleave(spread, dim=1).contiguous(),
        widen(plan.full_idx),
        BLOCK_SIZE=(plan.block_q, plan.block_k),
        mask_mod=not_younger,
        seq_lengths=(plan.q_len, plan.kv_len),
        compute_q_blocks=query_heads > 0 and plan.full_num.device.type != "cpu",
    )
