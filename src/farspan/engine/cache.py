"""Keys and values of a batch in slots that are allocated once and written in place.

A `SlotCache` is an ordinary transformers cache to a model's forward. Its rows end flush at the right, so prompts of
unequal length need padding at the left only; a group of rows can be prefilled through a `view` of the same memory,
and a prefilled context is copied into as many rows as ask about it. Appending a token copies nothing, which is what
a cache that grows by concatenation spends most of a small model's decoding on. It decides nothing about batches.

Keys carry their rotary position already, so the slot that a token stands in does not matter; only the order within a
row does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DummyLayer,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
)

from farspan.errors import FarspanError

_Other = LinearAttentionCacheLayerMixin | DummyLayer


class CacheError(FarspanError):
    """A change to a cache that its slots cannot hold."""


class _Slots:
    """One layer's keys and values, `[rows, kv_heads, capacity, head_dim]`, allocated when first written."""

    def __init__(self, rows: int, capacity: int) -> None:
        self.rows = rows
        self.capacity = capacity
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def ensure(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The memory, made for states of these shapes if there is none yet."""
        if self.keys is None or self.values is None:
            # Zeros, since attention weights of zero times memory that happens to hold NaN would be NaN.
            self.keys, self.values = (
                states.new_zeros((self.rows, states.shape[1], self.capacity, states.shape[3]))
                for states in (keys, values)
            )
        return self.keys, self.values

    def keep_rows(self, rows: Tensor) -> None:
        self.rows = int(rows.numel())
        if self.keys is not None and self.values is not None:
            self.keys = self.keys.index_select(0, rows.to(self.keys.device))
            self.values = self.values.index_select(0, rows.to(self.values.device))


class SlotLayer(DynamicLayer):
    """A window on some rows of a layer's slots, from slot `start` on, `length` of them filled."""

    def __init__(self, slots: _Slots, rows: slice, start: int, length: int) -> None:
        self.slots = slots
        self.rows = rows
        self.start = start
        self.length = length
        self.is_initialized = True

    def _window(self, memory: Tensor | None) -> Tensor | None:
        return None if memory is None else memory[self.rows, :, self.start : self.start + self.length]

    @property
    def keys(self) -> Tensor | None:
        """`[rows, kv_heads, length, head_dim]`, a view. What is assigned must have its shape and is copied into it."""
        return self._window(self.slots.keys)

    @keys.setter
    def keys(self, states: Tensor | None) -> None:
        _overwrite(self.keys, states)

    @property
    def values(self) -> Tensor | None:
        """`[rows, kv_heads, length, head_dim]`, a view. What is assigned must have its shape and is copied into it."""
        return self._window(self.slots.values)

    @values.setter
    def values(self, states: Tensor | None) -> None:
        _overwrite(self.values, states)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write states behind the filled slots; all filled keys and values as views."""
        keys, values = self.slots.ensure(key_states, value_states)
        first = self.start + self.length
        last = first + key_states.shape[-2]
        keys[self.rows, :, first:last] = key_states
        values[self.rows, :, first:last] = value_states
        self.length += key_states.shape[-2]
        return keys[self.rows, :, self.start : last], values[self.rows, :, self.start : last]

    def get_seq_length(self) -> int:
        """Filled slots, padding at the left included."""
        return self.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows, in this order; only on a cache that covers all rows."""
        self.slots.keep_rows(beam_idx)
        self.rows = slice(0, self.slots.rows)


def _overwrite(filled: Tensor | None, states: Tensor | None) -> None:
    if filled is None or states is None or filled.shape != states.shape:
        shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (filled, states)]
        raise CacheError(
            f"cached states of shape {shapes[0]} cannot become {shapes[1]}; rows of a batch keep their length"
        )
    filled.copy_(states)


class SlotCache(Cache):
    """The cache of a batch.

    Parameters
    ----------
    config : the model's configuration; `fits` must hold for it
    rows : requests in the batch
    capacity : slots a row
    """

    def __init__(self, config: PretrainedConfig, rows: int, capacity: int) -> None:
        self._slots = [
            None if isinstance(layer, DummyLayer) else _Slots(rows, capacity)
            for layer in DynamicCache(config=config).layers
        ]
        super().__init__(layers=self._layers(slice(0, rows), 0, 0))

    @staticmethod
    def fits(config: PretrainedConfig) -> bool:
        """Whether every layer of such a model keeps keys and values of all tokens, or none at all.

        Layers with a recurrent state or an index of their own cannot start in the middle of a row.
        """
        return all(
            type(layer) in (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)
            for layer in DynamicCache(config=config).layers
        )

    def _layers(self, rows: slice, start: int, length: int) -> list[CacheLayerMixin | _Other]:
        return [DummyLayer() if slots is None else SlotLayer(slots, rows, start, length) for slots in self._slots]

    def view(self, rows: slice, start: int, length: int) -> Cache:
        """A cache on some rows of the same memory whose first filled slot is `start`."""
        return Cache(layers=self._layers(rows, start, length))

    def place(self, context: SlotCache, rows: Sequence[int], starts: Sequence[int]) -> None:
        """Copy a context of one row into these rows, its first token into slot `starts[i]` of row `rows[i]`."""
        for slots, layer in zip(self._slots, context.layers, strict=True):
            if slots is None or not isinstance(layer, SlotLayer) or layer.keys is None or layer.values is None:
                continue
            keys, values = slots.ensure(layer.keys, layer.values)
            for row, start in zip(rows, starts, strict=True):
                keys[row, :, start : start + layer.length] = layer.keys[0]
                values[row, :, start : start + layer.length] = layer.values[0]

    def filled(self, length: int) -> None:
        """Declare the first `length` slots of all rows filled, after groups were prefilled through views."""
        for layer in self.layers:
            if isinstance(layer, SlotLayer):
                layer.length = length


def cache_bytes(cache: Cache) -> int:
    """Bytes of the keys, values and recurrent states that a cache holds, counted on its filled tensors.

    Slots that are allocated and not yet filled are left out, so the number is the same for every kind of cache.
    """
    return sum(tensor.numel() * tensor.element_size() for layer in cache.layers for tensor in _states(layer))


def _states(layer: object) -> list[Tensor]:
    found = [getattr(layer, name, None) for name in ("keys", "values", "indexer_keys")]
    for name in ("conv_states", "recurrent_states"):
        states = getattr(layer, name, None)
        found += list(states.values()) if isinstance(states, dict) else [states]
    return [tensor for tensor in found if isinstance(tensor, torch.Tensor)]
