"""Installing a `RopeSpec` in a model: the configuration is written, then every rotary module is built anew from it.

The configuration alone decides the frequencies (they are buffers that no checkpoint stores), so a model changed here
and one loaded from an exported checkpoint are the same. Nothing here knows a method, and no file is written.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import nn
from transformers import PretrainedConfig

from farspan.errors import LeverNotApplicable
from farspan.positions.rope import RopeSpec, get_rope, text_config, to_longrope_factors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Format: TypeAlias = Literal["auto", "native", "longrope"]
FORMATS: tuple[Format, ...] = ("auto", "native", "longrope")

_CONFIG_FIELDS = (
    "rope_parameters",
    "max_position_embeddings",
    "original_max_position_embeddings",
    "head_dim",
    "farspan",
)
_ABSENT = object()


def rope_parameters_of(
    spec: RopeSpec,
    format: Format = "auto",
    vllm_keys: bool = True,
    switch_length: Literal["target", "original"] = "target",
) -> dict[str, object]:
    """The flat `rope_parameters` that make plain transformers compute the vector of `spec`.

    Parameters
    ----------
    spec : what to express
    format : `native` for the method's own type, `longrope` for one divisor a pair, which expresses any vector; `auto`
        takes the native form where servers read it the same way, else `longrope`
    vllm_keys : also write the two keys from which vLLM takes the attention factor of `longrope`
    switch_length : window below which transformers reads `short_factor`. Both lists are equal, so it changes no
        number; `target` avoids work on the long branch, `original` is for tools that derive a scale from it

    Raises
    ------
    LeverNotApplicable : `native` is asked for and the method has no such form.
    """
    native = spec.native
    if format == "auto" and native is not None and native.get("rope_type") == "linear":
        # vLLM multiplies the stored window by the factor of `linear`, and would take the model for longer than it is.
        native = None if spec.stretched else native
    if format != "longrope" and native is not None:
        return {**copy.deepcopy(native), **copy.deepcopy(spec.carried)}
    if format == "native":
        raise LeverNotApplicable(
            f"method '{spec.method}' has no rope_type of its own here; use format longrope or auto"
        )
    factors = to_longrope_factors(spec.inv_freq, spec.rope_theta, spec.rotary_dim)
    parameters: dict[str, object] = {
        **copy.deepcopy(spec.carried),
        "rope_type": "longrope",
        "rope_theta": spec.rope_theta,
        "partial_rotary_factor": spec.partial_rotary_factor,
        "factor": max(1.0, spec.target_length / spec.original_length),
        "attention_factor": float(spec.attention_factor),
        "short_factor": factors,
        "long_factor": list(factors),
        "original_max_position_embeddings": spec.target_length if switch_length == "target" else spec.original_length,
    }
    if spec.partial_rotary_factor == 1.0:
        del parameters["partial_rotary_factor"]
    if vllm_keys:
        parameters |= {"short_mscale": spec.attention_factor, "long_mscale": spec.attention_factor}
    return parameters


def write_config(config: PretrainedConfig, spec: RopeSpec, parameters: dict[str, object]) -> None:
    """Write rotary parameters, window and the record of the stretching into a text configuration."""
    if spec.layer_type is None:
        if "partial_rotary_factor" in config.rope_parameters:
            # Some classes read it without a default.
            parameters = {"partial_rotary_factor": spec.partial_rotary_factor, **parameters}
        config.rope_parameters = parameters
    else:
        config.rope_parameters = {**config.rope_parameters, spec.layer_type: parameters}
    if hasattr(config, "original_max_position_embeddings"):
        # Phi-3 keeps it outside, where it overrides the inner one and drops the cache when a sequence crosses it.
        inner = parameters.get("original_max_position_embeddings", spec.target_length)
        config.original_max_position_embeddings = inner
    config.max_position_embeddings = spec.target_length
    if spec.layer_type is None and getattr(config, "head_dim", _ABSENT) is None:
        # Several of transformers' frequency functions cannot read an empty head_dim.
        config.head_dim = spec.head_dim
    if spec.stretched:
        record = {"original_length": spec.original_length, "method": spec.method, "params": dict(spec.params)}
        config.farspan = record if spec.layer_type is None else {**record, "layer_type": spec.layer_type}


def settle(
    config: PretrainedConfig,
    spec: RopeSpec,
    format: Format = "auto",
    vllm_keys: bool = False,
    switch_length: Literal["target", "original"] = "target",
) -> dict[str, object]:
    """The rotary parameters of `spec` that this configuration class reads as meant, also after save and load.

    Architectures differ in the types they accept and the keys they read, so each form is tried on a copy: it must
    come back from a round trip with the same frequencies. `auto` falls back from the native form to `longrope`.

    Raises
    ------
    LeverNotApplicable : no form allowed by `format` survives.
    """
    if format not in FORMATS:
        raise LeverNotApplicable(f"format '{format}' is not known; choose one of: {', '.join(FORMATS)}")
    reason = ""
    for form in ("auto", "longrope") if format == "auto" else (format,):
        parameters = rope_parameters_of(spec, form, vllm_keys=False, switch_length=switch_length)
        reason = _misread(config, spec, parameters)
        if not reason:
            return rope_parameters_of(spec, form, vllm_keys=vllm_keys, switch_length=switch_length)
    hint = "; use format longrope or auto" if format == "native" else ""
    raise LeverNotApplicable(f"'{config.model_type}' cannot express method '{spec.method}' ({reason}){hint}")


def _misread(config: PretrainedConfig, spec: RopeSpec, parameters: dict[str, object]) -> str:
    """Why a configuration of this class does not come back with the frequencies of `spec`; empty if it does."""
    trial = copy.deepcopy(config)
    write_config(trial, spec, copy.deepcopy(parameters))
    try:
        loaded = type(config).from_dict(trial.to_dict())
        loaded.validate_rope()
        found = get_rope(loaded, spec.layer_type)
        truncate = loaded.rope_parameters.get("truncate", True)
    except Exception as error:
        # Each class brings its own checks and exception types; whatever it raises means that it refuses this form.
        return " ".join(str(error).split()).partition(". ")[0] or type(error).__name__
    native = found.native or {}
    if native.get("rope_type") == "yarn" and native.get("truncate", True) != truncate:
        # transformers looks for `truncate` beside the layer types, so a nested value is not read.
        return "its layer-typed yarn does not read truncate"
    return _difference(found.inv_freq, found.attention_factor, spec)


def _difference(inv_freq: torch.Tensor, attention_factor: float, spec: RopeSpec) -> str:
    wanted = spec.inv_freq
    if inv_freq.shape != wanted.shape:
        return f"it rotates {inv_freq.shape[0]} pairs, not {wanted.shape[0]}"
    # A pair at rest comes back as 1e-30 rather than 0, and a float32 vector carries a relative error of 1e-7.
    if not torch.allclose(inv_freq.double(), wanted, rtol=1e-5, atol=1e-20):
        return "it computes other frequencies"
    if abs(attention_factor - spec.attention_factor) > 1e-5 * spec.attention_factor:
        return "it computes another attention factor"
    return ""


def rotary_modules(model: nn.Module, config: PretrainedConfig) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """The rotary modules of the language model, as (parent, name in the parent, module)."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            own = getattr(module, "config", None)
            if (
                hasattr(module, "rope_type")
                and any(buffer.endswith("inv_freq") for buffer, _ in module.named_buffers(recurse=False))
                and (own is config or getattr(own, "model_type", None) == config.model_type)
            ):
                yield parent, name, module


def inv_freq_name(layer_type: str | None) -> str:
    """Name of the buffer in which a rotary module keeps the frequencies of a layer type."""
    return "inv_freq" if layer_type is None else f"{layer_type}_inv_freq"


def apply_rope(model: PreTrainedModel, spec: RopeSpec, format: Format = "auto") -> PreTrainedModel:
    """Give a model the rotary positions of `spec`, in place and for good; `applied` is the reversible form.

    Raises
    ------
    LeverNotApplicable : the architecture cannot express the vector, or its rotary modules do not take their
        frequencies from the configuration. The model may be half changed then; `applied` restores it.
    """
    config = text_config(model.config)
    write_config(config, spec, settle(config, spec, format))
    count = 0
    for parent, name, module in rotary_modules(model, config):
        device = next(module.buffers()).device
        fresh = type(module)(config=config).to(device).train(module.training)
        _check_installed(fresh, spec)
        setattr(parent, name, fresh)
        count += 1
    if not count:
        raise LeverNotApplicable(f"no rotary module with frequencies of its own found in {type(model).__name__}")
    return model


def _check_installed(module: nn.Module, spec: RopeSpec) -> None:
    prefix = "" if spec.layer_type is None else f"{spec.layer_type}_"
    inv_freq = getattr(module, inv_freq_name(spec.layer_type), None)
    attention_factor = getattr(module, f"{prefix}attention_scaling", None)
    if not isinstance(inv_freq, torch.Tensor) or not isinstance(attention_factor, int | float):
        raise LeverNotApplicable(f"{type(module).__name__} does not keep its frequencies where transformers' others do")
    if inv_freq.device.type == "meta":
        return
    problem = _difference(inv_freq.cpu(), float(attention_factor), spec)
    if problem:
        raise LeverNotApplicable(f"{type(module).__name__} does not follow rope_parameters: {problem}")


@contextmanager
def kept_positions(model: PreTrainedModel) -> Iterator[None]:
    """Restore configuration fields and rotary modules on exit to the very objects that were there, whatever happens."""
    config = text_config(model.config)
    names = [config.attribute_map.get(name, name) for name in _CONFIG_FIELDS]
    fields = {name: config.__dict__.get(name, _ABSENT) for name in names}
    modules = list(rotary_modules(model, config))
    try:
        yield
    finally:
        for name, value in fields.items():
            if value is _ABSENT:
                config.__dict__.pop(name, None)
            else:
                config.__dict__[name] = value
        for parent, name, module in modules:
            setattr(parent, name, module)


@contextmanager
def applied(model: PreTrainedModel, spec: RopeSpec, format: Format = "auto") -> Iterator[PreTrainedModel]:
    """`apply_rope` for the length of a `with` block; the model is afterwards as it was, also after an exception."""
    with kept_positions(model):
        yield apply_rope(model, spec, format)
