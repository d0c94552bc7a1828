"""Frequencies that follow the length of a sequence, with cached keys kept in step.

transformers' own length-dependent types leave old keys rotated by old frequencies, and remember the longest request
seen. Here the vector depends on the present sequence alone, and when it changes the cache is turned along. Which vector
belongs to which length is the method's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import nn

from farspan.errors import LeverNotApplicable
from farspan.positions.apply import inv_freq_name, kept_positions, rotary_modules, write_config
from farspan.positions.rerotate import pairs_interleaved, rerotate_cache_
from farspan.positions.rope import RopeSpec, get_rope, text_config

if TYPE_CHECKING:
    from transformers import Cache, PretrainedConfig, PreTrainedModel

_TAG = "farspan_rope_length"


class LengthFollower:
    """A forward pre-hook of the module that owns the rotary: sets the frequencies, and turns the cache where needed.

    Parameters
    ----------
    rotary : the rotary module; its `inv_freq` buffer is written
    config : text configuration of the model
    layer_type : entry of a layer-typed configuration, None for a shared rotary
    window : up to this length the rotary keeps the frequencies it has
    frequencies : longer lengths in tokens to Tensor [rotary_dim / 2]
    attention : longer lengths in tokens to a factor on cos and sin, relative to the rotary's own
    """

    def __init__(
        self,
        rotary: nn.Module,
        config: PretrainedConfig,
        layer_type: str | None,
        window: int,
        frequencies: Callable[[int], torch.Tensor],
        attention: Callable[[int], float],
    ) -> None:
        self.rotary = rotary
        self.scaling_name = "attention_scaling" if layer_type is None else f"{layer_type}_attention_scaling"
        self.own_scaling = float(getattr(rotary, self.scaling_name))
        self.attention = attention
        self.buffer: torch.Tensor = getattr(rotary, inv_freq_name(layer_type))
        self.own = self.buffer.clone()
        self.window = window
        self.beyond = lru_cache(maxsize=64)(frequencies)
        self.interleaved = pairs_interleaved(rotary, 2 * self.buffer.shape[0])
        kinds = getattr(config, "layer_types", None)
        self.layers = (
            None if layer_type is None else [index for index, kind in enumerate(kinds or []) if kind == layer_type]
        )

    def frequencies(self, length: int) -> torch.Tensor:
        """The vector for a sequence of `length` tokens."""
        return self.own if length <= self.window else self.beyond(length).to(self.own)

    def scaling(self, length: int) -> float:
        """The factor on cos and sin for a sequence of `length` tokens."""
        return self.own_scaling if length <= self.window else self.own_scaling * self.attention(length)

    def __call__(self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        cache = kwargs.get("past_key_values")
        past = int(cache.get_seq_length()) if cache is not None else 0  # type: ignore[attr-defined]
        length = _sequence_length(args, kwargs, past)
        if cache is not None:
            self._turn(cache, past, length, kwargs.get("attention_mask"))  # type: ignore[arg-type]
            setattr(cache, _TAG, length)
        with torch.no_grad():
            self.buffer.copy_(self.frequencies(length))
        setattr(self.rotary, self.scaling_name, self.scaling(length))

    def _turn(self, cache: Cache, past: int, length: int, mask: object) -> None:
        if not past:
            return
        before = getattr(cache, _TAG, past)
        old, new = self.frequencies(before), self.frequencies(length)
        scale = self.scaling(length) / self.scaling(before)
        if scale == 1 and torch.equal(old, new):
            return
        positions = torch.arange(past, device=self.buffer.device)
        if isinstance(mask, torch.Tensor) and mask.ndim == 2:
            positions = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, :past]
        rerotate_cache_(cache, positions, old, new, layers=self.layers, interleaved=self.interleaved, scale=scale)


def _sequence_length(args: tuple[object, ...], kwargs: dict[str, object], past: int) -> int:
    """Length of the sequence including this call: the highest position plus one."""
    positions = kwargs.get("position_ids")
    if isinstance(positions, torch.Tensor):
        return int(positions.max()) + 1
    given = [kwargs.get("input_ids"), kwargs.get("inputs_embeds"), *args]
    return past + next(value.shape[1] for value in given if isinstance(value, torch.Tensor))


def refuse_to_follow(config: PretrainedConfig, layer_type: str | None, advice: str) -> None:
    """Raise `LeverNotApplicable` if frequencies and cached keys of a model cannot follow the length of a sequence."""
    text, rope = text_config(config), get_rope(config, layer_type)
    fixed_types = rope.method in ("dynamic", "longrope") or (rope.native or {}).get("rope_type") == "longrope"
    if fixed_types or "mrope_section" in rope.carried or hasattr(text, "qk_rope_head_dim"):
        raise LeverNotApplicable(
            f"frequencies and cached keys of this '{text.model_type}' cannot follow the length of a sequence; {advice}"
        )


def _no_factor(length: int) -> float:
    return 1.0


@contextmanager
def length_following(
    model: PreTrainedModel,
    spec: RopeSpec,
    window: int,
    frequencies: Callable[[int], torch.Tensor],
    attention: Callable[[int], float] = _no_factor,
) -> Iterator[None]:
    """Let a model's frequencies follow the sequence length for the length of a `with` block.

    The longest sequence of a batch decides for all its rows.

    Parameters
    ----------
    spec : names target, method and layer type; its native form, the model's own, is what the configuration says
    window : up to this length the model keeps its own frequencies
    frequencies : longer lengths in tokens to Tensor [rotary_dim / 2]
    attention : longer lengths in tokens to a factor on cos and sin, relative to the model's own
    """
    config = text_config(model.config)
    found = list(rotary_modules(model, config))
    if not found:
        raise LeverNotApplicable(f"no rotary module with frequencies of its own found in {type(model).__name__}")
    handles = []
    with kept_positions(model):
        write_config(config, spec, dict(spec.native or {}))
        try:
            for parent, name, module in found:
                fresh = type(module)(config=config).to(next(module.buffers()).device).train(module.training)
                setattr(parent, name, fresh)
                follower = LengthFollower(fresh, config, spec.layer_type, window, frequencies, attention)
                handles.append(parent.register_forward_pre_hook(follower, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()
