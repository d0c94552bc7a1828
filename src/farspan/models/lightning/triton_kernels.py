"""Lightning attention on a GPU: one kernel for whole sequences, one for a single new token.

A program owns one sequence, one head and a slice of the value channels. It walks over the tiles with its part of the
state in registers, so the state never goes to memory in between. Backward needs no kernel of its own: `op.py` calls
`run` again with exchanged arguments. Imported only where the triton package is installed.

Source: arXiv 2401.04658 (Lightning Attention-2), algorithm 1, with both halves of it in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 64
# value channels of a program: more programs for short batches against rereading queries and keys
VALUES = 64


@triton.jit  # type: ignore[untyped-decorator]
def _walk(  # type: ignore[no-untyped-def]
    q,
    k,
    v,
    out,
    slopes,
    first_state,
    last_state,
    bounds,
    heads,
    key_dim: tl.constexpr,
    value_dim: tl.constexpr,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
    TILE: tl.constexpr,
    HAS_STATE: tl.constexpr,
    REVERSE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    part, row = tl.program_id(0), tl.program_id(1)
    sequence, head = row // heads, row % heads
    begin = tl.load(bounds + sequence)
    length = tl.load(bounds + sequence + 1) - begin
    rate = tl.load(slopes + head).to(tl.float32)
    d = tl.arange(0, KEYS)
    e = part * VALUES + tl.arange(0, VALUES)
    i = tl.arange(0, TILE)
    cell = (row * key_dim + d[:, None]).to(tl.int64) * value_dim + e[None, :]
    real = (d[:, None] < key_dim) & (e[None, :] < value_dim)
    if HAS_STATE:
        state = tl.load(first_state + cell, mask=real, other=0.0)
    else:
        state = tl.zeros([KEYS, VALUES], dtype=tl.float32)
    apart = tl.maximum(i[:, None] - i[None, :], 0)
    inside = tl.where(i[:, None] >= i[None, :], tl.exp(-rate * apart), 0.0)
    since_start = tl.exp(-rate * (i + 1))
    for start in range(0, length, TILE):
        count = tl.minimum(TILE, length - start)
        token = begin + length - 1 - start - i if REVERSE else begin + start + i
        there = i < count
        place = token.to(tl.int64) * heads + head
        wide = there[:, None] & (d[None, :] < key_dim)
        narrow = there[:, None] & (e[None, :] < value_dim)
        query = tl.load(q + place[:, None] * key_dim + d[None, :], mask=wide, other=0.0)
        key = tl.load(k + place[:, None] * key_dim + d[None, :], mask=wide, other=0.0)
        value = tl.load(v + place[:, None] * value_dim + e[None, :], mask=narrow, other=0.0)
        scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * inside
        result = tl.dot(scores.to(value.dtype), value, input_precision=PRECISION)
        result += tl.dot(query.to(tl.float32) * since_start[:, None], state, input_precision=PRECISION)
        tl.store(out + place[:, None] * value_dim + e[None, :], result.to(value.dtype), mask=narrow)
        until_end = tl.where(there, tl.exp(-rate * tl.maximum(count - 1 - i, 0)), 0.0)
        faded = (key.to(tl.float32) * until_end[:, None]).to(value.dtype)
        state = state * tl.exp(-rate * count) + tl.dot(tl.trans(faded), value, input_precision=PRECISION)
    tl.store(last_state + cell, state, mask=real)


@triton.jit  # type: ignore[untyped-decorator]
def _step(  # type: ignore[no-untyped-def]
    q,
    k,
    v,
    out,
    slopes,
    first_state,
    last_state,
    heads,
    key_dim: tl.constexpr,
    value_dim: tl.constexpr,
    KEYS: tl.constexpr,
    VALUES: tl.constexpr,
):
    part, row = tl.program_id(0), tl.program_id(1)
    rate = tl.load(slopes + row % heads).to(tl.float32)
    d = tl.arange(0, KEYS)
    e = part * VALUES + tl.arange(0, VALUES)
    cell = (row * key_dim + d[:, None]).to(tl.int64) * value_dim + e[None, :]
    real = (d[:, None] < key_dim) & (e[None, :] < value_dim)
    query = tl.load(q + row * key_dim + d, mask=d < key_dim, other=0.0).to(tl.float32)
    key = tl.load(k + row * key_dim + d, mask=d < key_dim, other=0.0).to(tl.float32)
    value = tl.load(v + row * value_dim + e, mask=e < value_dim, other=0.0)
    state = tl.load(first_state + cell, mask=real, other=0.0) * tl.exp(-rate)
    state += key[:, None] * value.to(tl.float32)[None, :]
    tl.store(last_state + cell, state, mask=real)
    result = tl.sum(query[:, None] * state, axis=0)
    tl.store(out + row * value_dim + e, result.to(value.dtype), mask=e < value_dim)


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor,
    state: Tensor | None,
    bounds: Sequence[int] | None,
    *,
    tile: int | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """As `tiled.run`; tiles are powers of two of at least 16 here."""
    tile = max(16, triton.next_power_of_2(tile or TILE))
    batch, length, heads, key_dim = q.shape
    value_dim = v.shape[3]
    q, k, v = (x.contiguous() for x in (q, k, v))
    starts = [row * length for row in range(batch + 1)] if bounds is None else list(bounds)
    sequences = len(starts) - 1
    output = torch.empty_like(v)
    last = torch.empty(sequences, heads, key_dim, value_dim, dtype=torch.float32, device=q.device)
    first = last if state is None else state.float().contiguous()
    values = min(VALUES, max(16, triton.next_power_of_2(value_dim)))
    _walk[(triton.cdiv(value_dim, values), sequences * heads)](
        q,
        k,
        v,
        output,
        slopes.to(device=q.device, dtype=torch.float32).contiguous(),
        first,
        last,
        torch.tensor(starts, dtype=torch.int32, device=q.device),
        heads,
        key_dim,
        value_dim,
        max(16, triton.next_power_of_2(key_dim)),
        values,
        tile,
        state is not None,
        reverse,
        "ieee" if q.dtype == torch.float32 else "tf32",
    )
    return output, last


def decode(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """As `op.lightning_decode`, without gradients."""
    batch, _, heads, key_dim = q.shape
    value_dim = v.shape[3]
    q, k, v = (x.contiguous() for x in (q, k, v))
    first = state.float().contiguous()
    output, last = torch.empty_like(v), torch.empty_like(first)
    values = min(VALUES, triton.next_power_of_2(value_dim))
    _step[(triton.cdiv(value_dim, values), batch * heads)](
        q,
        k,
        v,
        output,
        slopes.to(device=q.device, dtype=torch.float32).contiguous(),
        first,
        last,
        heads,
        key_dim,
        value_dim,
        triton.next_power_of_2(key_dim),
        values,
    )
    return output, last.to(state.dtype)
