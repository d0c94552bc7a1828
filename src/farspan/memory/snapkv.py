"""SnapKV: the last queries of a prompt vote on which earlier tokens will be needed.

Attention patterns of a prompt's end persist while the answer is written. The attention of a window of last queries is
summed, smoothed over neighbours so that what surrounds a find is kept with it, and the best tokens stay, the window
itself among them. With `beta` early layers keep more and late ones less (PyramidKV). Votes are made per KV head, from
the mean over its query heads, so that the cache does not grow by repeating it.

Source: arXiv 2404.14469, section 4; arXiv 2406.02069, section 4 (PyramidKV).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from farspan.memory.eviction import Stored
from farspan.memory.lever import BudgetedEviction


class SnapKV(BudgetedEviction):
    """Keeps the last `window` tokens and those they attend to most.

    window : last queries that vote
    kernel_size, pooling : how votes are smoothed over neighbours
    beta : layers' budgets fall evenly from the first to the last, whose budget is the mean one divided by this; None
        for equal budgets
    """

    name: ClassVar[str] = "snapkv"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({}, {"ratio": 0.75})

    window: Annotated[int, Field(ge=1)] = 32
    kernel_size: Annotated[int, Field(ge=1)] = 5
    pooling: Literal["avg", "max"] = "avg"
    beta: Annotated[float, Field(ge=1.0)] | None = None

    @model_validator(mode="after")
    def _window_fits(self) -> SnapKV:
        if self.capacity is not None and self.capacity <= self.window:
            raise ValueError(f"capacity {self.capacity} must exceed window {self.window}, which is always kept")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {self.kernel_size} must be odd, so that it has a middle")
        return self

    def score(self, stored: Stored) -> Tensor:
        if stored.queries is None:
            raise RuntimeError("the queries of the prompt were not seen")
        return window_votes(
            stored.queries,
            stored.keys,
            window=self.window,
            kernel_size=self.kernel_size,
            pooling=self.pooling,
            scaling=stored.scaling,
            valid=stored.valid,
        )

    def limit(self, tokens: Tensor, layer: int, layers: int) -> Tensor:
        mean = super().limit(tokens, layer, layers)
        if self.beta is None or layers < 2:
            return mean
        least = mean / self.beta
        most = 2 * mean - least
        return (most - (most - least) * layer / (layers - 1)).round().long().clamp(min=self.window)

    @property
    def asked(self) -> int:
        return self.window


def window_votes(
    query: Tensor,
    key: Tensor,
    *,
    window: int,
    kernel_size: int,
    pooling: Literal["avg", "max"],
    scaling: float | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Smoothed attention of the last queries to the keys before them; +inf for the window's own keys.

    Parameters
    ----------
    query : Tensor [B, Hq, n, D]; key : Tensor [B, Hkv, S, D], the last of both at the same position
    valid : Tensor bool [B, Hkv or 1, S], keys that count

    Returns
    -------
    Tensor float32 [B, Hkv, S]

    Source: arXiv 2404.14469, section 4.2 and listing 1.
    """
    stored, dim = key.shape[2:]
    last = query[:, :, -min(window, stored) :]
    batch, count = last.shape[0], last.shape[2]
    packed = last.reshape(batch, key.shape[1], -1, dim)
    scores = (packed @ key.transpose(-1, -2)).float() * (dim**-0.5 if scaling is None else scaling)
    scores = scores.view(batch, key.shape[1], -1, count, stored)
    future = torch.ones(count, count, dtype=torch.bool, device=key.device).triu(1)
    scores[..., -count:].masked_fill_(future, -torch.inf)
    if valid is not None:
        scores.masked_fill_(~valid[:, :, None, None], -torch.inf)
    # a padding query sees nothing and has no vote
    votes = scores.softmax(-1).nan_to_num(0.0).sum(3)[..., : stored - count]
    smoothed = _smooth(votes, kernel_size, pooling).mean(2)
    return F.pad(smoothed, (0, count), value=torch.inf)


def _smooth(votes: Tensor, kernel_size: int, pooling: Literal["avg", "max"]) -> Tensor:
    """Votes [B, H, G, n] pooled over neighbours; zeros beyond the ends count in an average, as published."""
    if votes.shape[-1] == 0:
        return votes
    flat = votes.flatten(0, 1)
    pool = F.avg_pool1d if pooling == "avg" else F.max_pool1d
    pooled: Tensor = pool(flat, kernel_size, stride=1, padding=kernel_size // 2)
    return pooled.view_as(votes)
