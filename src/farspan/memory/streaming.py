"""StreamingLLM: keep the first tokens and the most recent ones, and drop what lies between.

The first tokens take up attention that has nowhere else to go; without them a model breaks down once they leave the
window. Memory stays constant however long the text. What was dropped cannot be found again. Kept tokens stay at their
true positions; `sink-window` in the attention room reads the same tokens and drops none.

Source: arXiv 2309.17453, section 3.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from farspan.memory.eviction import Stored
from farspan.memory.lever import EvictionLever


class StreamingLLM(EvictionLever):
    """Keeps the first `sinks` tokens and the last `recent`, the token being read among them."""

    name: ClassVar[str] = "streaming-llm"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({"recent": 508},)

    sinks: Annotated[int, Field(ge=0)] = 4
    recent: Annotated[int, Field(ge=2)] = 1020

    def score(self, stored: Stored) -> Tensor:
        order = torch.arange(stored.keys.shape[2], device=stored.keys.device, dtype=torch.float32)
        first = stored.valid & (stored.valid.cumsum(-1) <= self.sinks)
        return order.expand(stored.valid.shape).masked_fill(first, torch.inf)

    def limit(self, tokens: Tensor, layer: int, layers: int) -> Tensor:
        # one place less, so that with the token to come the cache is full
        return torch.full_like(tokens, self.sinks + self.recent - 1)

    @property
    def every(self) -> int | None:
        return 1


def sinks_and_recent(length: int, sinks: int, recent: int, num_coming: int = 0) -> Tensor:
    """Kept places of a cache, such that `num_coming` further tokens fill it: Tensor int64 [kept].

    Source: arXiv 2309.17453, section 3.2.
    """
    if length + num_coming <= sinks + recent:
        return torch.arange(length)
    start = min(length, max(sinks, length - recent + num_coming))
    return torch.cat([torch.arange(sinks), torch.arange(start, length)])
