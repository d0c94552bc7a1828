"""MInference: each head has a pattern found beforehand, and fills it in on every prompt.

Which head is vertical-slash, A-shape or block-sparse stands in a file of the published form; without one all heads are
vertical-slash. `MInference.fit` finds patterns for any model. Columns are read as single keys, slashes as whole blocks.

Source: arXiv 2407.02490, section 3.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from farspan.attention.head_patterns import Entry, HeadPattern, best_blocks, pattern_of, read_patterns, write_patterns
from farspan.attention.lever import AttentionLever, BlockSize
from farspan.attention.pattern_search import PatternSearch
from farspan.attention.plan import BlockPlan
from farspan.attention.selection import Attended, AttentionContext, Selection
from farspan.attention.self_similarity import diagonal_blocks
from farspan.attention.triangle import shape_blocks
from farspan.attention.vertical_slash import slash_blocks, vertical_slash_indices
from farspan.errors import LeverNotApplicable

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class MInference(AttentionLever):
    """Reads a pattern a head.

    head_config : file of patterns, or its content; None makes every head vertical-slash
    vertical_size, slash_size : columns and distances of heads without an entry
    last_q : queries that are asked for columns and distances
    top_blocks : blocks a row of a block-sparse head reads
    adaptive_budget : share of the keys that vertical-slash heads read instead of their sizes, a fifth as columns
    """

    name: ClassVar[str] = "minference"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({"adaptive_budget": 0.3}, {"adaptive_budget": 0.15})
    weights_fields: ClassVar[tuple[str, ...]] = ("head_config",)

    block_size: BlockSize = 64
    head_config: str | tuple[dict[str, Entry], ...] | None = None
    vertical_size: Annotated[int, Field(ge=1)] = 1000
    slash_size: Annotated[int, Field(ge=1)] = 6096
    last_q: Annotated[int, Field(ge=1)] = 64
    top_blocks: Annotated[int, Field(ge=1)] = 100
    adaptive_budget: Annotated[float, Field(gt=0.0, le=1.0)] | None = None

    _search: PatternSearch | None = PrivateAttr(default=None)

    @cached_property
    def patterns(self) -> list[list[HeadPattern]]:
        """Patterns by layer and head; empty where every head has the same."""
        if self.head_config is None:
            return []
        return read_patterns(self.head_config)

    def check(self, config: PretrainedConfig) -> None:
        super().check(config)
        text = config.get_text_config(decoder=True)
        shape = (text.num_hidden_layers, text.num_attention_heads)
        if not self.patterns:
            return
        if len(self.patterns) != shape[0]:
            raise LeverNotApplicable(
                f"lever 'minference': head_config has {len(self.patterns)} layers, the model {shape[0]}; "
                "search patterns for this model with fit"
            )
        for layer, heads in enumerate(self.patterns):
            if len(heads) != shape[1]:
                raise LeverNotApplicable(
                    f"lever 'minference': head_config has {len(heads)} heads in layer {layer}, the model {shape[1]}; "
                    "search patterns for this model with fit"
                )

    def select(self, query: Tensor, key: Tensor, context: AttentionContext) -> Selection | None:
        q_len, kv_len, heads = query.shape[2], key.shape[2], query.shape[1]
        if context.stage == "decode" or kv_len <= self.block_size:
            return None
        patterns = self._of_layer(context.layer_idx, heads)
        group = heads // key.shape[1]
        keeps: list[Tensor | None] = [None] * heads
        columns: list[Tensor | None] = [None] * heads
        # heads of a KV head together, so that the asked queries' attention stays small
        for start in range(0, heads, group):
            some_key = key[:, start // group : start // group + 1]
            for pattern in dict.fromkeys(p[:3] for p in patterns[start : start + group]):
                members = [head for head in range(start, start + group) if patterns[head][:3] == pattern]
                kept, lines = self._blocks(query[:, members], some_key, HeadPattern(*pattern), context)
                for index, head in enumerate(members):
                    keeps[head] = kept[:, index]
                    columns[head] = lines[:, index] if lines is not None else None
        own = diagonal_blocks(q_len, kv_len, self.block_size, self.block_size, query.device)
        keep = torch.stack(cast("list[Tensor]", keeps), 1) | own
        plan = BlockPlan.from_block_mask(
            keep,
            q_len=q_len,
            kv_len=kv_len,
            block_q=self.block_size,
            block_k=self.block_size,
            columns=_even(columns, len(query), query.device),
        )
        return Selection(plan)

    def _of_layer(self, layer: int, heads: int) -> list[HeadPattern]:
        if 0 <= layer < len(self.patterns) and len(self.patterns[layer]) == heads:
            return self.patterns[layer]
        return [HeadPattern("vertical_and_slash", self.vertical_size, self.slash_size)] * heads

    def _blocks(
        self, query: Tensor, key: Tensor, pattern: HeadPattern, context: AttentionContext
    ) -> tuple[Tensor, Tensor | None]:
        """Blocks [B, heads, nQ, nK] and columns [B, heads, V] of heads with this pattern; key [B, 1, L, D]."""
        q_len, kv_len, size = query.shape[2], key.shape[2], self.block_size
        if pattern.kind == "stream_llm":
            keep = shape_blocks(q_len, kv_len, size, pattern.first, pattern.second, 0, query.device)
            return keep.expand(len(query), query.shape[1], -1, -1), None
        if pattern.kind == "block_sparse":
            return best_blocks(query, key, size, self.top_blocks, context.scaling), None
        vertical, slash = pattern.first, pattern.second
        if self.adaptive_budget is not None:
            whole = int(self.adaptive_budget * kv_len)
            vertical, slash = whole // 5, whole - whole // 5
            if self.adaptive_budget == 1.0:
                vertical = slash = kv_len
        columns, distances = vertical_slash_indices(
            query, key, vertical_size=vertical, slash_size=slash, last_q=self.last_q, scaling=context.scaling
        )
        keep = slash_blocks(distances, q_len=q_len, kv_len=kv_len, q_offset=context.q_offset, block_size=size)
        return keep, columns

    def selection_flops(self, query: Tensor, key: Tensor) -> float:
        return 2.0 * len(query) * query.shape[1] * min(self.last_q, query.shape[2]) * key.shape[2] * query.shape[-1]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, context: AttentionContext) -> Attended | str | None:
        if self._search is None:
            return None
        self._search.see(context.layer_idx, query, key, value, context.scaling)
        return "searching patterns"

    def fit(
        self,
        model: PreTrainedModel,
        texts: Iterable[Tensor],
        out: str | Path,
        *,
        objective: Literal["mass", "output_error"] = "mass",
        candidates: Sequence[Entry] | None = None,
        seconds: float | None = None,
    ) -> MInference:
        """Find the pattern of every head of a model on some texts, write them, and return the lever that uses them.

        Parameters
        ----------
        texts : Tensors int64 [1, length] of token ids, about as long as what will be read
        out : the JSON file to write, in the published form
        objective : `mass` takes the pattern that captures most attention, `output_error` the one that moves fewest
            outputs; of nearly equal ones the cheapest
        candidates : `(pattern, vertical, slash, _)`, by default the published ones
        seconds : no further text is begun after this time

        Raises
        ------
        FarspanError : no text, or an unknown pattern.

        Source: arXiv 2407.02490, section 3.3 and algorithm 2.
        """
        wanted = None if candidates is None else [pattern_of(entry, "a candidate") for entry in candidates]
        search = PatternSearch(
            objective, wanted, last_q=self.last_q, block_size=self.block_size, top_blocks=self.top_blocks
        )
        watching = type(self)(block_size=self.block_size, min_length=0)
        watching._search = search
        began = time.monotonic()
        with torch.no_grad(), watching(model):
            for read, text in enumerate(texts):
                if read and seconds is not None and time.monotonic() - began > seconds:
                    break
                model(text, use_cache=False)
        path = write_patterns(out, search.best())
        return type(self).model_validate({**self.model_dump(), "head_config": str(path)})


def _even(columns: Sequence[Tensor | None], batch: int, device: torch.device) -> Tensor | None:
    """Columns of heads [B, V] each, or None, filled up with -1 to one Tensor [B, heads, longest]."""
    longest = max((lines.shape[1] for lines in columns if lines is not None), default=0)
    if not longest:
        return None
    even = torch.full((batch, len(columns), longest), -1, dtype=torch.long, device=device)
    for head, lines in enumerate(columns):
        if lines is not None:
            even[:, head, : lines.shape[1]] = lines
    return even
