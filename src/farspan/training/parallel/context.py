"""Any transformers decoder over a sequence in shards: the model's own forward, given whole inputs, computes its part.

While it is on, inputs are cut as the layout says, attention goes through `distributed_attention`, and the loss is that
of the whole sequence. Labels are shifted before they are cut: neighbours in a shard are no neighbours in the text.
Logits stay in shards. Gradients of parameters are parts of a sum, which `all_reduce_gradients` completes.

Source: arXiv 2302.06218, abstract; labels and positions as in common context parallelism.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.utils.generic import ModelOutput

from farspan.errors import LeverNotApplicable
from farspan.training.parallel.attention import distributed_attention
from farspan.training.parallel.communicator import Communicator, Group, communicator
from farspan.training.parallel.layouts import Layout, ParallelError, layout_indices, padded_length, shard_sequence
from farspan.training.parallel.plan import Strategy

IMPLEMENTATION = "farspan_distributed"
ATTRIBUTE = "_farspan_context_parallel"
IGNORED = -100
# arguments of a forward that hold one entry a token
BY_TOKEN = ("input_ids", "inputs_embeds", "position_ids", "labels", "attention_mask")


@dataclass
class Shards:
    """What attention must know about the present forward."""

    ranks: Communicator
    strategy: Strategy
    layout: Layout
    kv_lengths: Tensor | None = None
    tokens: int = 0


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it; query [batch, heads, shard, dim] -> [batch, shard, heads, dim]"""
    shards = getattr(module, ATTRIBUTE, None)
    if not isinstance(shards, Shards):
        raise ParallelError(f"'{IMPLEMENTATION}' works inside `with context_parallel(model):` only")
    refused = [name for name in ("sliding_window", "softcap", "s_aux") if kwargs.get(name) is not None]
    if refused or dropout:
        raise ParallelError(
            f"distributed attention has no {', '.join(refused) or 'dropout'}; the model must not use it"
        )
    output = distributed_attention(
        query,
        key,
        value,
        group=shards.ranks,
        strategy=shards.strategy,
        layout=shards.layout,
        causal=bool(getattr(module, "is_causal", True)),
        scaling=scaling,
        kv_lengths=shards.kv_lengths,
    )
    return cast(Tensor, output).transpose(1, 2).contiguous(), None


def no_mask(*args: object, **kwargs: object) -> None:
    """Masks follow from positions, which the layout gives."""


AttentionInterface.register(IMPLEMENTATION, attention_forward)
AttentionMaskInterface.register(IMPLEMENTATION, no_mask)


@contextmanager
def context_parallel(
    model: PreTrainedModel, group: Group = None, strategy: Strategy = "auto", layout: Layout = "zigzag"
) -> Iterator[None]:
    """Within it, every forward of the model takes whole sequences, alike on all ranks, and computes this rank's shard.

    Give `input_ids` (or `inputs_embeds`) by name, `labels` for a loss, and `attention_mask` only with padding at the
    right; lengths are padded up to what the layout divides. The loss is the mean over all labels, alike on all ranks;
    after `backward`, call `all_reduce_gradients`. There is no cache.

    Raises
    ------
    LeverNotApplicable : a model that does not call attention through transformers' interface.
    ParallelError : packed or left-padded rows, sliding windows, capped scores, sinks, dropout.
    """
    if not model._can_set_attn_implementation():
        raise LeverNotApplicable(f"{type(model).__name__} does not call attention through transformers' interface")
    shards = Shards(communicator(group), strategy, layout)
    attentions = [module for module in model.modules() if isinstance(getattr(module, "layer_idx", None), int)]
    configs = {id(c): c for m in (model, *attentions) if (c := getattr(m, "config", None)) is not None}
    before = [(config, config._attn_implementation_internal) for config in configs.values()]
    for config, _ in before:
        config._attn_implementation_internal = IMPLEMENTATION
    for module in attentions:
        setattr(module, ATTRIBUTE, shards)
    hooks = [
        model.register_forward_pre_hook(lambda m, args, kwargs: _cut(shards, args, kwargs), with_kwargs=True),
        model.register_forward_hook(lambda m, args, output: _whole_loss(shards, output)),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in attentions:
            delattr(module, ATTRIBUTE)
        for config, implementation in before:
            config._attn_implementation_internal = implementation


def _cut(
    shards: Shards, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """The forward's arguments for this rank."""
    found = {name: x for name in BY_TOKEN if isinstance(x := kwargs.get(name), Tensor)}
    inputs = found.get("input_ids", found.get("inputs_embeds"))
    if args or inputs is None or kwargs.get("past_key_values") is not None:
        raise ParallelError("give input_ids or inputs_embeds by name, and no cache")
    batch, length = inputs.shape[:2]
    whole = padded_length(length, shards.ranks.size, shards.layout)
    mask = found.pop("attention_mask", None)
    shards.kv_lengths = _lengths(mask, batch, length, whole, inputs.device)
    positions = torch.arange(length, device=inputs.device)[None]
    if "position_ids" in found and not bool((found["position_ids"] == positions).all()):
        raise ParallelError("positions that start again or are shifted are not supported; give rows of one document")
    labels = found.pop("labels", None)
    cut = {name: _shard(shards, x) for name, x in found.items()}
    own = layout_indices(whole, shards.ranks.size, shards.layout)[shards.ranks.rank]
    cut["position_ids"] = own.to(inputs.device)[None].expand(batch, -1)
    shards.tokens = 0
    extra: dict[str, object] = {"use_cache": False, "attention_mask": None}
    if labels is not None:
        shifted = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
        if mask is not None:
            shifted = shifted.masked_fill(mask == 0, IGNORED)
        shards.tokens = int((shifted != IGNORED).sum())
        cut["labels"] = cut["shift_labels"] = _shard(shards, shifted, IGNORED)
        extra["num_items_in_batch"] = max(shards.tokens, 1)
    return args, {**kwargs, **cut, **extra}


def _shard(shards: Shards, x: Tensor, pad_value: float = 0.0) -> Tensor:
    return shard_sequence(x, shards.ranks, shards.layout, 1, pad=True, pad_value=pad_value)


def _lengths(mask: Tensor | None, batch: int, length: int, whole: int, device: torch.device) -> Tensor | None:
    """Tokens of each row, or None if no key needs to be hidden."""
    if mask is None:
        return torch.full((batch,), length, device=device) if whole > length else None
    if mask.ndim != 2 or not bool((mask[:, 1:] <= mask[:, :-1]).all()):
        raise ParallelError("attention_mask must be [batch, length] with padding at the right")
    return mask.sum(1)


def _whole_loss(shards: Shards, output: object) -> object:
    """Put the loss of all ranks in place of this rank's part; its gradient is that of the part."""
    loss = getattr(output, "loss", None)
    if not isinstance(output, ModelOutput) or not isinstance(loss, Tensor):
        return output
    others = shards.ranks.all_reduce(loss.detach()) - loss.detach()
    output["loss"] = loss + others
    return output


def all_reduce_gradients(model: nn.Module, group: Group = None) -> None:
    """Sum every parameter's gradient over ranks; a rank without one counts as zero."""
    ranks = communicator(group)
    for parameter in model.parameters():
        if parameter.requires_grad:
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = ranks.all_reduce(own)
