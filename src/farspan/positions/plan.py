"""From a method's name and a target length to a `RopeSpec`. The methods themselves are levers, found by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farspan.errors import LeverNotApplicable, UnknownLever
from farspan.positions.lever import PositionLever, refuse_stretched
from farspan.positions.rope import RopeSpec, get_rope
from farspan.recipe import LEVERS, build_lever, lever_class, lever_table

if TYPE_CHECKING:
    from transformers import PretrainedConfig

SHORT_NAMES = {"truncated": "truncated-basis", "power": "power-basis", "dynamic": "dynamic-ntk"}


def methods() -> list[str]:
    """Names of the methods of this room that stretch a window by a factor."""
    mine = [name for name, path in lever_table().items() if path.startswith("farspan.positions.")]
    return [name for name in mine if issubclass(lever_class(name), PositionLever)]


def _is_method(name: str) -> bool:
    if name in LEVERS or name not in lever_table():
        return name in methods()
    return issubclass(lever_class(name), PositionLever)


def lever_for(
    config: PretrainedConfig,
    method: str,
    target_length: int,
    *,
    layer_type: str | None = None,
    compose: bool = False,
    **params: object,
) -> PositionLever:
    """The lever of a method that stretches a model to `target_length` tokens.

    Raises
    ------
    UnknownLever : no position method has this name.
    RecipeError : a setting the method does not have, or out of range.
    LeverNotApplicable : the target is not above the present window, or the model has no rotary positions.
    """
    name = SHORT_NAMES.get(method, method)
    if not _is_method(name):
        raise UnknownLever(f"'{method}' does not stretch positions; choose one of: {', '.join(methods())}")
    rope = get_rope(config, layer_type)
    if not compose:
        refuse_stretched(rope)
    if target_length <= rope.target_length:
        raise LeverNotApplicable(
            f"target length {target_length} is not above the model's window of {rope.target_length} tokens; "
            "choose a longer one"
        )
    common: dict[str, object] = {"layer_type": layer_type, "compose": compose}
    lever = build_lever(name, {"factor": target_length / rope.target_length, **common, **params})
    assert isinstance(lever, PositionLever)
    return lever


def plan_rope(
    config: PretrainedConfig,
    method: str,
    target_length: int,
    layer_type: str | None = None,
    *,
    compose: bool = False,
    **params: object,
) -> RopeSpec:
    """Plan how a model of this configuration is stretched; nothing is changed.

    Parameters
    ----------
    config : of the model
    method : name of a position lever, such as `yarn` or `truncated-basis` (`truncated`, `power`, `dynamic` for short)
    target_length : tokens, above the present window
    layer_type : entry of a layer-typed configuration; by default the layers that see the whole context
    compose : allow a model that is stretched already
    params : settings of the method

    Raises
    ------
    UnknownLever, RecipeError, LeverNotApplicable : see `lever_for`.
    """
    return lever_for(config, method, target_length, layer_type=layer_type, compose=compose, **params).plan(config)
