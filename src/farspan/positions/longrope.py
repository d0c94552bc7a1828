"""LongRoPE: one divisor for each pair, given from outside (found by search, or published with a model)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field, field_validator

from farspan.errors import LeverNotApplicable
from farspan.positions.lever import PositionLever, Stretched
from farspan.positions.rope import RopeSpec, get_rope

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class LongRope(PositionLever):
    """Each frequency divided by its own factor, cos and sin multiplied by `sqrt(1 + ln(factor) / ln(window))`.

    One list serves all positions: two lists, one for short inputs, would leave cached keys in the wrong one when a
    sequence grows from short to long.

    Fields
    ------
    factors : divisor of each pair, rotary_dim / 2 of them, all above 0; `fit` searches them
    attention_factor : replaces the factor on cos and sin

    Source: arXiv 2402.13753, sections 3.2 and 3.3.
    """

    name: ClassVar[str] = "longrope"
    needs: ClassVar[Literal["nothing", "calibration", "training"]] = "calibration"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({},)

    factors: tuple[float, ...] = ()
    attention_factor: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @field_validator("factors")
    @classmethod
    def _positive(cls, factors: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < factor < math.inf for factor in factors):
            raise ValueError("factors must all be finite and above 0")
        return factors

    def fit(
        self,
        model: PreTrainedModel,
        texts: Sequence[torch.Tensor],
        out: str | Path,
        *,
        deadline: float | None = None,
    ) -> LongRope:
        """Search the factors with which the model reads some texts best; weights stay as they are.

        Parameters
        ----------
        texts : Tensors int64 [length] of token ids, each of at least the target length
        out : file of scores, from which an interrupted search goes on
        deadline : moment of `time.monotonic()` after which nothing more is scored; a minute from now if left out

        Raises
        ------
        LeverNotApplicable : no text, or one that is too short.
        """
        from farspan.positions.longrope_score import search_longrope

        target = round(get_rope(model.config, self.layer_type).target_length * self.factor)
        found, _ = search_longrope(
            model,
            texts,
            target,
            attention_factor=self.attention_factor,
            layer_type=self.layer_type,
            deadline=time.monotonic() + 60.0 if deadline is None else deadline,
            journal=out,
        )
        return found

    def check_model(self, config: PretrainedConfig) -> None:
        get_rope(config, self.layer_type)

    def stretch(self, rope: RopeSpec) -> Stretched:
        if not self.factors:
            raise LeverNotApplicable(
                "lever 'longrope' has no factors yet; search them with `farspan rope search`, or give them"
            )
        if len(self.factors) != rope.rotary_dim // 2:
            raise LeverNotApplicable(
                f"{len(self.factors)} factors were given for a rotary dimension of {rope.rotary_dim}; "
                f"give {rope.rotary_dim // 2}, one a pair"
            )
        inv_freq = rope.inv_freq / torch.tensor(self.factors, dtype=torch.float64)
        default = math.sqrt(1 + math.log(self.factor) / math.log(rope.target_length))
        return Stretched(inv_freq, self.attention_factor or default)
