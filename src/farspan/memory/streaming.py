"""StreamingLLM: keep the first tokens and the most recent ones, and drop what lies between.

The first tokens take up attention that has nowhere else to go; without them a model breaks down once they leave the
window. Memory stays constant however long the text. What was dropped cannot be found again. `sink-window` in the
attention room reads the same tokens and drops none.

Beyond its native window a model meets distances to the first tokens that it never saw. With `positions=cache` they are
read as if they stood right before the recent ones, so that no distance exceeds the cache. Relative positions alone
count, so it is enough to turn the first keys forward by as many places as were dropped, and the recent ones stay.

Source: arXiv 2309.17453, section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from farspan.errors import LeverNotApplicable
from farspan.memory.eviction import Stored, Turning
from farspan.memory.lever import EvictionLever
from farspan.memory.pruned_layer import EMPTY, PrunedLayer
from farspan.positions.rerotate import rotate_keys
from farspan.positions.rope import get_rope

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class StreamingLLM(EvictionLever):
    """Keeps the first `sinks` tokens and the last `recent`, the token being read among them.

    positions : `true` leaves kept tokens where they stood; `cache` counts places in the cache, as published, for texts
        beyond the native window
    """

    name: ClassVar[str] = "streaming-llm"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({"recent": 508},)

    sinks: Annotated[int, Field(ge=0)] = 4
    recent: Annotated[int, Field(ge=2)] = 1020
    positions: Literal["true", "cache"] = "true"

    def check(self, config: PretrainedConfig) -> None:
        super().check(config)
        if self.positions == "cache":
            text = config.get_text_config(decoder=True)
            get_rope(text)
            if getattr(text, "qk_rope_head_dim", None):
                raise LeverNotApplicable(
                    f"lever '{self.name}' cannot turn keys that are rotated in their last channels; use positions=true"
                )

    def adopt(self, layer: DynamicLayer, turning: Turning | None) -> PrunedLayer:
        adopted = ClosedLayer.adopt(layer) if turning is not None else PrunedLayer.adopt(layer)
        if isinstance(adopted, ClosedLayer):
            adopted.sinks, adopted.turning = self.sinks, turning
        return adopted

    @property
    def turns(self) -> bool:
        return self.positions == "cache"

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


class ClosedLayer(PrunedLayer):
    """A layer whose first tokens are read as if nothing stood between them and the recent ones.

    Stored keys are never turned themselves, so nothing drifts however often they are read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sinks = 0
        self.turning: Turning | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """As in the base class, the first keys turned to where the gap is closed."""
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        if self.slots is None or self.turning is None:
            return keys, values
        slots = self.slots[:, 0]
        real = slots != EMPTY
        # as many as lie between the first stored token and the last, and are not stored
        first = torch.where(real, slots, slots.amax(-1, keepdim=True)).amin(-1)
        gap = slots.amax(-1) - first + 1 - real.sum(-1)
        moved = torch.where(real & (real.cumsum(-1) <= self.sinks), gap[:, None], 0)
        reach = int(moved.ne(0).any(0).nonzero().amax()) + 1 if bool(moved.any()) else 0
        if reach:
            turned = rotate_keys(keys[:, :, :reach], moved[:, :reach], self.turning.inv_freq, self.turning.interleaved)
            keys = torch.cat([turned, keys[:, :, reach:]], dim=2)
        return keys, values


def sinks_and_recent(length: int, sinks: int, recent: int, num_coming: int = 0) -> Tensor:
    """Kept places of a cache, such that `num_coming` further tokens fill it: Tensor int64 [kept].

    Source: arXiv 2309.17453, section 3.2.
    """
    if length + num_coming <= sinks + recent:
        return torch.arange(length)
    start = min(length, max(sinks, length - recent + num_coming))
    return torch.cat([torch.arange(sinks), torch.arange(start, length)])
