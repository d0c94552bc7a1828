"""Finding the pattern of each head: how much attention each candidate captures, or how little it moves the output.

Layers show their queries, keys and values while some texts are read densely; scores are sums over texts, and the best
candidate of a head is taken, the cheapest among nearly equal ones. Nothing is switched on or written here.

Source: arXiv 2407.02490, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from farspan.attention.head_patterns import HeadPattern, pattern_cells
from farspan.errors import FarspanError

CANDIDATES = (
    HeadPattern("stream_llm", 100, 800),
    HeadPattern("vertical_and_slash", 1000, 6096),
    HeadPattern("vertical_and_slash", 100, 800),
    HeadPattern("vertical_and_slash", 30, 800),
    HeadPattern("vertical_and_slash", 3500, 100),
    HeadPattern("vertical_and_slash", 500, 700),
    HeadPattern("vertical_and_slash", 100, 750),
    HeadPattern("block_sparse", 0, 0),
)
# rows before this one see little that could be left out
FIRST_ROW = 2500
MOVED = 5e-3
NEARLY_EQUAL = 1e-3


class PatternSearch:
    """Scores candidates on what layers show.

    Parameters
    ----------
    objective : `mass`, the share of attention captured; `output_error`, the share of outputs moved by at most 0.005
    candidates : patterns to choose from
    last_q, block_size, top_blocks : as in the lever that will use them
    rows : query rows looked at in each text, evenly spread over those from 2500 on (or the second half of shorter ones)
    """

    def __init__(
        self,
        objective: Literal["mass", "output_error"] = "mass",
        candidates: Sequence[HeadPattern] | None = None,
        *,
        last_q: int = 64,
        block_size: int = 64,
        top_blocks: int = 100,
        rows: int = 256,
    ) -> None:
        self.objective = objective
        self.candidates = tuple(candidates or CANDIDATES)
        self.sizes = {"last_q": last_q, "block_size": block_size, "top_blocks": top_blocks}
        self.rows = rows
        # by layer: scores and cells [heads, candidates], and how many texts they sum up
        self._found: dict[int, tuple[Tensor, Tensor, int]] = {}

    @torch.no_grad()
    def see(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> None:
        """Score all candidates on one text in one layer; query [1, Hq, L, D], key and value [1, Hkv, L, D]."""
        length, heads = key.shape[2], query.shape[1]
        start = min(FIRST_ROW, length // 2)
        count = min(self.rows, length - start)
        rows = torch.linspace(start, length - 1, count, device=query.device).long()
        future = torch.arange(length, device=query.device) > rows[:, None]
        scores, cells = torch.zeros(2, heads, len(self.candidates), dtype=torch.float64)
        for head in range(heads):
            source = head * key.shape[1] // heads
            one_query, one_key = query[:, head : head + 1], key[:, source : source + 1]
            logits = (one_query[0, 0, rows] @ one_key[0, 0].T).float() * scaling
            attention = logits.masked_fill(future, -torch.inf).softmax(-1)
            values = value[0, source].float()
            for index, candidate in enumerate(self.candidates):
                read = pattern_cells(candidate, one_query, one_key, rows, **self.sizes, scaling=scaling)
                kept = attention * read
                mass = kept.sum(-1, keepdim=True)
                if self.objective == "mass":
                    scores[head, index] = float(mass.mean())
                else:
                    moved = (kept / mass.clamp(min=1e-12) - attention) @ values
                    scores[head, index] = float((moved.abs() <= MOVED).float().mean())
                cells[head, index] = float(read.sum(-1).float().mean())
        before = self._found.get(layer, (torch.zeros_like(scores), torch.zeros_like(cells), 0))
        self._found[layer] = (before[0] + scores, before[1] + cells, before[2] + 1)

    def best(self) -> list[list[HeadPattern]]:
        """The chosen pattern by layer and head, with its mean score.

        Raises
        ------
        FarspanError : a layer has shown nothing.
        """
        layers = 1 + max(self._found, default=-1)
        if not layers or set(self._found) != set(range(layers)):
            raise FarspanError("no text was read by every layer; give texts longer than a block, and no dense layers")
        chosen = []
        for layer in range(layers):
            scores, cells, texts = self._found[layer]
            worth = scores / texts
            good = worth >= worth.amax(-1, keepdim=True) - NEARLY_EQUAL
            picks = cells.masked_fill(~good, torch.inf).argmin(-1).tolist()
            chosen.append(
                [
                    self.candidates[pick]._replace(score=round(float(worth[head, pick]), 6))
                    for head, pick in enumerate(picks)
                ]
            )
        return chosen
