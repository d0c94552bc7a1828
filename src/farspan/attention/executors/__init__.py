"""Executors: exact softmax attention over a block plan, one file a way of computing it.

All take the same arguments and give the same result; `reference` is the definition, the others are faster somewhere.
A further executor is one file here and one row in `EXECUTORS`; `Chooser` in `choice.py` says when it is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor

from farspan.attention.executors import dense, flex, gather, kernel, masked, native, reference
from farspan.attention.executors.choice import Chooser, machine_costs
from farspan.attention.executors.failure import ExecutorFailed
from farspan.attention.executors.files import cache_folder
from farspan.attention.plan import BlockPlan, PlanError
from farspan.errors import FarspanError

Attend = Callable[[Tensor, Tensor, Tensor, BlockPlan, float, bool], tuple[Tensor, Tensor | None]]
Refusal = Callable[[Tensor, Tensor, BlockPlan, bool, bool], str | None]
Backend = Literal["auto", "dense", "reference", "masked", "gather", "native", "flex", "triton"]


class BackendRefused(FarspanError):
    """An executor that cannot take a call; the message says why."""


@dataclass(frozen=True)
class Executor:
    """One way to compute attention over a plan, and the reason why it would not take a call (None where it does)."""

    attend: Attend
    refusal: Refusal


def _takes_all(query: Tensor, key: Tensor, plan: BlockPlan, need_lse: bool, need_grad: bool) -> str | None:
    return None


def _without_gradients(query: Tensor, key: Tensor, plan: BlockPlan, need_lse: bool, need_grad: bool) -> str | None:
    return "gather has no gradients; use backend='masked'" if need_grad else None


def _complete(query: Tensor, key: Tensor, plan: BlockPlan, need_lse: bool, need_grad: bool) -> str | None:
    return dense.refusal(plan, need_lse)


EXECUTORS: dict[str, Executor] = {
    "dense": Executor(dense.attend, _complete),
    "reference": Executor(reference.attend, _takes_all),
    "masked": Executor(masked.attend, _takes_all),
    "gather": Executor(gather.attend, _without_gradients),
    "native": Executor(native.attend, native.refusal),
    "flex": Executor(flex.attend, flex.refusal),
    "triton": Executor(kernel.attend, kernel.refusal),
}


@overload
def block_sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: BlockPlan,
    *,
    scaling: float | None = ...,
    backend: Backend = ...,
    return_lse: Literal[False] = ...,
) -> Tensor: ...


@overload
def block_sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: BlockPlan,
    *,
    scaling: float | None = ...,
    backend: Backend = ...,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def block_sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: BlockPlan,
    *,
    scaling: float | None = None,
    backend: Backend = "auto",
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Exact attention over the cells a plan keeps.

    Parameters
    ----------
    query : Tensor [B, Hq, q_len, D]; key : Tensor [B, Hkv, kv_len, D]; value : Tensor [B, Hkv, kv_len, Dv]
    scaling : factor of the scores, by default D ** -0.5
    backend : an executor, or `auto`: the fastest on this machine that fits the call

    Returns
    -------
    output : Tensor [B, Hq, q_len, Dv] in the query's dtype; a row without a key gives 0. With `return_lse` also the
        logsumexp of the scores, Tensor [B, Hq, q_len] in float32 (float64 for float64), -inf for such a row.

    Raises
    ------
    PlanError : plan and tensors do not belong together.
    BackendRefused : the chosen executor cannot take this call.
    ExecutorFailed : `native`, `flex` or `triton` was asked for and does not build here.
    """
    output, lse, _ = execute(query, key, value, plan, scaling, backend, return_lse, Chooser())
    if return_lse:
        assert lse is not None
        return output, lse
    return output


def execute(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: BlockPlan,
    scaling: float | None,
    backend: str,
    need_lse: bool,
    chooser: Chooser,
) -> tuple[Tensor, Tensor | None, str]:
    """As `block_sparse_attention`, with the logsumexp where needed and the name of the executor that ran."""
    check_shapes(query, key, value, plan)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    need_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    chosen = backend
    if backend == "auto":
        chosen = chooser.choose(query, key, plan, need_lse=need_lse, need_grad=need_grad)
    elif backend not in EXECUTORS:
        raise BackendRefused(f"unknown backend '{backend}'; known: auto, {', '.join(EXECUTORS)}")
    refused = EXECUTORS[chosen].refusal(query, key, plan, need_lse, need_grad)
    if refused is not None:
        raise BackendRefused(f"backend '{chosen}' cannot take this call: {refused}")
    try:
        output, lse = EXECUTORS[chosen].attend(query, key, value, plan, scale, need_lse)
    except ExecutorFailed as error:
        if backend != "auto":
            raise
        chooser.failed(chosen, error)
        chosen = "masked" if need_grad else "gather"
        output, lse = EXECUTORS[chosen].attend(query, key, value, plan, scale, need_lse)
    return output, lse, chosen


def check_shapes(query: Tensor, key: Tensor, value: Tensor, plan: BlockPlan) -> None:
    """Raise `PlanError` where tensors and plan do not belong together."""
    if query.ndim != 4 or key.ndim != 4 or value.ndim != 4:
        raise PlanError("query, key and value must be [batch, heads, length, head_dim]")
    if query.shape[0] != plan.batch or query.shape[2] != plan.q_len:
        raise PlanError(
            f"the plan is for {plan.batch} rows of {plan.q_len} queries, given {query.shape[0]} of {query.shape[2]}"
        )
    if key.shape[:3] != value.shape[:3] or key.shape[0] != plan.batch or key.shape[2] != plan.kv_len:
        raise PlanError(
            f"the plan is for {plan.batch} rows of {plan.kv_len} keys, given keys {list(key.shape[:3])} "
            f"and values {list(value.shape[:3])}"
        )
    if query.shape[3] != key.shape[3]:
        raise PlanError(f"head_dim differs: queries {query.shape[3]}, keys {key.shape[3]}")
    heads, kv_heads = query.shape[1], key.shape[1]
    if heads % kv_heads:
        raise PlanError(f"{heads} query heads do not divide over {kv_heads} KV heads")
    for name, count in (("selections", plan.selections), ("key orders", plan.positions.shape[1])):
        allowed = {heads, kv_heads, 1}
        if count not in allowed:
            raise PlanError(f"{count} {name} fit neither {heads} query heads nor {kv_heads} KV heads nor one for all")
    if plan.positions.shape[1] > kv_heads:
        raise PlanError(f"{plan.positions.shape[1]} key orders need as many KV heads, given {kv_heads}")


__all__ = [
    "EXECUTORS",
    "Backend",
    "BackendRefused",
    "Executor",
    "ExecutorFailed",
    "block_sparse_attention",
    "cache_folder",
    "check_shapes",
    "execute",
    "machine_costs",
]
