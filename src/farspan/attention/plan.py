"""The block plan: which blocks of keys each block of queries reads, as plain data.

A selector writes a plan and an executor carries it out; neither knows the other. A plan holds no tensors of queries,
keys or values and computes no attention.

Blocks come in two lists. A *full* block may be read without looking at single cells: all its keys are valid and not
younger than any query of the row block. A *partial* block (on the diagonal, across padding, at the ragged end) needs
an element test. The test is the same everywhere: the position of the key must not exceed the position of the query,
and keys that do not exist or are padding have the position `INVALID`, which no query reaches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from farspan.errors import FarspanError

INVALID = torch.iinfo(torch.int32).max


class PlanError(FarspanError):
    """A block plan that contradicts itself or the tensors it is used with."""


@dataclass(frozen=True)
class KeyMajorLists:
    """The block lists of a plan seen from the keys: which query blocks read each key block, ascending.

    full_num, partial_num : Tensor int32 [B, Hs, nK]
    full_idx, partial_idx : Tensor int32 [B, Hs, nK, longest list]; entries past the number are meaningless
    """

    full_num: Tensor
    full_idx: Tensor
    partial_num: Tensor
    partial_idx: Tensor


@dataclass(frozen=True, eq=False)
class BlockPlan:
    """Which blocks of keys each block of queries reads. Build it with `from_block_mask`.

    Notation: B batch, Hs selections (one per query head, one per KV head, or one for all; head h of H uses selection
    h * Hs // H), nQ = ceil(q_len / block_q), nK = ceil(kv_len / block_k).

    q_len, kv_len : rows of queries and of *stored* keys (stored keys may be reordered, or hold a key twice)
    block_q, block_k : block sizes
    q_offset : position of the first query; query row i has position q_offset + i
    full_num, partial_num : Tensor int32 [B, Hs, nQ], lengths of the lists
    full_idx, partial_idx : Tensor int32 [B, Hs, nQ, longest list], key blocks, ascending; the rest is meaningless
    kv_start, kv_stop : Tensor int32 [B] or None, first valid stored key of each row and the one after the last
    kv_pos : Tensor int32 [B, 1 | heads, kv_len] or None, position of each stored key where it is not its index
    col_ptr : Tensor int64 [B * Hs * nQ + 1] or None, col_idx : Tensor int32 [sum], single keys read besides the blocks
    allow_empty : whether a query may lack its own key
    """

    q_len: int
    kv_len: int
    block_q: int
    block_k: int
    q_offset: int
    full_num: Tensor
    full_idx: Tensor
    partial_num: Tensor
    partial_idx: Tensor
    kv_start: Tensor | None = None
    kv_stop: Tensor | None = None
    kv_pos: Tensor | None = None
    col_ptr: Tensor | None = None
    col_idx: Tensor | None = None
    allow_empty: bool = False

    @classmethod
    def from_block_mask(
        cls,
        keep: Tensor,
        *,
        q_len: int,
        kv_len: int,
        block_q: int = 128,
        block_k: int = 128,
        q_offset: int | None = None,
        kv_start: Tensor | None = None,
        kv_len_per_row: Tensor | None = None,
        kv_pos: Tensor | None = None,
        columns: Tensor | None = None,
        allow_empty: bool = False,
    ) -> BlockPlan:
        """Build a plan from a mask over blocks; blocks without one allowed cell are dropped.

        Parameters
        ----------
        keep : Tensor bool [B, Hs, nQ, nK]
        q_offset : position of the first query, by default kv_len - q_len (the queries are the last rows)
        kv_start, kv_len_per_row : Tensor int [B], valid stored keys of row b are kv_start[b] <= j < kv_len_per_row[b]
        kv_pos : Tensor int [B, 1 | heads, kv_len], positions of reordered keys
        columns : Tensor int [B, Hs, C], single keys every query block reads besides its blocks; -1 fills up
        allow_empty : accept query rows whose own key is not read

        Raises
        ------
        PlanError : shapes disagree, `keep` is not boolean, or a query does not read its own key.
        """
        if keep.dtype != torch.bool:
            raise PlanError(f"keep must be a boolean mask over blocks, not {keep.dtype}; compare scores first")
        if min(q_len, kv_len, block_q, block_k) < 1:
            raise PlanError(f"lengths and blocks must be positive, given {q_len}, {kv_len}, {block_q}, {block_k}")
        n_q, n_k = -(-q_len // block_q), -(-kv_len // block_k)
        if keep.ndim != 4 or keep.shape[2:] != (n_q, n_k):
            raise PlanError(f"keep must be [batch, selections, {n_q}, {n_k}], given {list(keep.shape)}")
        offset = kv_len - q_len if q_offset is None else q_offset
        positions = _positions(keep.shape[0], kv_len, block_k, kv_start, kv_len_per_row, kv_pos, keep.device)
        if positions.shape[1] > keep.shape[1]:
            if positions.shape[1] % keep.shape[1]:
                raise PlanError(f"{positions.shape[1]} key orders do not divide over {keep.shape[1]} selections")
            keep = keep.repeat_interleave(positions.shape[1] // keep.shape[1], dim=1)
        elif keep.shape[1] % positions.shape[1]:
            raise PlanError(f"{keep.shape[1]} selections do not divide over {positions.shape[1]} key orders")
        spread = positions.repeat_interleave(keep.shape[1] // positions.shape[1], dim=1)
        blocks = spread.reshape(*spread.shape[:2], n_k, block_k)
        first = torch.arange(n_q, device=keep.device, dtype=torch.int32) * block_q + offset
        last = (first + block_q - 1).clamp(max=offset + q_len - 1)
        alive = keep & (blocks.amin(-1)[:, :, None] <= last[:, None])
        full = alive & (blocks.amax(-1)[:, :, None] <= first[:, None])
        full_num, full_idx = _lists(full)
        partial_num, partial_idx = _lists(alive & ~full)
        col_ptr, col_idx, seen = None, None, alive
        if columns is not None:
            col_ptr, col_idx = _columns(columns, alive, spread, last, kv_len, block_k)
        plan = cls(
            q_len=q_len,
            kv_len=kv_len,
            block_q=block_q,
            block_k=block_k,
            q_offset=offset,
            full_num=full_num,
            full_idx=full_idx,
            partial_num=partial_num,
            partial_idx=partial_idx,
            kv_start=kv_start,
            kv_stop=kv_len_per_row,
            kv_pos=kv_pos,
            col_ptr=col_ptr,
            col_idx=col_idx,
            allow_empty=allow_empty,
        )
        if not allow_empty:
            plan._check_own_keys(seen, spread)
        return plan

    @property
    def batch(self) -> int:
        """Rows of the batch, B."""
        return self.full_num.shape[0]

    @property
    def selections(self) -> int:
        """Number of different selections, Hs."""
        return self.full_num.shape[1]

    @property
    def n_q(self) -> int:
        """Number of query blocks."""
        return self.full_num.shape[2]

    @property
    def n_k(self) -> int:
        """Number of blocks of stored keys."""
        return -(-self.kv_len // self.block_k)

    @cached_property
    def positions(self) -> Tensor:
        """Position of every stored key, `INVALID` where it is padding: Tensor int32 [B, 1 | heads, nK * block_k]."""
        return _positions(
            self.batch, self.kv_len, self.block_k, self.kv_start, self.kv_stop, self.kv_pos, self.full_num.device
        )

    @property
    def block_positions(self) -> Tensor:
        """`positions` by blocks: Tensor int32 [B, 1 | heads, nK, block_k]."""
        return self.positions.reshape(self.batch, -1, self.n_k, self.block_k)

    @cached_property
    def query_positions(self) -> Tensor:
        """Position of every query row: Tensor int32 [q_len]."""
        return torch.arange(self.q_len, device=self.full_num.device, dtype=torch.int32) + self.q_offset

    @cached_property
    def kept_cells(self) -> Tensor:
        """Cells (query, key) that are computed and allowed: Tensor float64 [B, Hs]."""
        device = self.full_num.device
        first = torch.arange(self.n_q, device=device) * self.block_q
        rows = (self.q_len - first).clamp(max=self.block_q)
        cells = (self.full_num * rows).sum(-1).double() * self.block_k
        bottom, top = (self.q_offset + first)[:, None, None], (self.q_offset + first + rows)[:, None, None]
        blocks = self._spread_positions().reshape(self.batch, self.selections, self.n_k, self.block_k)
        at = self.partial_idx.long().flatten(2)[..., None].expand(-1, -1, -1, self.block_k)
        keys = blocks.gather(2, at).reshape(self.batch, self.selections, self.n_q, -1, self.block_k).long()
        count = (top - keys.clamp(min=bottom)).clamp(min=0).sum(-1)
        listed = torch.arange(self.partial_idx.shape[-1], device=device) < self.partial_num[..., None]
        cells += (count * listed).sum((-1, -2)).double()
        if self.col_ptr is not None and self.col_idx is not None:
            row = torch.repeat_interleave(torch.arange(len(self.col_ptr) - 1, device=device), self.col_ptr.diff())
            block = row % self.n_q
            keys = self._spread_positions().flatten(0, 1)[row // self.n_q, self.col_idx.long()].long()
            start = self.q_offset + first[block]
            count = (start + rows[block] - torch.maximum(keys, start)).clamp(min=0).double()
            cells += (
                torch.zeros(cells.numel(), dtype=torch.float64, device=device)
                .index_add_(0, row // self.n_q, count)
                .view_as(cells)
            )
        return cells

    @cached_property
    def causal_cells(self) -> Tensor:
        """Cells dense causal attention computes over the same keys, a key stored twice counted once: [B, Hs]."""
        keys = self._spread_positions().flatten(0, 1).long()
        end = self.q_offset + self.q_len
        present = torch.zeros(keys.shape[0], end + 1, dtype=torch.bool, device=keys.device)
        present.scatter_(1, keys.clamp(max=end), True)
        upto = present[:, :end].cumsum(-1)
        return upto[:, self.q_offset :].sum(-1).double().view(self.batch, self.selections)

    def density(self) -> float:
        """Kept cells over causal cells, over the whole batch; 1 means nothing is skipped."""
        causal = float(self.causal_cells.sum())
        return float(self.kept_cells.sum()) / causal if causal else 1.0

    def block_mask(self) -> Tensor:
        """Kept blocks as a mask: Tensor bool [B, Hs, nQ, nK]."""
        return self._scatter(self.full_num, self.full_idx) | self._scatter(self.partial_num, self.partial_idx)

    def column_mask(self, blocks: Tensor) -> Tensor:
        """Single keys that some query blocks read besides their key blocks.

        blocks : Tensor int64 [n], query blocks -> Tensor bool [B, Hs, n, kv_len]
        """
        lines, device = self.batch * self.selections, self.full_num.device
        wanted, back = torch.unique(blocks, return_inverse=True)
        mask = torch.zeros(lines, len(wanted), self.kv_len, dtype=torch.bool, device=device)
        if self.col_ptr is not None and self.col_idx is not None:
            place = torch.full((self.n_q,), -1, device=device)
            place[wanted] = torch.arange(len(wanted), device=device)
            row = torch.repeat_interleave(torch.arange(len(self.col_ptr) - 1, device=device), self.col_ptr.diff())
            slot = place[row % self.n_q]
            asked = slot >= 0
            mask[row[asked] // self.n_q, slot[asked], self.col_idx[asked].long()] = True
        return mask[:, back].view(self.batch, self.selections, len(blocks), self.kv_len)

    def to_token_mask(self) -> Tensor:
        """Allowed cells: Tensor bool [B, Hs, q_len, kv_len]. Quadratic memory: for tests and small sizes only."""
        blocks = self.block_mask().repeat_interleave(self.block_q, 2)[:, :, : self.q_len]
        cells = blocks.repeat_interleave(self.block_k, 3)[..., : self.kv_len].clone()
        if self.col_ptr is not None:
            cells |= self.column_mask(torch.arange(self.q_len, device=cells.device) // self.block_q)
        keys = self._spread_positions()[:, :, None, : self.kv_len]
        return cells & (keys <= self.query_positions[:, None])

    def transpose(self) -> KeyMajorLists:
        """The block lists ordered by key block, as a backward pass over the keys reads them."""
        full = _lists(self._scatter(self.full_num, self.full_idx).transpose(2, 3))
        partial = _lists(self._scatter(self.partial_num, self.partial_idx).transpose(2, 3))
        return KeyMajorLists(*full, *partial)

    def _spread_positions(self) -> Tensor:
        return self.positions.repeat_interleave(self.selections // self.positions.shape[1], dim=1)

    def _scatter(self, num: Tensor, idx: Tensor) -> Tensor:
        mask = torch.zeros(*num.shape, self.n_k + 1, dtype=torch.bool, device=num.device)
        listed = torch.arange(idx.shape[-1], device=num.device) < num[..., None]
        mask.scatter_(-1, torch.where(listed, idx.long(), self.n_k), True)
        return mask[..., : self.n_k]

    def _check_own_keys(self, kept: Tensor, spread: Tensor) -> None:
        """Every query that is not padding must read the key at its own position."""
        heads, device = self.selections, kept.device
        flat = spread.flatten(0, 1).long() - self.q_offset
        slot = torch.arange(flat.shape[1], device=device)
        own = (flat >= 0) & (flat < self.q_len)
        row = flat.clamp(0, self.q_len - 1)
        read = kept.flatten(0, 1)[
            torch.arange(len(flat), device=device)[:, None], row // self.block_q, slot // self.block_k
        ]
        if self.col_ptr is not None and self.col_idx is not None:
            lists = torch.repeat_interleave(torch.arange(len(self.col_ptr) - 1, device=device), self.col_ptr.diff())
            line, column = lists // self.n_q, self.col_idx.long()
            hit = row[line, column] // self.block_q == lists % self.n_q
            read[line[hit], column[hit]] = True
        count = torch.zeros(len(flat), self.q_len, dtype=torch.int32, device=device)
        stored = count.scatter_add(1, row, own.int()) > 0
        reached = count.scatter_add(1, row, (own & read).int()) > 0
        padded = self.kv_start is not None or self.kv_stop is not None
        wrong = (stored & ~reached) if padded else ~reached
        if wrong.any():
            which, query = wrong.nonzero()[0].tolist()
            raise PlanError(
                f"query {query} (batch {which // heads}, selection {which % heads}) does not read its own key; "
                "keep the diagonal blocks or pass allow_empty=True"
            )


def _positions(
    batch: int,
    kv_len: int,
    block_k: int,
    kv_start: Tensor | None,
    kv_stop: Tensor | None,
    kv_pos: Tensor | None,
    device: torch.device,
) -> Tensor:
    padded = -(-kv_len // block_k) * block_k
    index = torch.arange(padded, device=device, dtype=torch.int32)
    if kv_pos is None:
        positions = index.expand(batch, 1, padded)
    else:
        if kv_pos.ndim != 3 or kv_pos.shape[0] not in (1, batch) or kv_pos.shape[2] != kv_len:
            raise PlanError(f"kv_pos must be [{batch}, 1 or heads, {kv_len}], given {list(kv_pos.shape)}")
        fill = (0, padded - kv_len)
        positions = torch.nn.functional.pad(kv_pos.to(torch.int32), fill, value=INVALID).expand(batch, -1, -1)
    valid = (index < kv_len).expand(batch, 1, padded)
    for name, bound in (("kv_start", kv_start), ("kv_len_per_row", kv_stop)):
        if bound is None:
            continue
        if bound.shape != (batch,):
            raise PlanError(f"{name} must be one number per row, [{batch}], given {list(bound.shape)}")
        limit = bound[:, None, None].to(device)
        valid = valid & (index >= limit if name == "kv_start" else index < limit)
    return torch.where(valid, positions, INVALID)


def _lists(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending indices of the true entries of the last axis, filled up with zeros to the longest list."""
    num = mask.sum(-1)
    idx = torch.zeros(*num.shape, max(1, int(num.max())), dtype=torch.int32, device=mask.device)
    where = mask.nonzero(as_tuple=True)
    rank = mask.cumsum(-1)[where] - 1
    idx[(*where[:-1], rank)] = where[-1].int()
    return num.int(), idx


def _columns(
    columns: Tensor, kept: Tensor, spread: Tensor, last: Tensor, kv_len: int, block_k: int
) -> tuple[Tensor, Tensor]:
    batch, heads, n_q, _ = kept.shape
    if columns.ndim != 3 or columns.shape[0] != batch or heads % columns.shape[1]:
        raise PlanError(f"columns must be [{batch}, {heads} or 1, any], given {list(columns.shape)}")
    if columns.numel() and int(columns.max()) >= kv_len:
        raise PlanError(f"a column lies beyond the {kv_len} stored keys")
    lines = columns.long().repeat_interleave(heads // columns.shape[1], dim=1).sort(-1).values
    fresh = (lines >= 0) & (torch.nn.functional.pad(lines, (1, 0), value=-1)[..., :-1] != lines)
    lines = lines.clamp(min=0)
    blocks = (lines // block_k)[:, :, None].expand(-1, -1, n_q, -1)
    reachable = spread.gather(-1, lines)[:, :, None] <= last[:, None]
    wanted = fresh[:, :, None] & reachable & ~kept.gather(-1, blocks)
    ptr = torch.nn.functional.pad(wanted.sum(-1).flatten().cumsum(0), (1, 0))
    return ptr, lines[:, :, None].expand_as(wanted)[wanted].int()
