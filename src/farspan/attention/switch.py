"""Switching an attention lever on and off, and nothing else: no attention is computed here.

On: the text model's configuration names the method, and every attention module carries a state. Off: both are put
back exactly, whatever was there before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from farspan.attention.interface import CONFIG_KEY, build, method_class
from farspan.attention.state import ATTRIBUTE, LayerState, LayerStats, SharedState
from farspan.errors import FarspanError, LeverNotApplicable

if TYPE_CHECKING:
    from farspan.attention.lever import AttentionLever

_APPLIED = "_farspan_attention_switch"
_ABSENT = object()


class Switch:
    """One lever on one model; `on` and `off` once each."""

    def __init__(self, model: PreTrainedModel, lever: AttentionLever) -> None:
        self._model = model
        self._lever = lever
        self._configs: list[tuple[PretrainedConfig, str | None, object]] = []
        self._states: list[tuple[nn.Module, object]] = []
        self._prepared = ExitStack()

    def on(self) -> None:
        """Switch on; nothing has changed if it raises.

        Raises
        ------
        LeverNotApplicable : the model does not call attention through transformers' interface, or is not the one that
            the method was prepared for.
        """
        name = type(self._model).__name__
        if not self._model._can_set_attn_implementation():
            raise LeverNotApplicable(
                f"lever '{self._lever.name}' needs a model whose attention goes through transformers' interface; "
                f"{name} brings its own"
            )
        self._prepared.enter_context(self._lever.prepared(self._model))
        layers = [module for module in self._model.modules() if isinstance(getattr(module, "layer_idx", None), int)]
        shared = SharedState(self._lever)
        settings = {"lever": self._lever.name, **self._lever.model_dump(mode="json", exclude_defaults=True)}
        for config in self._text_configs(layers):
            before = config._attn_implementation_internal
            self._configs.append((config, before, getattr(config, CONFIG_KEY, _ABSENT)))
            config._attn_implementation_internal = self._lever.implementation
            setattr(config, CONFIG_KEY, settings)
        for module in layers:
            self._states.append((module, vars(module).get(ATTRIBUTE, _ABSENT)))
            setattr(module, ATTRIBUTE, LayerState(shared, LayerStats(module.layer_idx, self._lever.name)))  # type: ignore[arg-type]

    def off(self) -> None:
        """Put everything back as `on` found it."""
        known = {id(module) for module, _ in self._states}
        for module in self._model.modules():
            # attention without a layer index got its state on its first call
            if ATTRIBUTE in vars(module) and id(module) not in known:
                delattr(module, ATTRIBUTE)
        for module, state in reversed(self._states):
            _restore(module, ATTRIBUTE, state)
        for config, implementation, settings in reversed(self._configs):
            config._attn_implementation_internal = implementation
            _restore(config, CONFIG_KEY, settings)
        self._states.clear()
        self._configs.clear()
        self._prepared.close()

    def _text_configs(self, layers: Iterable[nn.Module]) -> list[PretrainedConfig]:
        """The decoder's configuration, and the copies of it that some models give to their modules."""
        text = self._model.config.get_text_config(decoder=True)
        found = {id(text): text}
        for module in layers:
            config = getattr(module, "config", None)
            if isinstance(config, type(text)):
                found[id(config)] = config
        return list(found.values())


def _restore(owner: object, name: str, value: object) -> None:
    if value is _ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, value)


def apply_attention(
    model: PreTrainedModel,
    method: str | AttentionLever,
    *,
    layers: Mapping[int, str] | None = None,
    **settings: object,
) -> None:
    """Switch an attention method on for good; `remove_attention` switches it off. For a while, use the lever itself.

    Parameters
    ----------
    method : name of a method (`pbs`), or a lever
    layers : `{index: "dense"}` for layers that stay dense
    settings : the lever's settings

    Raises
    ------
    UnknownMethod : no such method. RecipeError : wrong settings. LeverNotApplicable : not on this model.
    """
    if layers and (other := sorted(set(layers.values()) - {"dense"})):
        raise FarspanError(f"layers takes 'dense' only, given '{other[0]}'; one method serves all other layers")
    if layers:
        settings["dense_layers"] = tuple(layers)
    if isinstance(method, str):
        lever = build(method_class(method), settings)
    else:
        lever = build(type(method), {**method.model_dump(mode="json"), **settings})
    lever.check(model.config)
    remove_attention(model)
    switch = Switch(model, lever)
    switch.on()
    setattr(model, _APPLIED, switch)


def remove_attention(model: PreTrainedModel) -> None:
    """Undo `apply_attention`; a model without it is left alone."""
    switch = vars(model).pop(_APPLIED, None)
    if isinstance(switch, Switch):
        switch.off()
