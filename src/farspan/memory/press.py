"""kvpress in both directions: a press in a recipe, and a lever of this room as a press.

A press is a context manager factory that hooks attention modules and shortens the cache once a prompt has been read. It
finds out by `cache_position` that a prompt is being read, which transformers no longer passes, and trusts that the
position of the next token does not follow from the cache's length, which it now does. `KVPressAdapter` supplies both
and takes away what a press leaves on a model. Nothing here scores tokens, and kvpress is not imported before a lever is
turned into a press: importing it changes attention functions for the whole process.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from farspan.errors import FarspanError, LeverNotApplicable
from farspan.memory.eviction import Stored, Turning, attention_modules, refuse_moving_angles
from farspan.memory.lever import BudgetedEviction, EvictionLever
from farspan.memory.pruned_layer import PrunedLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Press(Protocol):
    """What kvpress calls a press: called with a model, it gives a context manager that hooks attention modules."""

    def __call__(self, model: PreTrainedModel) -> AbstractContextManager[object]: ...


class KVPressAdapter:
    """A press of kvpress for the installed transformers; it takes the press's place in a recipe.

    What the press keeps stays at its true position, and later tokens follow the prompt's end. A press knows no padding:
    prompts of different lengths must come one at a time.

    Parameters
    ----------
    press : an object of one of kvpress's classes, or of another that keeps to their protocol

    Raises
    ------
    LeverNotApplicable : the cache has layers from which nothing can be taken.
    FarspanError : a prompt with padding.
    """

    def __init__(self, press: Press) -> None:
        self.press = press

    @property
    def name(self) -> str:
        """The press's class."""
        return type(self.press).__name__

    def __call__(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        return self._switch_on(model)

    def __str__(self) -> str:
        return str(self.press)

    @contextmanager
    def _switch_on(self, model: PreTrainedModel) -> Iterator[None]:
        refuse_moving_angles(model, self.name)
        modules = attention_modules(model)
        if not modules:
            raise LeverNotApplicable(f"press {self.name}: no attention found in {type(model).__name__}")
        found = [(module, set(vars(module)), set(module._modules)) for module in modules]
        with ExitStack() as stack:
            stack.callback(_take_away, found)
            watches = [_Watch(self.name, int(module.layer_idx)) for module in modules]  # type: ignore[arg-type]
            for module, watch in zip(modules, watches, strict=True):
                stack.callback(module.register_forward_pre_hook(watch.before, with_kwargs=True).remove)
            stack.enter_context(self.press(model))
            # hooks run in the order in which they came: these see what the press has left
            for module, watch in zip(modules, watches, strict=True):
                stack.callback(module.register_forward_hook(watch.after, with_kwargs=True).remove)
            yield


class _Watch:
    """Stands around a press's hook on one attention module."""

    def __init__(self, name: str, index: int) -> None:
        self._name = name
        self._index = index

    def before(
        self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]] | None:
        """Pass what the press looks for, and cut the mask to what is stored."""
        cache = kwargs.get("past_key_values")
        if not isinstance(cache, Cache):
            return None
        hidden = kwargs.get("hidden_states", args[0] if args else None)
        assert isinstance(hidden, Tensor)
        layer = self._layer(cache)
        new, mask = hidden.shape[1], kwargs.get("attention_mask")
        seen, stored = layer.seen, layer.stored
        if isinstance(mask, Tensor):
            if seen == 0 and _hides(mask):
                raise FarspanError(
                    f"press {self._name} knows no padding; give prompts of different lengths one at a time, "
                    "or take one of Farspan's own levers"
                )
            if layer.slots is not None:
                mask = torch.cat([mask[..., :stored], mask[..., seen : seen + new]], dim=-1)
        positions = torch.arange(seen, seen + new, device=hidden.device)
        given = {**kwargs, "hidden_states": hidden, "attention_mask": mask, "cache_position": positions}
        return args[1:] if "hidden_states" not in kwargs else args, given

    def after(self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
        """Note how much the press has left."""
        cache = kwargs.get("past_key_values")
        if not isinstance(cache, Cache):
            return
        layer = self._layer(cache)
        places = layer.seen if layer.slots is None else layer.slots.shape[-1]
        if layer.stored != places:
            assert layer.keys is not None
            # which tokens are left is the press's secret; without padding all of them may be read by what follows
            left = torch.arange(layer.stored, device=layer.keys.device)
            layer.slots = left.expand(layer.keys.shape[0], 1, -1)

    def _layer(self, cache: Cache) -> PrunedLayer:
        while len(cache.layers) <= self._index and cache.layer_class_to_replicate is not None:
            cache.layers.append(cache.layer_class_to_replicate())
        layer = cache.layers[self._index]
        if type(layer) is DynamicLayer:
            layer = cache.layers[self._index] = PrunedLayer.adopt(layer)
        if not isinstance(layer, PrunedLayer):
            raise LeverNotApplicable(
                f"press {self._name} drops tokens from transformers' DynamicCache; layer {self._index} keeps them in a "
                f"{type(layer).__name__}"
            )
        return layer


def _hides(mask: Tensor) -> bool:
    """Whether a prompt's last token may not read everything.

    mask : Tensor [B, length], 0 on padding; or [B, 1, new, length], boolean or added to scores
    """
    last = mask if mask.ndim == 2 else mask[:, :, -1]
    return bool((last != 0).any()) if last.is_floating_point() and mask.ndim == 4 else not bool((last != 0).all())


def _take_away(found: list[tuple[nn.Module, set[str], set[str]]]) -> None:
    """Remove what was put on modules since."""
    for module, attributes, children in found:
        for name in [name for name in module._modules if name not in children]:
            delattr(module, name)
        for name in [name for name in vars(module) if name not in attributes]:
            delattr(module, name)


class _Scored:
    """The part of a press that scores by a lever; `to_press` joins it to kvpress's `ScorerPress`."""

    lever: EvictionLever
    queries_of: Callable[[nn.Module, Tensor], Tensor]

    def score(
        self,
        module: nn.Module,
        hidden_states: Tensor,
        keys: Tensor,
        values: Tensor,
        attentions: Tensor | None,
        kwargs: Mapping[str, object],
    ) -> Tensor:
        """What each key is worth: Tensor [B, Hkv, S]; finite, the best and the worst too."""
        batch, heads, length, dim = keys.shape
        queries, asked = None, min(self.lever.asked, hidden_states.shape[1])
        if asked:
            cos, sin = cast("tuple[Tensor, Tensor]", kwargs["position_embeddings"])
            queries = _rotated(self.queries_of(module, hidden_states[:, -asked:]), cos[:, -asked:], sin[:, -asked:])
        turning = Turning(module.rotary_emb.inv_freq, False) if self.lever.turns else None  # type: ignore[union-attr, arg-type]
        scaling = getattr(module, "scaling", None)
        stored = Stored(
            keys=keys,
            values=values,
            valid=torch.ones(batch, 1, length, dtype=torch.bool, device=keys.device),
            queries=queries,
            scaling=float(scaling) if isinstance(scaling, float) else dim**-0.5,
            layer=int(module.layer_idx),  # type: ignore[arg-type]
            layers=int(module.config.num_hidden_layers),  # type: ignore[union-attr, arg-type]
            tokens=torch.full((batch, 1), length, device=keys.device),
            turning=turning,
        )
        scores = self.lever.score(stored).float().expand(batch, heads, length)
        finite = scores[scores.isfinite()]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
        # wrappers add and average scores
        return scores.nan_to_num(nan=low - 1.0, posinf=high + 1.0, neginf=low - 1.0)


def _rotated(query: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries [B, Hq, n, D] turned by angles [B, n, R], R channels of halves that belong together."""
    turned, rest = query[..., : cos.shape[-1]], query[..., cos.shape[-1] :]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]
    return torch.cat([turned, rest], dim=-1)


def to_press(lever: EvictionLever, compression_ratio: float | None = None) -> Press:
    """A lever that drops tokens as a `ScorerPress` of kvpress: for its wrappers, its pipeline and its evaluation.

    Models are those that kvpress knows how to take queries from. When and how much is dropped is kvpress's business:
    `chunks`, `interval` and `capacity` of the lever say nothing there.

    Parameters
    ----------
    lever : whose scores the press takes
    compression_ratio : share of the tokens dropped; the lever's own `ratio` where left out

    Raises
    ------
    FarspanError : kvpress is not installed, no ratio follows from the lever, or it gives layers or heads budgets of
        their own, for which kvpress has wrappers.
    """
    if isinstance(lever, BudgetedEviction):
        if lever.safeguard is not None or getattr(lever, "beta", None) is not None:
            raise FarspanError(
                f"lever '{lever}' gives heads or layers budgets of their own; leave that to kvpress's AdaKVPress or "
                "PyramidKVPress"
            )
        if compression_ratio is None and lever.capacity is None:
            compression_ratio = lever.ratio
    if compression_ratio is None:
        raise FarspanError(f"lever '{lever}' keeps a number of tokens, a press a share; give compression_ratio")
    if not 0.0 <= compression_ratio < 1.0:
        raise FarspanError(f"compression_ratio must be at least 0 and below 1, given {compression_ratio}")
    try:
        base = importlib.import_module("kvpress").ScorerPress
        queries = importlib.import_module("kvpress.utils").get_prerope_query_states
    except ImportError as error:
        raise FarspanError(
            f"a lever becomes a press with kvpress alone ({error}); as it pins an older transformers: "
            "pip install --no-deps kvpress cachetools fire"
        ) from error
    attributes = {"lever": lever, "queries_of": staticmethod(queries), "__doc__": str(lever)}
    kind = type("FarspanPress", (_Scored, base), attributes)
    return cast("Press", kind(compression_ratio=compression_ratio))
