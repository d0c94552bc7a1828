"""A transformers cache that begins with a context read earlier; new tokens are appended behind it.

All rows share the context until the first new token comes. The cache knows keys and values only: which of them are
read is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import LongTensor, Tensor
from transformers.cache_utils import Cache, DynamicLayer

from farspan.attention.lookup import SqueezeError

_ROOM = 256


class PrefixLayer(DynamicLayer):
    """One layer: a context of one row, then the new tokens of as many rows as the first call brings.

    keys, values : Tensor [Hkv, P, D] and [Hkv, P, Dv]
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.prefix_length = keys.shape[-2]
        self.dtype, self.device = keys.dtype, keys.device
        self._context = (keys[None], values[None])
        self._memory: tuple[Tensor, Tensor] | None = None
        self.keys, self.values = self._context
        self.is_initialized = True

    @property
    def started(self) -> bool:
        """Whether new tokens were appended, so that rows differ."""
        return self._held()[0].shape[-2] > self.prefix_length

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append new states [B, Hkv, new, D]; all keys and values as views."""
        keys, values = self._held()
        begin, end = keys.shape[-2], keys.shape[-2] + key_states.shape[-2]
        memory = self._memory
        if (
            memory is None
            or memory[0].shape[0] != len(key_states)
            or memory[0].shape[-2] < end
            # other rows, or a copy: what the memory holds is not what the cache holds
            or memory[0].data_ptr() != keys.data_ptr()
        ):
            room = end + max(_ROOM, (end - self.prefix_length) // 2)
            memory = self._memory = (_grown(keys, len(key_states), room), _grown(values, len(key_states), room))
        for target, states in zip(memory, (key_states, value_states), strict=True):
            target[:, :, begin:end] = states
        self.keys, self.values = memory[0][:, :, :end], memory[1][:, :, :end]
        return self.keys, self.values

    def crop(self, max_length: int) -> None:
        """Drop the newest tokens, down to the context and not into it.

        Raises
        ------
        SqueezeError : the context itself would be cut.
        """
        keys, values = self._held()
        length = keys.shape[-2]
        wanted = length + max_length if max_length < 0 else min(max_length, length)
        if wanted < self.prefix_length:
            raise SqueezeError(
                f"cannot crop a cache to {wanted} tokens: its context of {self.prefix_length} tokens stays whole"
            )
        self.keys, self.values = keys[..., :wanted, :], values[..., :wanted, :]

    def reset(self) -> None:
        """Back to the context alone."""
        self.keys, self.values = self._context
        self._memory = None

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row so many times; rows that are still equal stay one."""
        if self.started:
            super().batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows; rows that are still equal stay one."""
        if self.started:
            super().batch_select_indices(indices)

    def reorder_cache(self, beam_idx: LongTensor) -> None:
        """Rows in this order; rows that are still equal stay one."""
        if self.started:
            super().reorder_cache(beam_idx)

    def _held(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values


def prefix_layers(keys: Sequence[Tensor], values: Sequence[Tensor]) -> Cache:
    """A cache over a context's keys and values, one [Hkv, P, D] a layer."""
    return Cache(layers=[PrefixLayer(*layer) for layer in zip(keys, values, strict=True)])


def _grown(held: Tensor, rows: int, room: int) -> Tensor:
    # zeros, since weights of zero times memory that happens to hold NaN would be NaN
    memory = torch.zeros(rows, held.shape[1], room, held.shape[-1], dtype=held.dtype, device=held.device)
    memory[:, :, : held.shape[-2]] = held
    return memory
