"""What a switched-on lever keeps beside the attention modules: settings, counters, and nothing of the model itself.

`report` reads it. One `LayerState` hangs on each attention module, one `SharedState` serves all of them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from farspan.attention.executors.choice import Chooser, break_even, lengths, machine_costs
from farspan.attention.masks import PaddingMask
from farspan.attention.selection import AttentionContext, Selection, stored

if TYPE_CHECKING:
    from farspan.attention.lever import AttentionLever

ATTRIBUTE = "_farspan_attention"
# under this name an attention module may carry a callable that is told the queries of every call
OBSERVER = "_farspan_observer"


@dataclass
class LayerStats:
    """What one layer's attention did since the lever was switched on.

    layer, method : index of the layer, name of the lever
    Calls are counted by batch row, since every row is served by itself.

    sparse : calls that read a selection
    decode : calls with a single new token, left dense because the lever selects in prefill only
    fallbacks : calls that fell back to dense attention, by reason
    backends : sparse calls by executor
    refusals : sparse calls that the lever's executor could not take, by reason; the fastest that can took them
    head_density : kept cells over causal cells of the sparse calls, one number per selection (head or KV head)
    selection_seconds, execution_seconds : time spent choosing and computing in sparse calls (on a GPU: launching)
    flops, dense_flops : floating-point operations of the sparse calls, selection included, and of dense attention
    kv_bytes, dense_kv_bytes : keys and values that plans fetch, each block of queries by itself, and what dense
        attention in blocks of that size would; calls that a method computes by itself are not among them
    figures : averages of what the method reported per head
    """

    layer: int
    method: str
    sparse: int = 0
    decode: int = 0
    fallbacks: Counter[str] = field(default_factory=Counter)
    backends: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    head_density: list[float] = field(default_factory=list)
    selection_seconds: float = 0.0
    execution_seconds: float = 0.0
    flops: float = 0.0
    dense_flops: float = 0.0
    kv_bytes: float = 0.0
    dense_kv_bytes: float = 0.0
    figures: dict[str, list[float]] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """All calls of the layer's attention."""
        return self.sparse + self.decode + self.fallbacks.total()

    @property
    def density(self) -> float:
        """Mean of `head_density`; 1 where no call was sparse."""
        return sum(self.head_density) / len(self.head_density) if self.head_density else 1.0


@dataclass
class SharedState:
    """What all layers of a switched-on lever share: the choice of executors and the mask of the present forward."""

    lever: AttentionLever
    chooser: Chooser = field(default_factory=Chooser)
    _padding: PaddingMask = field(default_factory=lambda: PaddingMask(None))
    _min_length: dict[tuple[torch.dtype, torch.device], int] = field(default_factory=dict)

    def padding(self, mask: Tensor | None) -> PaddingMask:
        """The mask of this forward, read once: every layer hands over the same tensor."""
        if self._padding.mask is not mask:
            self._padding = PaddingMask(mask)
        return self._padding

    def too_short(self, keys: int, query: Tensor) -> bool:
        """Whether a method does not pay at this number of keys; measured on this machine unless the lever says."""
        if self.lever.min_length is not None:
            return keys < self.lever.min_length
        # shorter than every measured length: no need to measure
        return keys < lengths(query.device)[0] or keys < self._measured(query.dtype, query.device)

    def _measured(self, dtype: torch.dtype, device: torch.device) -> int:
        if (dtype, device) not in self._min_length:
            settings = self.lever.model_dump_json(exclude={"backend", "min_length", "stage", "dense_layers", "strict"})
            found = break_even(f"{self.lever.name} {settings}", self._probe, dtype, device)
            self._min_length[dtype, device] = found
        return self._min_length[dtype, device]

    def worthwhile_density(self, device: torch.device, dtype: torch.dtype) -> float:
        """Density above which dense attention is faster."""
        return machine_costs(dtype, device).worthwhile_density

    def _probe(self, query: Tensor, key: Tensor) -> bool:
        context = AttentionContext(0, query.shape[-1] ** -0.5, 0, "prefill", nn.Module(), PretrainedConfig())
        selection = self.lever.select(query, key, context)
        if selection is not None and selection.order is not None:
            for _ in ("keys", "values"):
                stored(key, selection.order)
        return selection is not None


@dataclass
class LayerState:
    """What hangs on an attention module: the shared state and the layer's counters."""

    shared: SharedState
    stats: LayerStats
    _cells: tuple[Tensor, Tensor] | None = None
    _sums: dict[str, tuple[Tensor, int]] = field(default_factory=dict)

    def count(
        self,
        selection: Selection,
        context: AttentionContext,
        backend: str,
        query: Tensor,
        key: Tensor,
        seconds: tuple[float, float],
    ) -> None:
        """Add one sparse call: what was selected, by which executor, and (selection, execution) seconds."""
        plan = selection.plan
        row = 2.0 * key.shape[-1] * key.element_size()
        singles = 0 if plan.col_idx is None else len(plan.col_idx)
        fetched = int(plan.full_num.sum() + plan.partial_num.sum()) * plan.block_k + singles
        # a selection that several KV heads share is fetched by each of them
        self.stats.kv_bytes += fetched * max(1, key.shape[1] // plan.selections) * row
        ends = (torch.arange(1, plan.n_q + 1) * plan.block_q).clamp(max=plan.q_len) + plan.q_offset
        self.stats.dense_kv_bytes += int(ends.sum()) * plan.batch * key.shape[1] * row
        self.count_cells(plan.kept_cells.sum(0), plan.causal_cells.sum(0), context, backend, query, key, seconds)

    def count_cells(
        self,
        kept: Tensor,
        causal: Tensor,
        context: AttentionContext,
        backend: str,
        query: Tensor,
        key: Tensor,
        seconds: tuple[float, float],
    ) -> None:
        """As `count`, given the cells that were computed and those of dense attention, [selections] each."""
        stats = self.stats
        stats.sparse += 1
        stats.backends[backend] += 1
        stats.selection_seconds += seconds[0]
        stats.execution_seconds += seconds[1]
        kept, causal = kept.double().cpu(), causal.double().cpu()
        per_cell = 4.0 * query.shape[-1] * query.shape[1] / len(kept)
        stats.flops += per_cell * float(kept.sum()) + self.shared.lever.selection_flops(query, key)
        stats.dense_flops += per_cell * float(causal.sum())
        if self._cells is not None and self._cells[0].shape != kept.shape:
            self._cells = (self._cells[0].sum()[None], self._cells[1].sum()[None])
            kept, causal = kept.sum()[None], causal.sum()[None]
        self._cells = (kept, causal) if self._cells is None else (self._cells[0] + kept, self._cells[1] + causal)
        stats.head_density = (self._cells[0] / self._cells[1].clamp(min=1.0)).tolist()
        for name, values in context.figures.items():
            total, number = self._sums.get(name, (torch.zeros_like(values), 0))
            if total.shape != values.shape:
                total, number = torch.zeros_like(values), 0
            self._sums[name] = (total + values, number + 1)
            stats.figures[name] = ((total + values) / (number + 1)).tolist()
