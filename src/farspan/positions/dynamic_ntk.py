"""Dynamic NTK: the base grows with the sequence, so that inputs within the trained window see the model unchanged."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from transformers import PretrainedConfig

from farspan.positions.length_following import length_following, refuse_to_follow
from farspan.positions.lever import PositionLever, Stretched, through_transformers
from farspan.positions.ntk_aware import ntk_aware
from farspan.positions.rope import RopeSpec, get_rope

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class DynamicNTK(PositionLever):
    """The base is multiplied by `(s n / L - (s - 1))^(d / (d - 2))` for a sequence of n tokens and a window of L.

    At run time n is the length of the present sequence, rounded up to a multiple of `step` beyond the window; cached
    keys are turned along whenever that changes. A checkpoint cannot follow the length: baked and exported, the vector
    is frozen at the target length.

    Fields
    ------
    step : granularity of growth in tokens; a smaller one turns the cache more often

    Source: arXiv 2309.00071, section 3.3 (after a community post, "dynamically scaled RoPE", 2023).
    """

    name: ClassVar[str] = "dynamic-ntk"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({},)

    step: int = Field(default=256, ge=1)

    def stretch(self, rope: RopeSpec) -> Stretched:
        """The vector at the target length."""
        return self._at(rope, round(rope.target_length * self.factor))

    def _at(self, rope: RopeSpec, length: int) -> Stretched:
        growth = max(1.0, self.factor * length / rope.target_length - (self.factor - 1))
        theta, _ = ntk_aware(rope.rope_theta, rope.rotary_dim, growth)
        found = through_transformers(rope, {"rope_type": "dynamic", "factor": self.factor}, seq_len=length)
        return replace(found, native=found.native and {"rope_type": "default", "rope_theta": theta})

    def frequencies(self, rope: RopeSpec, length: int) -> torch.Tensor:
        """The vector for a sequence of `length` tokens, longer than the window: float64 [rotary_dim / 2]."""
        return self._at(rope, self._rounded(rope, length)).inv_freq

    def _rounded(self, rope: RopeSpec, length: int) -> int:
        """The length whose vector a sequence of `length` tokens is read with."""
        target = round(rope.target_length * self.factor)
        return min(math.ceil(length / self.step) * self.step, max(target, length))

    def check(self, config: PretrainedConfig) -> None:
        super().check(config)
        refuse_to_follow(config, self.layer_type, "use ntk, which is static")

    @contextmanager
    def switch_on(self, model: PreTrainedModel) -> Iterator[None]:
        if self.factor == 1:
            yield
            return
        rope, spec = get_rope(model.config, self.layer_type), self.plan(model.config)
        unchanged = replace(spec, native=rope.native)

        @lru_cache
        def at(rounded: int) -> torch.Tensor:
            return self._at(rope, rounded).inv_freq

        # Computed once a step, not once a token.
        with length_following(model, unchanged, rope.target_length, lambda length: at(self._rounded(rope, length))):
            yield
