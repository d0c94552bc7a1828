"""Keys of small norm are kept: they tend to draw attention. Looks at no query.

Source: arXiv 2406.11430, section 3.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from farspan.memory.eviction import Stored
from farspan.memory.lever import BudgetedEviction


class KeyNorm(BudgetedEviction):
    """Keeps the keys with the smallest norm."""

    name: ClassVar[str] = "knorm"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({},)

    def score(self, stored: Stored) -> Tensor:
        return negative_key_norms(stored.keys)


def negative_key_norms(keys: Tensor) -> Tensor:
    """Minus the norm of each key: Tensor [B, H, S, D] -> float32 [B, H, S]."""
    norms: Tensor = keys.float().norm(dim=-1)
    return -norms
