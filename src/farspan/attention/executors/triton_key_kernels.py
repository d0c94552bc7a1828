"""Triton kernels of the gradients of keys and values over a block plan, beside `triton_kernels`.

A program owns a tile of keys of one unit and walks over the queries that read it: by the key-major lists of the plan
for blocks, by a table of membership for single key columns. No program writes what another writes, so equal inputs
give equal bytes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from farspan.attention.executors.triton_kernels import CHANGING, _key_step, _rows


@triton.jit(do_not_specialize=CHANGING)  # type: ignore[untyped-decorator]
def backward_blocks(  # type: ignore[no-untyped-def]
    q,
    k,
    v,
    d_out,
    norms,
    row_terms,
    d_k,
    d_v,
    lists_full_num,
    lists_full_idx,
    lists_partial_num,
    lists_partial_idx,
    plan_positions,
    order,
    scale,
    scaling,
    q_len,
    kv_len,
    q_offset,
    n_q,
    n_k,
    padded_len,
    longest_full,
    longest_partial,
    heads,
    kv_heads,
    units,
    group,
    selections,
    orders,
    tiles,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    KEY_WIDE: tl.constexpr,
    VALUE_WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    TILE_Q: tl.constexpr,
    TILE_K: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """d_k, d_v [batch, units, kv_len, dim] float32 from the blocks. Tables contiguous, norms in powers of two.

    order : tasks (batch, unit, key block), heaviest first
    """
    task = tl.load(order + tl.program_id(0) // tiles)
    block, unit, row = task % n_k, task // n_k % units, task // n_k // units
    line = ((row * selections + unit * selections // units) * n_k + block).to(tl.int64)
    first_key = (row * kv_heads + unit * kv_heads // units).to(tl.int64) * kv_len
    first_row = (row * heads + unit * group).to(tl.int64) * q_len

    place = block * BLOCK_K + tl.program_id(0) % tiles * TILE_K + tl.arange(0, TILE_K)
    real = place < kv_len
    keys = _rows(k + first_key * KEY_DIM, place, real, KEY_DIM, KEY_DIM, KEY_WIDE)
    values = _rows(v + first_key * VALUE_DIM, place, real, VALUE_DIM, VALUE_DIM, VALUE_WIDE)
    position = tl.load(plan_positions + (row * orders + unit * orders // units).to(tl.int64) * padded_len + place)
    d_keys = tl.zeros([TILE_K, KEY_WIDE], dtype=tl.float32)
    d_values = tl.zeros([TILE_K, VALUE_WIDE], dtype=tl.float32)
    SUBS: tl.constexpr = (BLOCK_Q + TILE_Q - 1) // TILE_Q

    for step in range(tl.load(lists_full_num + line) * SUBS):
        start = tl.load(lists_full_idx + line * longest_full + step // SUBS) * BLOCK_Q + step % SUBS * TILE_Q
        d_keys, d_values = _key_step(
            q, d_out, norms, row_terms, keys, values, position, d_keys, d_values, first_row, start, scale, q_len,
            q_offset, group, real, KEY_DIM, VALUE_DIM, KEY_WIDE, VALUE_WIDE, ROWS, TILE_Q, False, PRECISION,
        )  # fmt: skip
    for step in range(tl.load(lists_partial_num + line) * SUBS):
        start = tl.load(lists_partial_idx + line * longest_partial + step // SUBS) * BLOCK_Q + step % SUBS * TILE_Q
        d_keys, d_values = _key_step(
            q, d_out, norms, row_terms, keys, values, position, d_keys, d_values, first_row, start, scale, q_len,
            q_offset, group, real, KEY_DIM, VALUE_DIM, KEY_WIDE, VALUE_WIDE, ROWS, TILE_Q, True, PRECISION,
        )  # fmt: skip

    d, e = tl.arange(0, KEY_WIDE), tl.arange(0, VALUE_WIDE)
    out_row = ((row * units + unit).to(tl.int64) * kv_len + place)[:, None]
    tl.store(d_k + out_row * KEY_DIM + d[None, :], d_keys * scaling, mask=real[:, None] & (d[None, :] < KEY_DIM))
    tl.store(d_v + out_row * VALUE_DIM + e[None, :], d_values, mask=real[:, None] & (e[None, :] < VALUE_DIM))


@triton.jit(do_not_specialize=[*CHANGING, "longest_columns"])  # type: ignore[untyped-decorator]
def backward_columns(  # type: ignore[no-untyped-def]
    q,
    k,
    v,
    d_out,
    norms,
    row_terms,
    d_k,
    d_v,
    columns,
    members,
    plan_positions,
    scale,
    scaling,
    q_len,
    kv_len,
    q_offset,
    n_q,
    padded_len,
    longest_columns,
    heads,
    kv_heads,
    units,
    group,
    selections,
    orders,
    tiles,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    KEY_WIDE: tl.constexpr,
    VALUE_WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    TILE_Q: tl.constexpr,
    TILE_K: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """d_k, d_v [batch, units, longest_columns, dim] float32 from the single key columns.

    columns : [batch, selections, longest_columns], different keys, -1 fills up
    members : int8 [batch, selections, n_q, longest_columns], whether a query block reads the column
    """
    task = tl.program_id(0) // tiles
    unit, row = task % units, task // units
    line = (row * selections + unit * selections // units).to(tl.int64)
    first_key = (row * kv_heads + unit * kv_heads // units).to(tl.int64) * kv_len
    first_row = (row * heads + unit * group).to(tl.int64) * q_len

    slot = tl.program_id(0) % tiles * TILE_K + tl.arange(0, TILE_K)
    held = slot < longest_columns
    place = tl.load(columns + line * longest_columns + slot, mask=held, other=-1)
    real = place >= 0
    place = tl.maximum(place, 0)
    keys = _rows(k + first_key * KEY_DIM, place, real, KEY_DIM, KEY_DIM, KEY_WIDE)
    values = _rows(v + first_key * VALUE_DIM, place, real, VALUE_DIM, VALUE_DIM, VALUE_WIDE)
    position = tl.load(plan_positions + (row * orders + unit * orders // units).to(tl.int64) * padded_len + place)
    d_keys = tl.zeros([TILE_K, KEY_WIDE], dtype=tl.float32)
    d_values = tl.zeros([TILE_K, VALUE_WIDE], dtype=tl.float32)
    SUBS: tl.constexpr = (BLOCK_Q + TILE_Q - 1) // TILE_Q

    for step in range(n_q * SUBS):
        member = tl.load(members + (line * n_q + step // SUBS) * longest_columns + slot, mask=held, other=0) > 0
        if tl.max(member.to(tl.int32), 0) > 0:
            start = step // SUBS * BLOCK_Q + step % SUBS * TILE_Q
            d_keys, d_values = _key_step(
                q, d_out, norms, row_terms, keys, values, position, d_keys, d_values, first_row, start, scale, q_len,
                q_offset, group, member, KEY_DIM, VALUE_DIM, KEY_WIDE, VALUE_WIDE, ROWS, TILE_Q, True, PRECISION,
            )  # fmt: skip

    d, e = tl.arange(0, KEY_WIDE), tl.arange(0, VALUE_WIDE)
    out_row = ((row * units + unit).to(tl.int64) * longest_columns + slot)[:, None]
    tl.store(d_k + out_row * KEY_DIM + d[None, :], d_keys * scaling, mask=held[:, None] & (d[None, :] < KEY_DIM))
    tl.store(d_v + out_row * VALUE_DIM + e[None, :], d_values, mask=held[:, None] & (e[None, :] < VALUE_DIM))
