"""Random eviction: the floor that every scored eviction must beat."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from farspan.memory.eviction import Stored
from farspan.memory.lever import BudgetedEviction


class RandomEviction(BudgetedEviction):
    """Keeps randomly chosen tokens; equal seeds keep the same."""

    name: ClassVar[str] = "random-eviction"

    seed: int = 0

    def score(self, stored: Stored) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + stored.layer)
        # one draw for all rows, so that a row is served as it would be alone
        _, heads, length, _ = stored.keys.shape
        draw = torch.rand(length, heads, generator=generator).T[None].to(stored.keys.device)
        place = stored.valid.long().cumsum(-1).sub(1).clamp(min=0)
        return draw.expand(len(stored.keys), -1, -1).gather(-1, place.expand(-1, heads, -1))
