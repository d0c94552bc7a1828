"""Cuts a block plan into batches of equal matrix products, the common ground of the gather and masked executors.

One task is one query block of one *unit*: a KV head with the query heads of its group packed as rows where they share
a selection, else one query head. Tasks of a unit that read equally many blocks form batches of bounded size, so that
small blocks fill the processor and large ones stay in its cache. No attention is computed here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from farspan.attention.plan import INVALID, BlockPlan

SCORES_IN_CACHE = 1 << 18  # float32 scores of one batch and thread: 1 MiB, half of a common level-2 cache


@dataclass(frozen=True)
class Batch:
    """Tasks with equal shapes.

    index : which tasks, a slice or a Tensor int64 [t]
    size : number of tasks t
    key_rows : Tensor int64 [t, blocks], rows of the block table of keys, partial blocks first
    single_rows : Tensor int64 [t, singles] or None, rows of the token table, read after the blocks
    cols : keys each task reads
    masked_cols : leading columns that need the element test
    bias : Tensor [1, rows, masked_cols] or None, what to add to them: 0 or -inf (the common triangle, kept for all)
    forbidden : Tensor bool [t, rows, masked_cols] or None, where `bias` is None: cells that must not be read
    late_singles : Tensor bool [t, rows, singles] or None, cells of the single keys that must not be read
    surplus : Tensor bool [t, 1, cols] or None, columns that only fill up
    may_be_empty : whether a row may have no key at all
    """

    index: slice | Tensor
    size: int
    key_rows: Tensor
    single_rows: Tensor | None
    cols: int
    masked_cols: int
    bias: Tensor | None
    forbidden: Tensor | None
    late_singles: Tensor | None
    surplus: Tensor | None
    may_be_empty: bool


class TaskList:
    """The tasks of a plan for given numbers of heads.

    units : number of units a batch row has; group : query heads packed into one unit
    """

    def __init__(self, plan: BlockPlan, query_heads: int, kv_heads: int) -> None:
        self.plan = plan
        self.units = query_heads if plan.selections > kv_heads else kv_heads
        self.group = query_heads // self.units
        device = plan.full_num.device
        unit = torch.arange(self.units, device=device)
        self._selection = unit * plan.selections // self.units
        self._order = unit * plan.positions.shape[1] // self.units
        heads = torch.arange(plan.batch, device=device)[:, None] * kv_heads + unit * kv_heads // self.units
        self._key_head = heads.flatten().repeat_interleave(plan.n_q)
        self._partial_num, self._full_num = (x[:, self._selection].flatten() for x in (plan.partial_num, plan.full_num))
        self._listed = self._block_lists()
        self._rows = self._listed + self._key_head[:, None] * plan.n_k
        self._triangles: dict[int, Tensor] = {}

    @property
    def some_idle(self) -> bool:
        """Whether a task reads no key at all, so that no batch holds it."""
        none = self._full_num + self._partial_num == 0
        return bool(none.any())

    def pack_queries(self, query: Tensor) -> Tensor:
        """[B, Hq, q_len, D] -> contiguous [tasks, group * block_q, D], short last blocks filled with zeros."""
        plan = self.plan
        batch, _, _, dim = query.shape
        padded = _pad(query, plan.n_q * plan.block_q)
        blocks = padded.reshape(batch, self.units, self.group, plan.n_q, plan.block_q, dim)
        return blocks.transpose(2, 3).reshape(batch * self.units * plan.n_q, self.group * plan.block_q, dim)

    def unpack(self, packed: Tensor) -> Tensor:
        """The inverse for outputs [tasks, group * block_q, D] and for row values [tasks, group * block_q]."""
        plan, tail = self.plan, packed.shape[2:]
        blocks = packed.reshape(plan.batch, self.units, plan.n_q, self.group, plan.block_q, *tail).transpose(2, 3)
        rows = blocks.reshape(plan.batch, self.units * self.group, plan.n_q * plan.block_q, *tail)
        return rows[:, :, : plan.q_len]

    def key_blocks(self, keys: Tensor) -> Tensor:
        """[B, Hkv, kv_len, D] -> contiguous table of blocks [B * Hkv * nK, block_k * D]."""
        plan = self.plan
        return _pad(keys, plan.n_k * plan.block_k).reshape(-1, plan.block_k * keys.shape[-1])

    def batches(self) -> Iterator[Batch]:
        """All tasks that read a key at all, unit by unit, so that the keys of one stay in the cache.

        Tasks of slightly different length may share a batch, with surplus columns to be ignored.
        """
        plan = self.plan
        full_num, partial_num = self._full_num.tolist(), self._partial_num.tolist()
        deltas, columns, late = self._diagonal_deltas(), self._column_counts(), self._late_columns()
        grain = max(1, 128 // plan.block_k)
        room = SCORES_IN_CACHE * torch.get_num_threads() // (self.group * plan.block_q)
        for first in range(0, len(full_num), plan.n_q):
            grouped: dict[tuple[int, int, int, int, bool], list[int]] = defaultdict(list)
            for task in range(first, first + plan.n_q):
                full, partial, extra = full_num[task], partial_num[task], columns[task]
                if full + partial + extra:
                    grouped[-(-full // grain) * grain, partial, extra, deltas[task], late[task]].append(task)
            for (full, partial, extra, delta, tested), members in grouped.items():
                size = max(1, room // ((full + partial) * plan.block_k + extra))
                for start in range(0, len(members), size):
                    some = members[start : start + size]
                    ragged = any(full_num[task] != full for task in some)
                    bare = any(full_num[task] == 0 for task in some)
                    yield self._batch(some, partial, full, extra, delta, tested, ragged, bare)

    def _batch(
        self, tasks: list[int], partial: int, full: int, extra: int, delta: int, tested: bool, ragged: bool, bare: bool
    ) -> Batch:
        plan, device = self.plan, self.plan.full_num.device
        blocks, cols = partial + full, (partial + full) * plan.block_k + extra
        alone = len(tasks) == 1
        index = slice(tasks[0], tasks[0] + 1) if alone else torch.tensor(tasks, device=device)
        listed = self._listed[index, :blocks]
        surplus, bias, forbidden, single_rows, late_singles = None, None, None, None, None
        if ragged:
            number = (self._full_num[index] + self._partial_num[index])[:, None]
            surplus = (torch.arange(blocks, device=device) >= number).repeat_interleave(plan.block_k, 1)[:, None]
            surplus = torch.nn.functional.pad(surplus, (0, extra))
        if delta >= 0:
            bias = self._triangle(delta)
        elif partial:
            inside = torch.arange(plan.block_k, device=device)
            forbidden = self._late(tasks, (listed[:, :partial, None] * plan.block_k + inside).flatten(1))
        if extra:
            singles = self._single_keys(tasks, extra)
            single_rows = self._key_head[index][:, None] * (plan.n_k * plan.block_k) + singles
            if tested:
                late_singles = self._late(tasks, singles)
        return Batch(
            index=index,
            size=len(tasks),
            key_rows=self._rows[index, :blocks],
            single_rows=single_rows,
            cols=cols,
            masked_cols=partial * plan.block_k,
            bias=bias,
            forbidden=forbidden,
            late_singles=late_singles,
            surplus=surplus,
            may_be_empty=bare and delta < 0,
        )

    def _block_lists(self) -> Tensor:
        """The key blocks of every task, partial ones first, the rest filled with zeros: [tasks, longest list]."""
        plan = self.plan
        both = torch.cat([plan.partial_idx, plan.full_idx], -1)[:, self._selection].flatten(0, 2).long()
        slot = torch.arange(both.shape[1], device=both.device)
        width = plan.partial_idx.shape[-1]
        listed = torch.where(slot < width, slot < self._partial_num[:, None], slot - width < self._full_num[:, None])
        order = (~listed).byte().argsort(dim=-1, stable=True)
        lists = (both * listed).gather(1, order)
        # surplus columns may reach a little beyond the longest list
        return torch.nn.functional.pad(lists, (0, max(1, 128 // plan.block_k)))

    def _late(self, tasks: list[int], keys: Tensor) -> Tensor:
        """Cells whose key is younger than the query, or no key: bool [t, rows, keys] for keys [t, keys] by index."""
        plan = self.plan
        task = torch.tensor(tasks, device=keys.device)
        unit = task // plan.n_q
        positions = plan.positions[(unit // self.units)[:, None], self._order[unit % self.units][:, None], keys]
        start = task % plan.n_q * plan.block_q + plan.q_offset
        queries = start[:, None] + torch.arange(plan.block_q, device=keys.device)
        return (positions[:, None, :] > queries[:, :, None]).repeat(1, self.group, 1)

    def _triangle(self, delta: int) -> Tensor:
        if delta not in self._triangles:
            plan, device = self.plan, self.plan.full_num.device
            rows = torch.arange(plan.block_q, device=device)[:, None] + delta
            late = (torch.arange(plan.block_k, device=device) > rows).repeat(self.group, 1)[None]
            self._triangles[delta] = torch.zeros(late.shape, device=device).masked_fill_(late, -torch.inf)
        return self._triangles[delta]

    def _single_keys(self, tasks: list[int], count: int) -> Tensor:
        plan = self.plan
        assert plan.col_idx is not None
        starts = [self._column_starts[task] for task in tasks]
        if len(starts) == 1:
            return plan.col_idx[None, starts[0] : starts[0] + count].long()
        return torch.stack([plan.col_idx[start : start + count] for start in starts]).long()

    @cached_property
    def _column_starts(self) -> list[int]:
        plan = self.plan
        assert plan.col_ptr is not None
        starts = plan.col_ptr[:-1].view(plan.batch, plan.selections, plan.n_q)[:, self._selection]
        return [int(x) for x in starts.flatten().tolist()]

    def _column_counts(self) -> list[int]:
        plan = self.plan
        if plan.col_ptr is None:
            return [0] * len(self._full_num)
        counts = plan.col_ptr.diff().view(plan.batch, plan.selections, plan.n_q)
        return [int(x) for x in counts[:, self._selection].flatten().tolist()]

    def _late_columns(self) -> list[bool]:
        """For every task whether a single key is younger than its first query, so that single keys need the test."""
        plan = self.plan
        if plan.col_ptr is None or plan.col_idx is None:
            return [False] * len(self._full_num)
        device = plan.col_idx.device
        line = torch.repeat_interleave(torch.arange(len(plan.col_ptr) - 1, device=device), plan.col_ptr.diff())
        spread = plan.positions.repeat_interleave(plan.selections // plan.positions.shape[1], dim=1).flatten(0, 1)
        position = spread[line // plan.n_q, plan.col_idx.long()]
        late = position > line % plan.n_q * plan.block_q + plan.q_offset
        count = torch.zeros(len(plan.col_ptr) - 1, dtype=torch.int32, device=device).index_add_(0, line, late.int())
        some = (count > 0).view(plan.batch, plan.selections, plan.n_q)[:, self._selection]
        return [bool(x) for x in some.flatten().tolist()]

    def _diagonal_deltas(self) -> list[int]:
        """For tasks with one partial block of consecutive keys: first query minus first key, where not negative.

        Such tasks share one triangular mask; -1 stands for every other task.
        """
        plan = self.plan
        blocks = plan.block_positions
        steady = blocks.diff(dim=-1).eq(1).all(-1) & (blocks[..., -1] != INVALID)
        start = torch.where(steady, blocks[..., 0], INVALID).long()[:, self._order]
        start = start.expand(plan.batch, -1, -1)
        at = plan.partial_idx[:, self._selection, :, 0].long()
        first = torch.arange(plan.n_q, device=at.device) * plan.block_q + plan.q_offset
        delta = first - start.gather(2, at)
        lone = plan.partial_num[:, self._selection] == 1
        return [int(x) for x in torch.where(lone, delta.clamp(min=-1), -1).flatten().tolist()]


def _pad(rows: Tensor, length: int) -> Tensor:
    """Zeros after the rows of [..., length, D]; nothing is copied where nothing is missing."""
    missing = length - rows.shape[-2]
    return torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing else rows
