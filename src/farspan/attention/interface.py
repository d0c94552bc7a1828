"""The way into any transformers decoder: one attention function and one mask function, registered by name.

transformers calls the function of `config._attn_implementation` in every layer. It decides whether this call can be
sparse, cuts off padding, asks the lever for a selection, and runs an executor; whatever it cannot do faithfully it
hands to dense attention, counted with the reason. It knows no method and no model class.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from farspan.attention.executors import BackendRefused, ExecutorFailed, execute
from farspan.attention.executors.dense import explicit_attention
from farspan.attention.grouped import grouped_attention
from farspan.attention.masks import PaddingMask, attention_mask
from farspan.attention.selection import AttentionContext, Selection, stored
from farspan.attention.state import ATTRIBUTE, OBSERVER, LayerState, LayerStats, SharedState
from farspan.errors import FarspanError
from farspan.recipe import build_lever, lever_table

if TYPE_CHECKING:
    from farspan.attention.lever import AttentionLever

# what config.json keeps of a lever, so that a saved checkpoint says how it was meant to be read
CONFIG_KEY = "farspan_attention"
LAYER_KEPT_DENSE = "layer kept dense"
BELOW_BREAK_EVEN = "below break-even length"

_methods: dict[str, type[AttentionLever]] = {}


class AttentionFallback(FarspanError):
    """A strict lever met a call that it cannot serve sparsely."""


class UnknownMethod(FarspanError):
    """An attention method that no lever registers."""


def register(method: type[AttentionLever]) -> None:
    """Make a lever class available as an `attn_implementation`, with its mask function; happens on definition."""
    name = f"farspan_{method.name.replace('-', '_')}"
    _methods[name] = method
    AttentionInterface.register(name, attention_forward)
    AttentionMaskInterface.register(name, attention_mask)


def methods() -> list[str]:
    """Names of the registered attention methods."""
    return sorted(method.name for method in _methods.values())


def method_class(name: str) -> type[AttentionLever]:
    """The lever class of a method; `UnknownMethod` lists the registered ones."""
    for method in _methods.values():
        if method.name == name:
            return method
    raise UnknownMethod(f"unknown attention method '{name}'; known: {', '.join(methods())}")


def build(method: type[AttentionLever], settings: dict[str, object]) -> AttentionLever:
    """A lever of this class; wrong settings give the one line of `build_lever` for methods of the table."""
    if method.name not in lever_table():
        return method.model_validate(settings)
    lever = build_lever(method.name, settings)
    assert isinstance(lever, method)
    return lever


@torch.compiler.disable  # type: ignore[untyped-decorator]
def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, Tensor | None]:
    """Attention as transformers calls it.

    query [B, Hq, Lq, D], key and value [B, Hkv, Lkv, D] -> (output [B, Lq, Hq, D], weights or None)
    """
    state = _state(module)
    if (observer := vars(module).get(OBSERVER)) is not None:
        observer(query)
    lever, stats, batch = state.shared.lever, state.stats, len(query)
    if not _is_causal(module, kwargs):
        # an encoder or cross attention: nothing here is meant for it, so it gets what transformers would give it
        stats.fallbacks["not causal"] += batch
        return _passed_on(module, query, key, value, attention_mask, dropout, scaling, kwargs)
    flat = attention_mask is None or attention_mask.ndim == 2
    padding = state.shared.padding(attention_mask if flat else None)
    mask = None if flat else attention_mask
    if query.shape[2] == 1 and lever.stage == "prefill" and stats.layer not in lever.dense_layers:
        stats.decode += batch
        return _dense(module, query, key, value, mask, padding, dropout, scaling, kwargs)
    reason = _obstacle(state, query, key, mask, padding, dropout, kwargs)
    if reason is not None:
        _fall_back(state, reason, batch)
        return _dense(module, query, key, value, mask, padding, dropout, scaling, kwargs)
    return _by_rows(module, state, query, key, value, padding, scaling, kwargs), None


def _fall_back(state: LayerState, reason: str, rows: int) -> None:
    lever = state.shared.lever
    if lever.strict and reason != LAYER_KEPT_DENSE:
        raise AttentionFallback(f"lever '{lever.name}', layer {state.stats.layer}: dense attention needed ({reason})")
    state.stats.fallbacks[reason] += rows


def _state(module: nn.Module) -> LayerState:
    """The state on the module; made on the first call where a model was loaded with `attn_implementation`."""
    state = vars(module).get(ATTRIBUTE)
    if isinstance(state, LayerState):
        return state
    config = module.config
    method = _methods[config._attn_implementation]  # type: ignore[union-attr, index]
    saved = getattr(config, CONFIG_KEY, None)
    settings = dict(saved) if isinstance(saved, dict) and saved.get("lever") == method.name else {}
    settings.pop("lever", None)
    lever = build(method, settings)
    state = LayerState(SharedState(lever), LayerStats(_layer_index(module), lever.name))
    setattr(module, ATTRIBUTE, state)
    return state


def _layer_index(module: nn.Module) -> int:
    index = getattr(module, "layer_idx", None)
    return index if isinstance(index, int) else -1


def _is_causal(module: nn.Module, kwargs: dict[str, object]) -> bool:
    flag = kwargs.get("is_causal")
    return bool(getattr(module, "is_causal", True) if flag is None else flag)


def _obstacle(
    state: LayerState,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    padding: PaddingMask,
    dropout: float,
    kwargs: dict[str, object],
) -> str | None:
    """Why this call cannot be sparse, or None."""
    shared, queries, keys = state.shared, query.shape[2], key.shape[2]
    window = kwargs.get("sliding_window")
    if state.stats.layer in shared.lever.dense_layers:
        return LAYER_KEPT_DENSE
    if mask is not None:
        return "sliding window" if window is not None else "mask"
    if window is not None and isinstance(window, int) and keys > window:
        return "sliding window"
    if kwargs.get("softcap") is not None:
        return "softcap"
    if kwargs.get("position_bias") is not None:
        return "position bias"
    if kwargs.get("cache") is not None:
        return "paged cache"
    if kwargs.get("output_attentions"):
        return "output_attentions"
    if dropout > 0.0:
        return "dropout"
    if keys < queries:
        return "cross attention"
    if padding.spans is None:
        return "padding with holes"
    if shared.too_short(keys, query):
        return BELOW_BREAK_EVEN
    block = getattr(shared.lever, "block_size", 1)
    if shared.lever.min_length is None and 1 < queries < block:
        return "few queries"
    return None


def _by_rows(
    module: nn.Module,
    state: LayerState,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding: PaddingMask,
    scaling: float | None,
    kwargs: dict[str, object],
) -> Tensor:
    """Attention [B, Lq, Hq, Dv], every batch row by itself and without its padding.

    So a row selects, and falls back, as it would alone: what it is batched with cannot change its result.
    """
    queries, keys = query.shape[2], key.shape[2]
    offset, factor = keys - queries, query.shape[-1] ** -0.5 if scaling is None else scaling
    results = []
    for row, (start, stop) in enumerate(padding.spans or [(0, keys)] * len(query)):
        # the tokens of this row among the queries; none in a chunk that is all padding
        first, last = max(start - offset, 0), max(stop - offset, 0)
        if first >= last:
            results.append(query.new_zeros(1, queries, query.shape[1], value.shape[-1]))
            continue
        some = query[row : row + 1, :, first:last]
        some_keys, some_values = (x[row : row + 1, :, start:stop] for x in (key, value))
        result = _sparse(module, state, some, some_keys, some_values, factor, kwargs, (row, start, stop))
        if isinstance(result, str):
            _fall_back(state, result, 1)
            result, _ = _dense(module, some, some_keys, some_values, None, PaddingMask(None), 0.0, factor, kwargs)
        else:
            result = result.transpose(1, 2)
        results.append(torch.nn.functional.pad(result, (0, 0, 0, 0, first, queries - last)))
    return torch.cat(results).contiguous()


def _sparse(
    module: nn.Module,
    state: LayerState,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    kwargs: dict[str, object],
    cut: tuple[int, int, int],
) -> Tensor | str:
    """Sparse attention [1, Hq, Lq, Dv] of one row, or the reason why it should be dense.

    cut : row of the batch, its first key and the one after its last
    """
    shared, queries, keys = state.shared, query.shape[2], key.shape[2]
    lever, sinks = shared.lever, kwargs.get("s_aux")
    if shared.too_short(keys, query):
        return BELOW_BREAK_EVEN
    config = getattr(module, "config", None)
    context = AttentionContext(
        layer_idx=state.stats.layer,
        scaling=scaling,
        q_offset=keys - queries,
        stage="prefill" if queries == keys else "decode" if queries == 1 else "chunk",
        module=module,
        config=config if isinstance(config, PretrainedConfig) else PretrainedConfig(),
        arguments=kwargs,
        row=cut[0],
        start=cut[1],
        stop=cut[2],
    )
    began = time.perf_counter()
    attended = lever.attend(query, key, value, context)
    if isinstance(attended, str):
        return attended
    if attended is not None:
        state.count_cells(
            attended.kept, attended.causal, context, attended.backend, query, key, (0.0, time.perf_counter() - began)
        )
        return _with_sinks(attended.output, attended.lse, sinks)
    with torch.no_grad():
        selection = lever.select(query, key, context)
    if selection is None:
        return "method reads everything"
    chosen = time.perf_counter() - began
    if lever.backend == "auto" and lever.min_length is None:
        most = shared.worthwhile_density(query.device, query.dtype)
        if selection.plan.density() > most:
            return "too little to skip"
    began = time.perf_counter()
    output, backend = _execute(state, selection, query, key, value, scaling, sinks)
    state.count(selection, context, backend, query, key, (chosen, time.perf_counter() - began))
    return output


def _execute(
    state: LayerState,
    selection: Selection,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    sinks: object,
) -> tuple[Tensor, str]:
    if selection.order is not None:
        key, value = stored(key, selection.order), stored(value, selection.order)
    need_lse, shared = isinstance(sinks, Tensor), state.shared
    arguments = (query, key, value, selection.plan, scaling)
    try:
        output, lse, backend = execute(*arguments, shared.lever.backend, need_lse, shared.chooser)
    except (BackendRefused, ExecutorFailed) as refusal:
        if shared.lever.strict:
            raise
        state.stats.refusals[str(refusal)] += 1
        output, lse, backend = execute(*arguments, "auto", need_lse, shared.chooser)
    state.stats.refusals.update(shared.chooser.take_failures())
    return _with_sinks(output, lse, sinks), backend


def _with_sinks(output: Tensor, lse: Tensor | None, sinks: object) -> Tensor:
    if not isinstance(sinks, Tensor):
        return output
    assert lse is not None
    # a sink is one more key without a value: it only takes its share of the softmax
    share = torch.sigmoid(lse - sinks.view(1, -1, 1).to(lse.dtype))
    return output * share[..., None].to(output.dtype)


def _dense(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    padding: PaddingMask,
    dropout: float,
    scaling: float | None,
    kwargs: dict[str, object],
) -> tuple[Tensor, Tensor | None]:
    """Dense attention with whatever the model asks for, equal to what transformers computes without Farspan."""
    queries, keys = query.shape[2], key.shape[2]
    if mask is None:
        mask = padding.full(queries, keys, query.device)
    softcap, sinks = kwargs.get("softcap"), kwargs.get("s_aux")
    wants_weights = bool(kwargs.get("output_attentions"))
    if softcap is None and sinks is None and not wants_weights:
        if queries == 1 and _packs(query, key, value, mask, dropout, kwargs):
            rows = None if mask is None else mask[:, 0].expand(len(query), -1, -1)
            packed, _ = grouped_attention(query, key, value, scaling=scaling, mask=rows)
            return packed.transpose(1, 2).contiguous(), None
        return _passed_on(module, query, key, value, mask, dropout, scaling, kwargs)
    if mask is None and queries > 1:
        mask = torch.arange(keys, device=query.device) <= torch.arange(queries, device=query.device)[:, None]
    output, weights = explicit_attention(
        query,
        key,
        value,
        mask,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap=float(softcap) if isinstance(softcap, (int, float)) else None,
        sinks=sinks if isinstance(sinks, Tensor) else None,
        dropout=dropout,
        return_weights=wants_weights,
    )
    return output.transpose(1, 2).contiguous(), weights


def _packs(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, kwargs: dict[str, object]
) -> bool:
    """Whether one new token can be read with the heads of each group packed as rows, which fetches keys once."""
    if query.device.type != "cpu" or query.shape[1] == key.shape[1] or dropout > 0.0:
        return False
    if kwargs.get("position_bias") is not None or kwargs.get("cache") is not None:
        return False
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)):
        return False
    return mask is None or (mask.dtype == torch.bool and mask.ndim == 4 and mask.shape[1] == 1)


def _passed_on(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scaling: float | None,
    kwargs: dict[str, object],
) -> tuple[Tensor, Tensor | None]:
    stock: Callable[..., tuple[Tensor, Tensor | None]] = sdpa_attention_forward
    return stock(module, query, key, value, mask, dropout=dropout, scaling=scaling, **kwargs)
