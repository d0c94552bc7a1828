"""Caches of models that mix softmax layers with recurrent ones: keys and values for the former, a state for the latter.

`StateLayer` takes the place of an ordinary layer in any transformers cache, so one cache object serves both kinds and
knows its length from either. A recurrent state forgets, so it cannot be cut back by itself; once recording is on, the
layer keeps an earlier state and the tokens since, and replays them. `HybridCache` is that for MiniMax models, whose
own class reports a wrong length where the first layer is linear, and cannot be cut at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, LinearAttentionLayer
from transformers.models.minimax.modeling_minimax import MiniMaxCache

from farspan.errors import FarspanError

States = tuple[Tensor, ...]
# tokens added to a state -> the state after them; None is the state before the first token
Replay = Callable[[States | None, States], States]

WINDOW = 64


class StateCacheError(FarspanError):
    """A change to recurrent states that they cannot follow."""


class StateLayer(CacheLayerMixin):
    """States of one layer and the number of tokens they have seen, padding included.

    Parameters
    ----------
    window : tokens that can be taken back, at least, once `activate_past_recording` was called
    """

    is_sliding = False
    supports_early_init = False

    def __init__(self, window: int = WINDOW) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.states: States | None = None
        self.length = 0
        self.window = window
        self.recording = False
        self._base: States | None = None
        self._recent: States | None = None
        self._replay: Replay | None = None

    def advance(
        self, states: Sequence[Tensor], tokens: int, added: States | None = None, replay: Replay | None = None
    ) -> None:
        """Put the states after `tokens` more tokens in place.

        Parameters
        ----------
        states : tensors with the batch first
        added : what those tokens brought, [batch, tokens, ...] each; with `replay`, it allows taking them back
        replay : computes states again from earlier ones and such additions
        """
        if self.recording and added is not None and replay is not None:
            self._replay = replay
            self._recent = added if self._recent is None else _joined(self._recent, added)
            surplus = self._recent[0].shape[1] - self.window
            if surplus > self.window:
                self._base = replay(self._base, tuple(x[:, :surplus] for x in self._recent))
                self._recent = tuple(x[:, surplus:] for x in self._recent)
        self.states = tuple(states)
        self.length += tokens
        self.is_initialized = True

    def activate_past_recording(self) -> None:
        """From now on keep what `crop` needs."""
        if not self.recording:
            self.recording, self._base, self._recent = True, self.states, None

    @property
    def is_croppable(self) -> bool:  # type: ignore[override]
        """Whether tokens can be taken back now."""
        return self.recording and self._replay is not None

    def crop(self, tokens_to_remove: int) -> None:
        """Take the last tokens back; a negative number says how many, as in transformers.

        Raises
        ------
        StateCacheError : recording is off, or more tokens than are kept.
        """
        if tokens_to_remove == 0:
            return
        kept = 0 if self._recent is None else self._recent[0].shape[1]
        if tokens_to_remove > 0 or self._replay is None or self._recent is None or -tokens_to_remove > kept:
            raise StateCacheError(
                f"cannot take {abs(tokens_to_remove)} tokens back from a recurrent state: {kept} are kept; "
                "call activate_past_recording() before them, or build the cache with a wider window"
            )
        self._recent = tuple(x[:, : kept + tokens_to_remove] for x in self._recent)
        self.states = self._replay(self._base, self._recent)
        self.length += tokens_to_remove

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise StateCacheError("a recurrent layer keeps states, not keys and values")

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        raise StateCacheError("a recurrent layer keeps states, not keys and values")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length of a mask over all tokens, and its offset, as for a layer with keys."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens seen so far."""
        return self.length

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    def reset(self) -> None:
        """Forget everything."""
        self.states = self._base = self._recent = None
        self.length, self.is_initialized = 0, False

    def offload(self) -> None:
        """Move the states to the host."""
        self._change(lambda x: x.to("cpu", non_blocking=True))

    def prefetch(self) -> None:
        """States are small and come back when they are used."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows, in this order."""
        self._change(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        self._change(lambda x: x[indices.to(x.device)])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row `repeats` times."""
        self._change(lambda x: x.repeat_interleave(repeats, dim=0))

    def _change(self, change: Callable[[Tensor], Tensor]) -> None:
        for name in ("states", "_base", "_recent"):
            held: States | None = getattr(self, name)
            if held is not None:
                setattr(self, name, tuple(change(x) for x in held))


def _joined(first: States, second: States) -> States:
    return tuple(torch.cat([one, other], dim=1) for one, other in zip(first, second, strict=True))


def state_layer(cache: Cache, layer_idx: int) -> StateLayer:
    """The cache's state layer at this index; put there on the first call, in place of an empty layer.

    Raises
    ------
    StateCacheError : the cache keeps keys and values of that layer in a way that states cannot replace.
    """
    while len(cache.layers) <= layer_idx:
        cache.layers.append(DynamicLayer())
    found = cache.layers[layer_idx]
    if isinstance(found, StateLayer):
        return found
    if type(found) not in (DynamicLayer, LinearAttentionLayer) or _holds_something(found):
        raise StateCacheError(
            f"layer {layer_idx} is recurrent, but the cache has a {type(found).__name__} for it that cannot be "
            "replaced; use a fresh DynamicCache"
        )
    layer = StateLayer(getattr(cache, "window", WINDOW))
    cache.layers[layer_idx] = layer
    if getattr(cache, "recording", False):
        layer.activate_past_recording()
    return layer


def _holds_something(layer: object) -> bool:
    if isinstance(layer, DynamicLayer):
        return bool(layer.get_seq_length())
    assert isinstance(layer, LinearAttentionLayer)
    return any(layer.is_recurrent_states_initialized.values()) or any(layer.is_conv_states_initialized.values())


class HybridCache(MiniMaxCache):
    """A cache for MiniMax models under the lever `lightning`, which behaves like any other transformers cache.

    Parameters
    ----------
    window : tokens that `crop` can take back, at least, from when recording is on
    """

    def __init__(self, window: int = WINDOW) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.window = window
        self.recording = False

    @property
    def is_croppable(self) -> bool:  # type: ignore[override]
        """Whether every layer can take tokens back."""
        return bool(self.layers) and all(layer.is_croppable for layer in self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def activate_past_recording(self) -> None:
        """From now on keep what `crop` needs, in all layers there are and will be."""
        self.recording = True
        super().activate_past_recording()  # type: ignore[no-untyped-call]

    def crop(self, tokens_to_remove: int) -> None:
        """Take tokens back; a negative number says how many."""
        Cache.crop(self, tokens_to_remove)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row `repeats` times."""
        Cache.batch_repeat_interleave(self, repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        Cache.batch_select_indices(self, indices)
