"""Attention over a block plan on a CPU by a small C program, built once with the machine's own compiler.

Nothing is collected: blocks are read where they lie, scores never leave the core's caches, and single key columns cost
what they hold. float32 (half precision is widened); gives the logsumexp, no gradients. The library lies in the cache
folder under a name made of the source, the compiler and the processor.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor

from farspan.attention.executors.building import BuildFailed, program
from farspan.attention.executors.failure import ExecutorFailed
from farspan.attention.executors.work import heaviest_first
from farspan.attention.plan import BlockPlan

LOG2_E = 1.4426950408889634
LANES = 16  # of the widest processor: block_k and the value's channels are multiples of it
FLAGS: tuple[str, ...] = ()


class NativeFailed(ExecutorFailed):
    """The C program could not be built or loaded on this machine."""


class _Problem(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("query", "rows", "key", "value", "output", "lse")),
        *((name, ctypes.c_void_p) for name in ("full_num", "full_idx", "partial_num", "partial_idx", "positions")),
        *((name, ctypes.c_void_p) for name in ("col_ptr", "col_idx", "order")),
        *((name, ctypes.c_int64) for name in ("q_batch", "q_head", "q_row", "k_batch", "k_head", "k_row")),
        *((name, ctypes.c_int64) for name in ("v_batch", "v_head", "v_row")),
        *((name, ctypes.c_int64) for name in ("q_len", "kv_len", "q_offset", "n_q", "n_k", "padded_len")),
        *((name, ctypes.c_int64) for name in ("longest_full", "longest_partial")),
        *((name, ctypes.c_int64) for name in ("batch", "heads", "kv_heads", "units", "group", "selections", "orders")),
        *((name, ctypes.c_int64) for name in ("key_dim", "value_dim", "block_q", "block_k")),
        ("scale", ctypes.c_float),
    ]


def refusal(query: Tensor, key: Tensor, plan: BlockPlan, need_lse: bool, need_grad: bool) -> str | None:
    """Why `attend` cannot take this call, or None."""
    if query.device.type != "cpu":
        return "native runs on a CPU"
    if need_grad:
        return "native has no gradients; use backend='masked'"
    if query.dtype == torch.float64:
        return "native has no float64"
    if plan.block_k % LANES:
        return f"native wants blocks of keys that are multiples of {LANES}, not {plan.block_k}"
    return None


def attend(
    query: Tensor, key: Tensor, value: Tensor, plan: BlockPlan, scaling: float, need_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """As `gather.attend`; half precision is computed in float32.

    Raises
    ------
    NativeFailed : no C compiler, or it does not build here.
    """
    loaded = library()
    dtype, channels = query.dtype, value.shape[3]
    query, key, value = query.float(), key.float(), value.float()
    if channels % LANES:
        value = torch.nn.functional.pad(value, (0, -channels % LANES))
    query, key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value))
    batch, heads, kv_heads = len(query), query.shape[1], key.shape[1]
    units = heads if plan.selections > kv_heads else kv_heads
    turned = torch.empty(batch, kv_heads, plan.n_k, key.shape[3], plan.block_k)
    output = torch.empty(batch, heads, plan.q_len, value.shape[3])
    lse = torch.empty(batch, heads, plan.q_len)
    tables = [plan.full_num, plan.full_idx, plan.partial_num, plan.partial_idx, plan.positions]
    tables = [table.contiguous() for table in tables]
    order = heaviest_first(plan, units)
    problem = _Problem(
        *(x.data_ptr() for x in (query, key, turned, value, output, lse, *tables)),
        None if plan.col_ptr is None else plan.col_ptr.data_ptr(),
        None if plan.col_idx is None else plan.col_idx.data_ptr(),
        order.data_ptr(),
        *query.stride()[:3],
        *key.stride()[:3],
        *value.stride()[:3],
        plan.q_len,
        plan.kv_len,
        plan.q_offset,
        plan.n_q,
        plan.n_k,
        tables[-1].shape[-1],
        plan.full_idx.shape[-1],
        plan.partial_idx.shape[-1],
        batch,
        heads,
        kv_heads,
        units,
        heads // units,
        plan.selections,
        tables[-1].shape[1],
        key.shape[3],
        value.shape[3],
        plan.block_q,
        plan.block_k,
        scaling * LOG2_E,
    )

    def turn(head: int) -> None:
        rows = key[head // kv_heads, head % kv_heads]
        target = turned[head // kv_heads, head % kv_heads].data_ptr()
        loaded.farspan_turn(rows.data_ptr(), rows.stride(0), target, plan.kv_len, key.shape[3], plan.block_k)

    def work(part: int) -> int:
        return int(loaded.farspan_attend(ctypes.byref(problem), part, threads, len(order)))

    threads = min(torch.get_num_threads(), len(order))
    if threads == 1:
        for head in range(batch * kv_heads):
            turn(head)
        failed = work(0)
    else:
        # calls into C leave other Python threads running
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(turn, range(batch * kv_heads)))
            failed = max(pool.map(work, range(threads)))
    if failed:
        raise torch.OutOfMemoryError("no memory for the scores of one block of queries")
    return output[..., :channels].to(dtype), lse if need_lse else None


@cache
def library() -> ctypes.CDLL:
    """The built program: from the cache folder, or compiled now (under a second).

    Raises
    ------
    NativeFailed : no C compiler, or it does not build here.
    """
    source = files("farspan.attention.executors").joinpath("native.c").read_bytes()
    try:
        return _declared(program("native", source, FLAGS))
    except (BuildFailed, AttributeError) as error:
        raise NativeFailed(f"{error}; use backend='gather'") from error


def _declared(loaded: ctypes.CDLL) -> ctypes.CDLL:
    whole = ctypes.c_int64
    loaded.farspan_turn.argtypes = [ctypes.c_void_p, whole, ctypes.c_void_p, whole, whole, whole]
    loaded.farspan_turn.restype = None
    loaded.farspan_attend.argtypes = [ctypes.POINTER(_Problem), whole, whole, whole]
    loaded.farspan_attend.restype = ctypes.c_int
    return loaded
