"""Triton kernels of attention over a block plan: one forward, three backward; no tensor is made here.

A program of the forward kernel owns one tile of queries of one *unit*: a KV head with the query heads of its group
packed as rows where they share a selection, else one query head. It reads the full blocks of its list without any
test, then the partial ones and single key columns with the element test on positions. Weights are powers of two, the
scale carries log2(e). What is shared by all kernels is passed in `plan_*` tables as `BlockPlan` has them.

Imported only where the triton package is installed. Run through Triton's interpreter against `reference`, and compiled
for compute capability 9.0; not run on a GPU yet.

Source: arXiv 2307.08691 (FlashAttention-2), sections 3.1 and 3.2, over lists of blocks instead of ranges.
"""

from __future__ import annotations

import triton
import triton.language as tl

# sizes that change with every text must not make new programs
CHANGING = ["q_len", "kv_len", "q_offset", "n_q", "n_k", "padded_len", "longest_full", "longest_partial", "splits"]


@triton.jit  # type: ignore[untyped-decorator]
def _rows(base, place, there, stride, DIM: tl.constexpr, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows `place` of a table with `stride` elements a row, where `there`; channels filled up with zeros."""
    channel = tl.arange(0, WIDE)
    cell = base + place[:, None].to(tl.int64) * stride + channel[None, :]
    if DIM == WIDE:
        return tl.load(cell, mask=there[:, None], other=0.0)
    return tl.load(cell, mask=there[:, None] & (channel[None, :] < DIM), other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _all_rows(base, place, stride, DIM: tl.constexpr, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """As `_rows`, where all rows are there."""
    channel = tl.arange(0, WIDE)
    cell = base + place[:, None].to(tl.int64) * stride + channel[None, :]
    if DIM == WIDE:
        return tl.load(cell)
    return tl.load(cell, mask=channel[None, :] < DIM, other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _absorb(acc, total, peak, scores, value, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """One step of the running softmax over scores in powers of two."""
    highest = tl.maximum(peak, tl.max(scores, 1))
    base = tl.where(highest == -float("inf"), 0.0, highest)
    weights = tl.exp2(scores - base[:, None])
    shrink = tl.exp2(peak - base)
    total = total * shrink + tl.sum(weights, 1)
    acc = tl.dot(weights.to(value.dtype), value, acc * shrink[:, None], input_precision=PRECISION)
    return acc, total, highest


@triton.jit(do_not_specialize=CHANGING)  # type: ignore[untyped-decorator]
def forward(  # type: ignore[no-untyped-def]
    q,
    k,
    v,
    out,
    lse,
    plan_full_num,
    plan_full_idx,
    plan_partial_num,
    plan_partial_idx,
    plan_positions,
    plan_col_ptr,
    plan_col_idx,
    order,
    q_batch,
    q_head,
    q_row,
    k_batch,
    k_head,
    k_row,
    v_batch,
    v_head,
    v_row,
    scale,
    q_len,
    kv_len,
    q_offset,
    n_q,
    n_k,
    padded_len,
    longest_full,
    longest_partial,
    splits,
    batch,
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
    HAS_COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """out [splits, batch, heads, q_len, VALUE_DIM] and lse [splits, batch, heads, q_len], natural logarithms.

    order : tasks (batch, unit, query block), heaviest first; split s of S reads every S-th part of each list
    """
    task = tl.load(order + tl.program_id(0) // tiles)
    split = tl.program_id(1)
    block, unit, row = task % n_q, task // n_q % units, task // n_q // units
    line = ((row * selections + unit * selections // units) * n_q + block).to(tl.int64)
    kv_head = unit * kv_heads // units

    r = tl.arange(0, ROWS)
    query = block * BLOCK_Q + tl.program_id(0) % tiles * TILE_Q + r % TILE_Q
    head = unit * group + r // TILE_Q
    there = (r // TILE_Q < group) & (query < q_len)
    q_place = head.to(tl.int64) * q_head + query.to(tl.int64) * q_row
    queries = _rows(q + row.to(tl.int64) * q_batch, q_place, there, 1, KEY_DIM, KEY_WIDE)
    query_position = query + q_offset
    k += row.to(tl.int64) * k_batch + kv_head.to(tl.int64) * k_head
    v += row.to(tl.int64) * v_batch + kv_head.to(tl.int64) * v_head
    plan_positions += (row * orders + unit * orders // units).to(tl.int64) * padded_len

    acc = tl.zeros([ROWS, VALUE_WIDE], dtype=tl.float32)
    total = tl.zeros([ROWS], dtype=tl.float32)
    peak = tl.full([ROWS], -float("inf"), dtype=tl.float32)
    j = tl.arange(0, TILE_K)
    SUBS: tl.constexpr = BLOCK_K // TILE_K

    number = tl.load(plan_full_num + line)
    for step in range(number * split // splits * SUBS, number * (split + 1) // splits * SUBS):
        place = tl.load(plan_full_idx + line * longest_full + step // SUBS) * BLOCK_K + step % SUBS * TILE_K + j
        keys = _all_rows(k, place, k_row, KEY_DIM, KEY_WIDE)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
        values = _all_rows(v, place, v_row, VALUE_DIM, VALUE_WIDE)
        acc, total, peak = _absorb(acc, total, peak, scores, values, PRECISION)

    number = tl.load(plan_partial_num + line)
    for step in range(number * split // splits * SUBS, number * (split + 1) // splits * SUBS):
        place = tl.load(plan_partial_idx + line * longest_partial + step // SUBS) * BLOCK_K + step % SUBS * TILE_K + j
        real = place < kv_len
        allowed = tl.load(plan_positions + place)[None, :] <= query_position[:, None]
        keys = _rows(k, place, real, k_row, KEY_DIM, KEY_WIDE)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
        values = _rows(v, place, real, v_row, VALUE_DIM, VALUE_WIDE)
        acc, total, peak = _absorb(acc, total, peak, tl.where(allowed, scores, -float("inf")), values, PRECISION)

    if HAS_COLUMNS:
        begin = tl.load(plan_col_ptr + line)
        number = tl.load(plan_col_ptr + line + 1) - begin
        last = number * (split + 1) // splits
        for step in range(number * split // splits, last, TILE_K):
            real = step + j < last
            place = tl.load(plan_col_idx + begin + step + j, mask=real, other=0)
            position = tl.load(plan_positions + place)
            allowed = real[None, :] & (position[None, :] <= query_position[:, None])
            keys = _rows(k, place, real, k_row, KEY_DIM, KEY_WIDE)
            scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
            values = _rows(v, place, real, v_row, VALUE_DIM, VALUE_WIDE)
            acc, total, peak = _absorb(acc, total, peak, tl.where(allowed, scores, -float("inf")), values, PRECISION)

    some = total > 0
    acc = acc / tl.where(some, total, 1.0)[:, None]
    place = ((split * batch + row).to(tl.int64) * heads + head) * q_len + query
    e = tl.arange(0, VALUE_WIDE)
    inside = there[:, None] & (e[None, :] < VALUE_DIM)
    tl.store(out + place[:, None] * VALUE_DIM + e[None, :], acc.to(out.dtype.element_ty), mask=inside)
    norm = tl.where(some, (peak + tl.log2(tl.where(some, total, 1.0))) * 0.6931471805599453, -float("inf"))
    tl.store(lse + place, norm, mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def _score_gradients(scores, norm, row_term, d_out, values, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """Weights and gradients of the scores, from scores in powers of two."""
    weights = tl.exp2(scores - norm[:, None])
    d_weights = tl.dot(d_out, tl.trans(values), input_precision=PRECISION)
    return weights, weights * (d_weights - row_term[:, None])


@triton.jit(do_not_specialize=CHANGING)  # type: ignore[untyped-decorator]
def backward_queries(  # type: ignore[no-untyped-def]
    q,
    k,
    v,
    d_out,
    norms,
    row_terms,
    d_q,
    plan_full_num,
    plan_full_idx,
    plan_partial_num,
    plan_partial_idx,
    plan_positions,
    plan_col_ptr,
    plan_col_idx,
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
    HAS_COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """d_q, by the same walk as `forward`. All tables contiguous; norms in powers of two, +inf where a row is idle."""
    task = tl.load(order + tl.program_id(0) // tiles)
    block, unit, row = task % n_q, task // n_q % units, task // n_q // units
    line = ((row * selections + unit * selections // units) * n_q + block).to(tl.int64)
    first_key = (row * kv_heads + unit * kv_heads // units).to(tl.int64) * kv_len

    r = tl.arange(0, ROWS)
    query = block * BLOCK_Q + tl.program_id(0) % tiles * TILE_Q + r % TILE_Q
    there = (r // TILE_Q < group) & (query < q_len)
    place_q = (row * heads + unit * group + r // TILE_Q).to(tl.int64) * q_len + query
    queries = _rows(q, place_q, there, KEY_DIM, KEY_DIM, KEY_WIDE)
    d_outs = _rows(d_out, place_q, there, VALUE_DIM, VALUE_DIM, VALUE_WIDE)
    norm = tl.load(norms + place_q, mask=there, other=float("inf"))
    row_term = tl.load(row_terms + place_q, mask=there, other=0.0)
    query_position = query + q_offset
    k += first_key * KEY_DIM
    v += first_key * VALUE_DIM
    plan_positions += (row * orders + unit * orders // units).to(tl.int64) * padded_len

    acc = tl.zeros([ROWS, KEY_WIDE], dtype=tl.float32)
    j = tl.arange(0, TILE_K)
    SUBS: tl.constexpr = BLOCK_K // TILE_K

    for step in range(tl.load(plan_full_num + line) * SUBS):
        place = tl.load(plan_full_idx + line * longest_full + step // SUBS) * BLOCK_K + step % SUBS * TILE_K + j
        keys = _all_rows(k, place, KEY_DIM, KEY_DIM, KEY_WIDE)
        values = _all_rows(v, place, VALUE_DIM, VALUE_DIM, VALUE_WIDE)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
        _, d_scores = _score_gradients(scores, norm, row_term, d_outs, values, PRECISION)
        acc = tl.dot(d_scores.to(keys.dtype), keys, acc, input_precision=PRECISION)

    for step in range(tl.load(plan_partial_num + line) * SUBS):
        place = tl.load(plan_partial_idx + line * longest_partial + step // SUBS) * BLOCK_K + step % SUBS * TILE_K + j
        real = place < kv_len
        allowed = tl.load(plan_positions + place)[None, :] <= query_position[:, None]
        keys = _rows(k, place, real, KEY_DIM, KEY_DIM, KEY_WIDE)
        values = _rows(v, place, real, VALUE_DIM, VALUE_DIM, VALUE_WIDE)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
        scores = tl.where(allowed, scores, -float("inf"))
        _, d_scores = _score_gradients(scores, norm, row_term, d_outs, values, PRECISION)
        acc = tl.dot(d_scores.to(keys.dtype), keys, acc, input_precision=PRECISION)

    if HAS_COLUMNS:
        begin = tl.load(plan_col_ptr + line)
        number = tl.load(plan_col_ptr + line + 1) - begin
        for step in range(0, number, TILE_K):
            real = step + j < number
            place = tl.load(plan_col_idx + begin + step + j, mask=real, other=0)
            position = tl.load(plan_positions + place)
            allowed = real[None, :] & (position[None, :] <= query_position[:, None])
            keys = _rows(k, place, real, KEY_DIM, KEY_DIM, KEY_WIDE)
            values = _rows(v, place, real, VALUE_DIM, VALUE_DIM, VALUE_WIDE)
            scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
            scores = tl.where(allowed, scores, -float("inf"))
            _, d_scores = _score_gradients(scores, norm, row_term, d_outs, values, PRECISION)
            acc = tl.dot(d_scores.to(keys.dtype), keys, acc, input_precision=PRECISION)

    d = tl.arange(0, KEY_WIDE)
    inside = there[:, None] & (d[None, :] < KEY_DIM)
    tl.store(d_q + place_q[:, None] * KEY_DIM + d[None, :], acc * scaling, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _key_step(  # type: ignore[no-untyped-def]
    q,
    d_out,
    norms,
    row_terms,
    keys,
    values,
    position,
    d_keys,
    d_values,
    first_row,
    start,
    scale,
    q_len,
    q_offset,
    group,
    member,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    KEY_WIDE: tl.constexpr,
    VALUE_WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    TILE_Q: tl.constexpr,
    TESTED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """What one tile of queries adds to the gradients of a tile of keys and values."""
    r = tl.arange(0, ROWS)
    query = start + r % TILE_Q
    there = (r // TILE_Q < group) & (query < q_len)
    place = first_row + (r // TILE_Q).to(tl.int64) * q_len + query
    queries = _rows(q, place, there, KEY_DIM, KEY_DIM, KEY_WIDE)
    d_outs = _rows(d_out, place, there, VALUE_DIM, VALUE_DIM, VALUE_WIDE)
    norm = tl.load(norms + place, mask=there, other=float("inf"))
    row_term = tl.load(row_terms + place, mask=there, other=0.0)
    scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
    if TESTED:
        allowed = member[None, :] & (position[None, :] <= query[:, None] + q_offset)
        scores = tl.where(allowed, scores, -float("inf"))
    weights, d_scores = _score_gradients(scores, norm, row_term, d_outs, values, PRECISION)
    d_values = tl.dot(tl.trans(weights.to(d_outs.dtype)), d_outs, d_values, input_precision=PRECISION)
    d_keys = tl.dot(tl.trans(d_scores.to(queries.dtype)), queries, d_keys, input_precision=PRECISION)
    return d_keys, d_values
