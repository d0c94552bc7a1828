"""Folding the attention factor into the query weights, for servers that read no such key.

cos and sin times a make the rotary part of every logit a^2 times as large; so do query weights times a^2. Only channels
that rotate are touched. The result is compared with the unfolded model before it is trusted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from farspan.errors import LeverNotApplicable
from farspan.positions.apply import applied
from farspan.positions.rope import RopeSpec, text_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@contextmanager
def folded(model: PreTrainedModel, spec: RopeSpec) -> Iterator[RopeSpec]:
    """Scale the query weights by the squared attention factor for the length of a `with` block.

    Yields
    ------
    The spec that goes with the scaled weights: attention factor 1, written as a vector.

    Raises
    ------
    LeverNotApplicable : the layout of the query weights is not known, or the folded model computes something else.
    """
    if spec.attention_factor == 1:
        yield spec
        return
    record = {**spec.params, "folded_attention_factor": spec.attention_factor}
    plain = replace(spec, attention_factor=1.0, native=None, params=record)
    scale = spec.attention_factor**2
    modules = list(_attention_modules(model, text_config(model.config), spec))
    if not modules:
        raise LeverNotApplicable(_refusal(model, "no attention module with query weights was found"))
    with applied(model, spec):
        wanted = _probe(model)
    saved: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        with torch.no_grad():
            for module in modules:
                for parameter, scaled in _scaled(model, module, spec, scale):
                    saved.append((parameter, parameter.detach().clone()))
                    parameter.copy_(scaled)
        with applied(model, plain):
            found = _probe(model)
        tolerance = 1e-4 if wanted.dtype == torch.float32 else 32 * torch.finfo(wanted.dtype).eps
        error, size = float((found - wanted).abs().max()), float(wanted.abs().max())
        if not error <= tolerance * max(1.0, size):
            raise LeverNotApplicable(_refusal(model, f"logits would change by {error:.2g}"))
        yield plain
    finally:
        with torch.no_grad():
            for parameter, original in saved:
                parameter.copy_(original)


def _refusal(model: PreTrainedModel, why: str) -> str:
    return f"the attention factor cannot be folded into the weights of {type(model).__name__} ({why}); export without"


def _probe(model: PreTrainedModel) -> torch.Tensor:
    vocabulary = text_config(model.config).vocab_size
    ids = torch.arange(16, device=model.device)[None] * 7919 % vocabulary
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


def _attention_modules(model: nn.Module, config: PretrainedConfig, spec: RopeSpec) -> Iterator[nn.Module]:
    """Attention modules of the text model whose rotary is the one of `spec`."""
    kinds = getattr(config, "layer_types", None) or []
    for module in model.modules():
        index = getattr(module, "layer_idx", None)
        if getattr(module, "config", None) is not config or not isinstance(index, int):
            continue
        if not any(hasattr(module, name) for name in ("q_proj", "qkv_proj", "query_key_value")):
            continue
        if spec.layer_type is None or kinds[index] == spec.layer_type:
            yield module


def _scaled(
    model: PreTrainedModel, module: nn.Module, spec: RopeSpec, scale: float
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each parameter that makes the queries of one attention module, and its scaled value."""
    heads, dim = text_config(model.config).num_attention_heads, spec.head_dim
    norm = getattr(module, "q_norm", None)
    if any(getattr(module, name, None) is not None for name in ("qk_norm", "q_layernorm", "query_layernorm")):
        raise LeverNotApplicable(_refusal(model, "its queries are normalised in a way not known here"))
    if norm is not None:
        yield from _scaled_norm(model, norm, spec, scale)
        return
    if hasattr(module, "q_proj"):
        source, shape, rows = module.q_proj, (heads, 1, dim), heads * dim
    elif hasattr(module, "qkv_proj"):
        source, shape, rows = module.qkv_proj, (heads, 1, dim), heads * dim
    else:
        source, shape, rows = module.query_key_value, (heads, 3, dim), 3 * heads * dim
    if not isinstance(source, nn.Linear) or source.out_features < rows:
        raise LeverNotApplicable(_refusal(model, "the layout of its query weights is not known"))
    for parameter in (source.weight, source.bias):
        if parameter is None:
            continue
        scaled = parameter.detach().clone()
        scaled[:rows].view(*shape, -1)[:, 0, : spec.rotary_dim] *= scale
        yield parameter, scaled


def _scaled_norm(
    model: PreTrainedModel, norm: nn.Module, spec: RopeSpec, scale: float
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    weight = getattr(norm, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.numel() % spec.head_dim:
        raise LeverNotApplicable(_refusal(model, "its query norm has no weight of its own"))
    # Gemma stores the weight of a norm minus one: with the stored weight at 0 it passes its input, not nothing.
    original = weight.detach().clone()
    with torch.no_grad():
        weight.zero_()
        offset = 1.0 if bool(norm(torch.ones_like(original)).any()) and getattr(norm, "bias", None) is None else 0.0
        weight.copy_(original)
    for parameter, shift in ((weight, offset), (getattr(norm, "bias", None), 0.0)):
        if isinstance(parameter, nn.Parameter):
            scaled = parameter.detach().clone()
            rotary = scaled.view(-1, spec.head_dim)[:, : spec.rotary_dim]
            rotary.copy_((rotary + shift) * scale - shift)
            yield parameter, scaled
