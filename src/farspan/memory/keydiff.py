"""KeyDiff: keys unlike the others are kept. Looks at no query.

Source: arXiv 2504.15364, section 3.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from farspan.memory.eviction import Stored
from farspan.memory.lever import BudgetedEviction


class KeyDiff(BudgetedEviction):
    """Keeps the keys whose direction differs most from the mean direction."""

    name: ClassVar[str] = "keydiff"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({},)

    def score(self, stored: Stored) -> Tensor:
        return key_difference(stored.keys, stored.valid)


def key_difference(keys: Tensor, valid: Tensor) -> Tensor:
    """Minus the cosine of each key to the mean of the unit keys.

    keys : Tensor [B, H, S, D]; valid : Tensor bool [B, H or 1, S], keys that make the mean -> float32 [B, H, S]
    """
    unit = F.normalize(keys.float(), dim=-1)
    mean = (unit * valid[..., None]).sum(2, keepdim=True) / valid.sum(-1)[..., None, None].clamp(min=1)
    return -F.cosine_similarity(unit, mean, dim=-1)
