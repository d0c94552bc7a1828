"""A model's own forward, called the way masked diffusion needs it: everything is seen, and some places are predicted.

Any decoder of transformers serves, also a causal one, whose mask is then replaced. This module fills nothing in; it
turns ids into logits, with or without the keys and values of a prefix that was read before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from farspan.engine.forward import UnsupportedModel


class Denoiser(Protocol):
    """What the sampler and the scores ask of a model.

    mask_token_id : id of an unknown token; it may lie behind the vocabulary
    eos_token_id : id after which a text has ended, None for none
    """

    mask_token_id: int
    eos_token_id: int | None

    def __call__(self, ids: Tensor, visible: Tensor | None, start: int, end: int) -> Tensor:
        """Logits [rows, end - start, vocabulary] of the tokens from `start` up to `end` of ids [rows, length].

        `visible` [rows, length] is 0 on padding, None where there is none.
        """
        ...


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the first `length` tokens, as they were when the whole sequence was last read."""

    cache: DynamicCache
    length: int


class ModelDenoiser:
    """A `Denoiser` out of a transformers model.

    Parameters
    ----------
    model : any decoder with a language model head; levers, if any, are on already
    mask_token_id : the configuration's `mask_token_id` where left out
    eos_token_id : the configuration's where left out (of several the first)
    shift_logits : output at a place predicts the next place's token, as in models adapted from causal ones

    Raises
    ------
    UnsupportedModel : no mask id is known, or the model has no language model head.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        mask_token_id: int | None = None,
        eos_token_id: int | None = None,
        *,
        shift_logits: bool = False,
    ) -> None:
        config = model.config
        mask = getattr(config, "mask_token_id", None) if mask_token_id is None else mask_token_id
        if not isinstance(mask, int):
            raise UnsupportedModel(
                f"{type(model).__name__} names no mask token; give mask_token_id, or a masked-diffusion model"
            )
        if config.is_encoder_decoder or model.get_output_embeddings() is None:
            raise UnsupportedModel(f"{type(model).__name__} is no decoder with a language model head")
        ends = getattr(config, "eos_token_id", None) if eos_token_id is None else eos_token_id
        self.model = model
        self.mask_token_id = mask
        self.eos_token_id: int | None = (ends[0] if ends else None) if isinstance(ends, list) else ends
        self._shift = int(shift_logits)
        self._sees_all = getattr(config, "is_causal", True) is False

    @property
    def device(self) -> torch.device:
        """Where ids must be."""
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return weight.device

    def __call__(self, ids: Tensor, visible: Tensor | None = None, start: int = 0, end: int | None = None) -> Tensor:
        """See `Denoiser`; by default the logits of every token."""
        return self._run(ids, visible, start, ids.shape[1] if end is None else end)

    def remember(self, ids: Tensor, visible: Tensor | None, start: int, end: int) -> tuple[Tensor, Prefix]:
        """The logits, and what `after` needs to read from `start` on only.

        Raises
        ------
        UnsupportedModel : a layer's cache cannot be cut back.
        """
        cache = DynamicCache(config=self.model.config)
        if any(cache.is_sliding) or not all(getattr(layer, "is_croppable", False) for layer in cache.layers):
            raise UnsupportedModel(f"{type(self.model).__name__} has layers whose cache cannot be cut back to a prefix")
        prefix = Prefix(cache, max(0, start - self._shift))
        return self._run(ids, visible, start, end, prefix, done=0), prefix

    def after(self, prefix: Prefix, ids: Tensor, visible: Tensor | None, start: int, end: int) -> Tensor:
        """The logits, with the prefix's keys and values as they were remembered, which makes them approximate."""
        return self._run(ids, visible, start, end, prefix, done=prefix.length)

    def _run(
        self, ids: Tensor, visible: Tensor | None, start: int, end: int, prefix: Prefix | None = None, done: int = 0
    ) -> Tensor:
        rows, length = ids.shape
        if visible is None:
            positions = torch.arange(length, device=ids.device).expand(rows, length)
        else:
            positions = (visible.long().cumsum(-1) - 1).clamp(min=0)
        wanted = (torch.arange(start, end, device=ids.device) - self._shift).clamp(min=0) - done
        logits: Tensor = self.model(
            input_ids=ids[:, done:],
            attention_mask=self._mask(visible, ids, done),
            position_ids=positions[:, done:],
            past_key_values=None if prefix is None else prefix.cache,
            use_cache=prefix is not None,
            logits_to_keep=wanted,
        ).logits
        if prefix is not None and prefix.length < length:
            prefix.cache.crop(prefix.length - length)
        return logits

    def _mask(self, visible: Tensor | None, ids: Tensor, done: int) -> Tensor | None:
        """Visible tokens for a model that sees both ways; for a causal one the whole mask, which overrides its own."""
        if self._sees_all:
            return visible
        rows, length = ids.shape
        dtype = self.model.dtype
        mask = torch.zeros((rows, 1, 1, length), dtype=dtype, device=ids.device)
        if visible is not None:
            mask = mask.masked_fill(~visible.bool()[:, None, None, :], torch.finfo(dtype).min)
        return mask.expand(rows, 1, length - done, length)
