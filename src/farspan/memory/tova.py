"""TOVA: the last query decides, all heads together, what is dropped.

Source: arXiv 2401.06104, section 3.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from farspan.memory.eviction import Stored
from farspan.memory.lever import BudgetedEviction
from farspan.memory.snapkv import window_votes


class Tova(BudgetedEviction):
    """Keeps the tokens the last query attends to most, the same in all heads, and the last token itself."""

    name: ClassVar[str] = "tova"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({},)

    def score(self, stored: Stored) -> Tensor:
        if stored.queries is None:
            raise RuntimeError("the queries of the prompt were not seen")
        votes = window_votes(
            stored.queries,
            stored.keys,
            window=1,
            kernel_size=1,
            pooling="avg",
            scaling=stored.scaling,
            valid=stored.valid,
        )
        return F.pad(votes[..., :-1].mean(1, keepdim=True), (0, 1), value=torch.inf)

    @property
    def asked(self) -> int:
        return 1
