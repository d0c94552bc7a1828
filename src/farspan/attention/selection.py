"""What selectors are told and what they answer.

A selector gets queries, keys and an `AttentionContext`, and answers with a `Selection`: a block plan and, where it
wants keys stored in another order, that order. It neither computes attention nor touches the model. A method whose
reading is no plan over the keys of the call computes it by itself and answers with `Attended`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from farspan.attention.plan import BlockPlan

Stage = Literal["prefill", "chunk", "decode"]


@dataclass
class AttentionContext:
    """One call of attention in one layer. Padding has been cut off already: key row j has position j.

    layer_idx : index of the layer
    scaling : factor of the scores
    q_offset : position of the first query
    stage : `prefill` (as many queries as keys), `chunk` (fewer, the last ones), `decode` (one)
    module, config : the attention module and its configuration
    arguments : what the model's forward was given besides its own arguments, for the whole batch
    row, start, stop : the row of the batch, and its keys without padding
    figures : values per head a selector reports with `record`
    """

    layer_idx: int
    scaling: float
    q_offset: int
    stage: Stage
    module: nn.Module
    config: PretrainedConfig
    arguments: Mapping[str, object] = field(default_factory=dict)
    row: int = 0
    start: int = 0
    stop: int = 0
    figures: dict[str, Tensor] = field(default_factory=dict)

    def record(self, name: str, per_head: Tensor) -> None:
        """Report a figure, one value per head [heads], averaged over calls in `attention_report`."""
        self.figures[name] = per_head.detach().float()


@dataclass(frozen=True, eq=False)
class Selection:
    """The answer of a selector.

    plan : which blocks of stored keys each query block reads
    order : Tensor int64 [B, heads, kv_len of the plan] or None, the index of the key stored in each place; heads is
        the number of KV heads or of query heads. A key may be stored twice, or not at all.
    """

    plan: BlockPlan
    order: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Attended:
    """A call that a method computed by itself.

    output : Tensor [1, Hq, Lq, Dv]
    lse : Tensor [1, Hq, Lq], logsumexp of the scores that were read; needed where the model has sinks
    kept, causal : Tensor [heads], cells (query, key) that were computed, and those of dense attention
    backend : how it was computed, for the report
    """

    output: Tensor
    lse: Tensor | None
    kept: Tensor
    causal: Tensor
    backend: str


def stored(rows: Tensor, order: Tensor) -> Tensor:
    """Rows in another order.

    rows : Tensor [B, Hkv, L, D]; order : Tensor int64 [B, H, L'], H a multiple of Hkv -> Tensor [B, H, L', D]
    """
    batch, kv_heads, length, dim = rows.shape
    heads = order.shape[1]
    row = torch.arange(batch, device=rows.device)[:, None] * kv_heads
    base = (row + torch.arange(heads, device=rows.device) * kv_heads // heads) * length
    index = (base[..., None] + order).flatten()
    return rows.reshape(-1, dim).index_select(0, index).view(batch, heads, order.shape[2], dim)
