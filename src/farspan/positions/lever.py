"""What all levers that stretch the window share: applicability, switching on and off, and baking.

A method is a subclass with one function, `stretch`, from the present rotary positions to the stretched ones. It sees
vectors and lengths only; models, checkpoints and layer types are dealt with here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from transformers import PretrainedConfig

from farspan.errors import LeverNotApplicable
from farspan.positions.apply import applied, apply_rope, settle
from farspan.positions.rope import RopeSpec, default_inv_freq, get_rope, rope_frequencies, text_config
from farspan.recipe import Lever

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class Stretched:
    """What a method makes of a frequency vector.

    inv_freq : Tensor [rotary_dim / 2], float64, the new frequencies
    attention_factor : new factor on cos and sin, relative to the present one
    native : rotary parameters that make transformers compute the same from the model's own base, None if none do
    """

    inv_freq: torch.Tensor
    attention_factor: float = 1.0
    native: dict[str, object] | None = None


class PositionLever(Lever):
    """A lever that stretches the window of a model with rotary positions.

    Fields
    ------
    factor : target length over present length, at least 1; at 1 every method leaves the model bit for bit as it is
    compose : allow a model whose positions are stretched already; its effective frequencies are stretched further
    layer_type : entry of a layer-typed configuration to stretch; by default the layers that see the whole context
    """

    slot: ClassVar[str] = "positions"
    short_rows: ClassVar[bool] = False
    """Whether training with the lever on reads rows within the native window, and the lever spreads their positions."""

    factor: float = Field(ge=1, allow_inf_nan=False)
    compose: bool = False
    layer_type: str | None = None

    def stretch(self, rope: RopeSpec) -> Stretched:
        """The method itself: `rope.inv_freq` stretched from a window of `rope.target_length` tokens by `factor`."""
        raise NotImplementedError(f"{type(self).__name__} does not implement stretch")

    def plan(self, config: PretrainedConfig) -> RopeSpec:
        """The rotary positions this lever gives a model of this configuration; nothing is changed.

        Raises
        ------
        LeverNotApplicable : no rotary positions, stretched already and not `compose`, or no layer that sees farther
            than its sliding window.
        """
        rope = get_rope(config, self.layer_type)
        if self.factor == 1:
            return rope
        if not self.compose:
            refuse_stretched(rope)
        _check_sliding(text_config(config), rope)
        new = self.stretch(rope)
        native = new.native
        if rope.stretched:
            native = None
        elif native is not None and "partial_rotary_factor" in (rope.native or {}):
            native = {**native, "partial_rotary_factor": rope.partial_rotary_factor}
        return replace(
            rope,
            inv_freq=new.inv_freq.double(),
            attention_factor=rope.attention_factor * new.attention_factor,
            target_length=round(rope.target_length * self.factor),
            method=self.name,
            params=self.model_dump(mode="json", exclude_defaults=True),
            native=native,
        )

    def check(self, config: PretrainedConfig) -> None:
        """Raise `LeverNotApplicable` if a model of this configuration cannot take the lever."""
        spec = self.plan(config)
        if spec.method == self.name:
            settle(text_config(config), spec)

    @contextmanager
    def switch_on(self, model: PreTrainedModel) -> Iterator[None]:
        """Stretch the window for the length of the block; afterwards configuration and modules are as they were."""
        if self.factor == 1:
            yield
            return
        with applied(model, self.plan(model.config)):
            yield

    def bake(self, model: PreTrainedModel) -> None:
        """Stretch the window for good; `model.save_pretrained` then writes a checkpoint plain transformers loads."""
        if self.factor > 1:
            apply_rope(model, self.plan(model.config))


def through_transformers(rope: RopeSpec, parameters: Mapping[str, object], seq_len: int | None = None) -> Stretched:
    """Stretch by a type of transformers, which computes from the model's base rather than from a vector.

    On a model that is stretched already, the ratio of stretched to unscaled frequencies is applied to the present ones.

    Parameters
    ----------
    rope : the present positions
    parameters : rotary parameters of the type, without base and rotated fraction
    seq_len : length of the sequence, for a type that depends on it
    """
    full = {**parameters, "rope_theta": rope.rope_theta}
    inv_freq, attention_factor = rope_frequencies(full, rope.rotary_dim, rope.target_length, seq_len)
    new = inv_freq.double()
    if rope.method != "default":
        new = rope.inv_freq * (new / default_inv_freq(rope.rope_theta, rope.rotary_dim))
    return Stretched(new, attention_factor, native=full if rope.method == "default" else None)


def refuse_stretched(rope: RopeSpec) -> None:
    """Raise `LeverNotApplicable` if positions have been stretched before."""
    if rope.stretched:
        raise LeverNotApplicable(
            f"positions are stretched already ({rope.method}, {rope.original_length} to {rope.target_length} tokens); "
            "set compose to stretch them further"
        )


def _check_sliding(config: PretrainedConfig, rope: RopeSpec) -> None:
    window = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None) or ["sliding"]
    if (
        rope.layer_type is None
        and window
        and window <= rope.target_length
        and all("sliding" in kind for kind in layers)
    ):
        raise LeverNotApplicable(
            f"every layer of '{config.model_type}' looks back at most {window} tokens (sliding_window), so no position "
            f"beyond the window of {rope.target_length} is new to it; stretching positions has nothing to change"
        )
