"""Contexts that were read already: a least-recently-used store of prefilled caches, and finding what prompts share.

A context is known by the hash of its token ids. The store belongs to one model in one state: `model_state` tells the
states apart, so that keys computed under other levers are never used.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from transformers import PreTrainedModel

from farspan.engine.cache import SlotCache
from farspan.positions.length_following import LengthFollower

BLOCK = 256
SHORTEST = 1024
_REMEMBERED = 65536


def prefix_key(ids: Sequence[int], length: int) -> bytes:
    """Name of the first `length` ids."""
    return hashlib.sha256(array("q", ids[:length]).tobytes()).digest()


def block_keys(ids: Sequence[int]) -> list[tuple[int, bytes]]:
    """Length and name of every prefix that could be shared: multiples of 256 tokens, at least 1,024, not all ids."""
    digest = hashlib.sha256()
    found = []
    for start in range(0, (len(ids) - 1) // BLOCK * BLOCK, BLOCK):
        digest.update(array("q", ids[start : start + BLOCK]).tobytes())
        if start + BLOCK >= SHORTEST:
            found.append((start + BLOCK, digest.copy().digest()))
    return found


class PrefixStore:
    """Prefilled contexts by name, the least recently used dropped first.

    Parameters
    ----------
    limit : tokens kept at most, over all contexts
    extend : whether a new context may be continued from a kept one that it begins with
    """

    def __init__(self, limit: int, *, extend: bool = False) -> None:
        self.limit = limit
        self.extend = extend
        self._kept: OrderedDict[bytes, tuple[SlotCache, int]] = OrderedDict()
        self._pinned: dict[bytes, tuple[SlotCache, int]] = {}
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def tokens(self) -> int:
        """Tokens kept now."""
        return sum(length for _, length in self._kept.values())

    def get(self, key: bytes) -> SlotCache | None:
        """The context of this name, which counts as used now."""
        if key in self._pinned:
            return self._pinned[key][0]
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def put(self, key: bytes, cache: SlotCache, length: int) -> None:
        """Keep a context, unless it alone exceeds the limit."""
        if length > self.limit:
            return
        self._kept[key] = (cache, length)
        self._kept.move_to_end(key)
        while self.tokens > self.limit:
            self._kept.popitem(last=False)

    def pin(self, key: bytes, cache: SlotCache, length: int) -> None:
        """Keep a context whatever the limit, until everything is forgotten."""
        self._pinned[key] = (cache, length)

    def pinned_length(self, ids: Sequence[int]) -> int:
        """Length of the longest pinned context that these ids begin with and go on after, 0 if there is none."""
        lengths = {length for _, length in self._pinned.values() if length < len(ids)}
        return max((length for length in lengths if prefix_key(ids, length) in self._pinned), default=0)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._pinned.clear()
        self._seen.clear()

    def longest_kept(self, ids: Sequence[int], below: int) -> tuple[int, SlotCache] | None:
        """The longest kept context that these ids begin with and that is shorter than `below`."""
        for length, key in reversed(block_keys(ids[:below])):
            cache = self.get(key)
            if cache is not None:
                return length, cache
        return None

    def shared_lengths(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """How much of each prompt is worth prefilling as a context of its own: what another prompt began with.

        Others are those of this call and those of earlier calls; 0 where nothing is shared.
        """
        keys = [block_keys(prompt) for prompt in prompts]
        counts: dict[bytes, int] = {}
        for blocks in keys:
            for _, key in blocks:
                counts[key] = counts.get(key, 0) + 1
        lengths = [
            max((length for length, key in blocks if counts[key] > 1 or key in self._seen), default=0)
            for blocks in keys
        ]
        for key in counts:
            self._seen[key] = None
            self._seen.move_to_end(key)
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return lengths


def length_dependence(model: PreTrainedModel) -> Literal["none", "turned", "blind"]:
    """Whether a model's rotary frequencies change with the length of the sequence.

    `turned` if a lever changes them and turns cached keys along; `blind` if transformers changes them and leaves cached
    keys as they are. Rows read at different lengths must then not go on in one batch, and in the second case a context
    must not be continued at another length.
    """
    if any(
        isinstance(hook, LengthFollower) for module in model.modules() for hook in module._forward_pre_hooks.values()
    ):
        return "turned"
    rope = getattr(model.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    kinds = [rope] if "rope_type" in rope else [entry for entry in rope.values() if isinstance(entry, dict)]
    for entry in kinds:
        if entry.get("rope_type") == "dynamic":
            return "blind"
        if entry.get("rope_type") == "longrope" and entry.get("short_factor") != entry.get("long_factor"):
            return "blind"
    return "none"


def model_state(model: PreTrainedModel) -> int:
    """A number that changes when levers change what a model computes.

    It covers the configuration, which tensors the model holds and how often each was written in place, and the hooks
    on its modules: a few hundred microseconds for a small model.
    """
    # Tensors made in inference mode count no writes; they cannot be trained either.
    tensors = tuple(
        (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
        for owner in (model.parameters(), model.buffers())
        for tensor in owner
    )
    hooks = tuple(
        (id(module), *module._forward_hooks, *module._forward_pre_hooks)
        for module in model.modules()
        if module._forward_hooks or module._forward_pre_hooks
    )
    return hash((repr(model.config.__dict__), tensors, hooks))
