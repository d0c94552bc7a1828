"""The common base of levers that drop tokens from the cache: a score, a budget, and when to prune.

A method is one subclass that answers `score`; watching the model, masks, positions and padding are in `eviction` and
`pruned_layer` and the same for all. Attention runs through Farspan's interface meanwhile, dense unless a lever for
attention is on too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from farspan.attention.lever import AttentionLever
from farspan.attention.selection import AttentionContext, Selection
from farspan.errors import LeverNotApplicable
from farspan.memory.eviction import Stored, Turning, evicting
from farspan.memory.pruned_layer import PrunedLayer
from farspan.recipe import Lever

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class DenseAttention(AttentionLever):
    """Dense attention through Farspan's interface, which can tell others of the queries it sees."""

    name: ClassVar[str] = "dense"

    def select(self, query: Tensor, key: Tensor, context: AttentionContext) -> Selection | None:
        return None


class EvictionLever(Lever):
    """Drops tokens from the cache and leaves the others their positions.

    chunks : `each` prunes after every call that reads several tokens, so that memory stays bounded; `last` waits for
        the first single token, when the whole prompt, a question at its end included, has been read
    """

    slot: ClassVar[str] = "cache"

    chunks: Literal["each", "last"] = "each"

    def score(self, stored: Stored) -> Tensor:
        """What each stored key is worth: Tensor [B, Hkv or 1, S]; +inf is kept first."""
        raise NotImplementedError(f"{type(self).__name__} does not implement score")

    def limit(self, tokens: Tensor, layer: int, layers: int) -> Tensor:
        """Keys to keep a head, of `tokens` int64 [B, 1] that each row has seen: Tensor int64 [B, 1]."""
        raise NotImplementedError(f"{type(self).__name__} does not implement limit")

    def adopt(self, layer: DynamicLayer, turning: Turning | None) -> PrunedLayer:
        """The layer that takes over the contents of one of transformers' own; `turning` where `turns` asks for it."""
        return PrunedLayer.adopt(layer)

    @property
    def asked(self) -> int:
        """How many of the last queries `score` wants to see."""
        return 0

    @property
    def turns(self) -> bool:
        """Whether the method wants to know how queries and keys are rotated."""
        return False

    @property
    def every(self) -> int | None:
        """After how many single tokens the cache is pruned again; None for never."""
        return None

    @property
    def safeguard(self) -> float | None:
        """Share of the mean budget each head keeps where heads compete for the rest; None for equal budgets."""
        return None

    def check(self, config: PretrainedConfig) -> None:
        text = config.get_text_config(decoder=True)
        if getattr(text, "num_attention_heads", None) is None:
            raise LeverNotApplicable(f"lever '{self.name}' needs a decoder with attention, not {type(text).__name__}")

    @contextmanager
    def switch_on(self, model: PreTrainedModel) -> Iterator[None]:
        text = model.config.get_text_config(decoder=True)
        with ExitStack() as stack:
            if not str(text._attn_implementation_internal).startswith("farspan_"):
                stack.enter_context(DenseAttention(dense_layers=tuple(range(text.num_hidden_layers)))(model))
            stack.enter_context(evicting(model, self))
            yield


class BudgetedEviction(EvictionLever):
    """Keeps a number or a share of the tokens.

    capacity : tokens a head keeps; None keeps by share
    ratio : share of the tokens seen that is dropped where no capacity is given; 0 drops none
    interval : also prune after so many single tokens; None lets answers grow
    head_safeguard : heads compete for one budget, and each keeps this share of its part in any case; None for equal
        parts. Shorter heads leave places empty, so memory follows the longest
    """

    capacity: Annotated[int, Field(ge=1)] | None = None
    ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    interval: Annotated[int, Field(ge=1)] | None = None
    head_safeguard: Annotated[float, Field(ge=0.0, le=1.0)] | None = None

    def limit(self, tokens: Tensor, layer: int, layers: int) -> Tensor:
        if self.capacity is not None:
            return torch.full_like(tokens, self.capacity)
        return (tokens.double() * (1.0 - self.ratio)).long().clamp(min=1)

    @property
    def every(self) -> int | None:
        return self.interval

    @property
    def safeguard(self) -> float | None:
        return self.head_safeguard
