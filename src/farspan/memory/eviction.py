"""Dropping tokens from a cache: which slots are kept, and when. What a token is worth is the method's business.

Every attention module is watched by an `Evictor`: before the module runs, the mask is cut to what its cache stores;
afterwards the cache is pruned. All that was dropped stays dropped for good; what is left keeps its true position.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from farspan.attention.state import OBSERVER
from farspan.errors import FarspanError, LeverConflict, LeverNotApplicable
from farspan.memory.pruned_layer import EMPTY, PrunedLayer, packed
from farspan.positions.apply import rotary_modules
from farspan.positions.length_following import LengthFollower
from farspan.positions.rerotate import pairs_interleaved
from farspan.positions.rope import find_layer_type, text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from farspan.memory.lever import EvictionLever


@dataclass(frozen=True, eq=False)
class Turning:
    """How a model rotates queries and keys.

    inv_freq : Tensor [pairs], radians a token; interleaved : neighbouring channels are a pair
    """

    inv_freq: Tensor
    interleaved: bool


@dataclass(frozen=True, eq=False)
class Stored:
    """What a method scores: one layer's stored keys.

    keys, values : Tensor [B, Hkv, S, D]
    valid : Tensor bool [B, Hkv or 1, S], keys that are tokens and not padding or empty
    queries : Tensor [B, Hq, n, D] or None, the last queries; the last n stored keys stand at their positions
    scaling : factor of the scores
    layer, layers : index of the layer and number of layers
    tokens : Tensor int64 [B, 1], tokens each row has seen
    turning : how queries are rotated, for methods that ask with `turns`
    """

    keys: Tensor
    values: Tensor
    valid: Tensor
    queries: Tensor | None
    scaling: float
    layer: int
    layers: int
    tokens: Tensor
    turning: Turning | None = None


@dataclass
class EvictionStats:
    """What became of one layer's cache since the lever was switched on.

    seen, stored : tokens seen, and keys stored a head, in the last cache that was touched
    prunings, dropped : times something was dropped, and keys dropped in all rows and heads together
    skipped : calls whose cache layer was left alone, by reason
    """

    layer: int
    seen: int = 0
    stored: int = 0
    prunings: int = 0
    dropped: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


def capacity_of(length: int, *, ratio: float) -> int:
    """Tokens kept of `length` when the share `ratio` is dropped."""
    return int(length * (1.0 - ratio))


def kept_slots(scores: Tensor, capacity: int | Tensor) -> Tensor:
    """The best entries of each row, in their order.

    scores : Tensor [B, H, S]; -inf is never kept, ties go to the lower index
    capacity : how many, a Tensor [B, H] or [B, 1] where they differ

    Returns
    -------
    Tensor int64 [B, H, K], ascending; shorter rows begin with -1, so that all end with their last token
    """
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    limit = capacity[..., None] if isinstance(capacity, Tensor) else capacity
    kept = (order.argsort(-1) < limit) & (scores > -torch.inf)
    return packed(kept)


def joint_capacities(scores: Tensor, capacity: Tensor, safeguard: float) -> Tensor:
    """How many entries each head keeps where heads share one budget.

    scores : Tensor [B, H, S]; capacity : Tensor [B, 1], mean of the heads
    safeguard : share of the mean every head keeps in any case

    Returns
    -------
    Tensor int64 [B, H]

    Source: arXiv 2407.11550, section 3 (Ada-KV).
    """
    heads = scores.shape[1]
    rank = scores.sort(dim=-1, descending=True, stable=True).indices.argsort(-1)
    sure = rank < (capacity * safeguard).long()[..., None]
    contest = torch.where(sure & (scores > -torch.inf), torch.inf, scores).flatten(1)
    order = contest.sort(dim=-1, descending=True, stable=True).indices.argsort(-1)
    won = (order < capacity * heads) & (contest > -torch.inf)
    return won.view_as(scores).sum(-1)


class Evictor:
    """Watches one attention module; `before` and `after` are its hooks, `__call__` is told the queries."""

    def __init__(self, lever: EvictionLever, module: nn.Module, layers: int, turning: Turning | None = None) -> None:
        self.lever = lever
        self.turning = turning
        self.stats = EvictionStats(int(module.layer_idx))  # type: ignore[arg-type]
        self._layers = layers
        self._query: Tensor | None = None
        self._mask: Tensor | None = None

    def __call__(self, query: Tensor) -> None:
        """Note the queries [B, Hq, n, D] of the call that runs."""
        self._query = query

    def before(
        self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]] | None:
        """Cut the mask to what is stored."""
        mask = kwargs.get("attention_mask")
        self._mask = mask if isinstance(mask, Tensor) else None
        self._query = None
        layer = self._layer(kwargs)
        if not isinstance(layer, PrunedLayer):
            return None
        new = _length(args, kwargs)
        if new == 1 and self.lever.chunks == "last" and layer.slots is None:
            # the prompt is complete: what was held back until now is dropped
            self._prune(module, layer, None if self._mask is None else self._mask[..., : layer.seen])
        if layer.slots is None:
            return None
        cut = layer.cut_mask(self._mask, new)
        if cut is not None and cut.shape[1] > 1:
            cut = cut.repeat_interleave(_query_heads(module) // cut.shape[1], dim=1)
        return args, {**kwargs, "attention_mask": cut}

    def after(self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
        """Prune, where it is time."""
        layer = self._layer(kwargs)
        if layer is None:
            return
        cache = kwargs["past_key_values"]
        assert isinstance(cache, Cache)
        if not isinstance(layer, PrunedLayer):
            layer = cache.layers[self.stats.layer] = self.lever.adopt(layer, self.turning)
        if self.lever.asked and self._query is not None:
            layer.remember(self._query, self.lever.asked)
        self._query = None
        new = _length(args, kwargs)
        every = self.lever.every
        due = every is not None and layer.since >= every if new == 1 else self.lever.chunks == "each"
        if due:
            self._prune(module, layer, self._mask)
        self.stats.seen, self.stats.stored = layer.seen, layer.stored

    def _prune(self, module: nn.Module, layer: PrunedLayer, mask: Tensor | None) -> None:
        scaling = getattr(module, "scaling", None)
        dropped = prune_layer(
            layer,
            self.lever,
            mask,
            scaling=float(scaling) if isinstance(scaling, float) else None,
            index=self.stats.layer,
            layers=self._layers,
            turning=self.turning,
        )
        if dropped:
            self.stats.prunings += 1
            self.stats.dropped += dropped

    def _layer(self, kwargs: dict[str, object]) -> DynamicLayer | None:
        """This module's layer of the cache in use, None where there is nothing to prune."""
        cache = kwargs.get("past_key_values")
        if not isinstance(cache, Cache):
            return None
        if self.stats.layer >= len(cache.layers):
            return None
        layer = cache.layers[self.stats.layer]
        if isinstance(layer, PrunedLayer) or type(layer) is DynamicLayer:
            assert isinstance(layer, DynamicLayer)
            return layer
        if isinstance(layer, DynamicSlidingWindowLayer):
            # it forgets by itself
            self.stats.skipped["sliding window"] += 1
            return None
        raise LeverNotApplicable(
            f"lever '{self.lever.name}' drops tokens from transformers' DynamicCache; "
            f"a {type(layer).__name__} keeps a place for every token"
        )


def prune_layer(
    layer: PrunedLayer,
    lever: EvictionLever,
    mask: Tensor | None,
    *,
    scaling: float | None = None,
    index: int = 0,
    layers: int = 1,
    turning: Turning | None = None,
) -> int:
    """Drop what the lever does not keep; the number of keys dropped over all rows and heads.

    mask : of all tokens seen, as `PrunedLayer.valid` takes it
    """
    assert layer.keys is not None
    assert layer.values is not None
    batch, heads, _, dim = layer.keys.shape
    valid = layer.valid(mask)
    if mask is None:
        tokens = torch.full((batch, 1), layer.seen, device=valid.device)
    else:
        tokens = (mask if mask.ndim == 2 else mask[:, 0, -1]).bool().sum(-1, keepdim=True)
    counts = valid.sum(-1)
    limit = lever.limit(tokens, index, layers)
    if bool((counts <= limit).all()):
        return 0
    factor = dim**-0.5 if scaling is None else scaling
    stored = Stored(layer.keys, layer.values, valid, layer.queries, factor, index, layers, tokens, turning)
    scores = lever.score(stored).float().masked_fill(~valid, -torch.inf)
    if lever.safeguard is not None and scores.shape[1] > 1:
        limit = joint_capacities(scores, limit, lever.safeguard)
    before = int(counts.sum()) * (heads // counts.shape[1])
    layer.keep(kept_slots(scores, limit))
    assert layer.slots is not None
    return before - int((layer.slots != EMPTY).sum()) * (heads // layer.slots.shape[1])


def prune(cache: Cache, lever: EvictionLever, *, mask: Tensor | None = None) -> None:
    """Prune a filled cache once, in place; its layers become `PrunedLayer`s.

    Later tokens need the lever switched on, which cuts the masks.

    Parameters
    ----------
    lever : a method that asks no queries
    mask : Tensor [B, length], 0 on padding

    Raises
    ------
    FarspanError : the method asks queries, which a cache does not hold.
    """
    if lever.asked:
        raise FarspanError(f"lever '{lever.name}' asks the last queries; switch it on while the prompt is read")
    for index, layer in enumerate(cache.layers):
        if not isinstance(layer, PrunedLayer) and type(layer) is not DynamicLayer:
            continue
        assert isinstance(layer, DynamicLayer)
        if not layer.is_initialized:
            continue
        pruned = layer if isinstance(layer, PrunedLayer) else lever.adopt(layer, None)
        cache.layers[index] = pruned
        prune_layer(pruned, lever, mask, index=index, layers=len(cache.layers))


@contextmanager
def evicting(model: PreTrainedModel, lever: EvictionLever) -> Iterator[None]:
    """Watch every attention module of a model for the length of a `with` block.

    Raises
    ------
    LeverNotApplicable : the model has no attention module with a layer index.
    LeverConflict : the model's rotary frequencies follow the length.
    """
    refuse_moving_angles(model, lever.name)
    modules = attention_modules(model)
    if not modules:
        raise LeverNotApplicable(f"lever '{lever.name}': no attention found in {type(model).__name__}")
    layers = 1 + max(int(module.layer_idx) for module in modules)  # type: ignore[arg-type]
    turning = turning_of(model) if lever.turns else None
    handles, before = [], []
    try:
        for module in modules:
            evictor = Evictor(lever, module, layers, turning)
            before.append((module, vars(module).get(OBSERVER)))
            setattr(module, OBSERVER, evictor)
            handles.append(module.register_forward_pre_hook(evictor.before, with_kwargs=True))
            handles.append(module.register_forward_hook(evictor.after, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, observer in before:
            if observer is None:
                delattr(module, OBSERVER)
            else:
                setattr(module, OBSERVER, observer)


def refuse_moving_angles(model: PreTrainedModel, name: str) -> None:
    """Raise `LeverConflict` where a lever turns cached keys with the length: it takes the cache to be complete."""
    hooks = (hook for module in model.modules() for hook in module._forward_pre_hooks.values())
    if any(isinstance(hook, LengthFollower) for hook in hooks):
        raise LeverConflict(
            f"lever '{name}' drops keys that frequencies following the length would have to turn; "
            "use a position lever whose frequencies are fixed"
        )


def turning_of(model: PreTrainedModel) -> Turning:
    """How the model rotates queries now, with the position levers that are on.

    Raises
    ------
    LeverNotApplicable : no rotary positions, or several kinds of them.
    """
    config = text_config(model.config)
    found = [module for _, _, module in rotary_modules(model, config)]
    if len(found) != 1 or find_layer_type(config) is not None:
        raise LeverNotApplicable(f"{type(model).__name__} has no rotary positions that all layers share")
    inv_freq = found[0].inv_freq
    assert isinstance(inv_freq, Tensor)
    return Turning(inv_freq, pairs_interleaved(found[0], 2 * inv_freq.shape[0]))


def attention_modules(model: PreTrainedModel) -> list[nn.Module]:
    """Modules that own a layer of the cache: the innermost ones with a layer index."""
    indexed = [module for module in model.modules() if isinstance(getattr(module, "layer_idx", None), int)]
    return [
        module
        for module in indexed
        if not any(isinstance(getattr(inner, "layer_idx", None), int) for inner in list(module.modules())[1:])
    ]


def eviction_report(model: PreTrainedModel) -> list[EvictionStats]:
    """Per layer: what was seen, stored and dropped. Call it while the lever is on.

    Raises
    ------
    FarspanError : no lever that drops tokens is on.
    """
    found = [watch.stats for module in model.modules() if isinstance(watch := vars(module).get(OBSERVER), Evictor)]
    if not found:
        raise FarspanError("no lever that drops tokens is on; ask for the report inside `with lever(model):`")
    return sorted(found, key=lambda stats: stats.layer)


def _length(args: tuple[object, ...], kwargs: dict[str, object]) -> int:
    hidden = kwargs.get("hidden_states", args[0] if args else None)
    assert isinstance(hidden, Tensor)
    return int(hidden.shape[1])


def _query_heads(module: nn.Module) -> int:
    return int(module.config.num_attention_heads)  # type: ignore[union-attr, arg-type]
