"""Attention taken out of its model: what single layers are given, and every way to compute them.

Queries, keys and values are those of a model while it reads a text, or made ones of any shape in which each query
prefers a few heavy keys and its own neighbourhood, as trained models do. `Runner` attends one layer densely by a named
kernel, or sparsely by a lever's plan. Nothing is timed here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import PrivateAttr
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PretrainedConfig, PreTrainedModel

from farspan.attention import AttentionContext, AttentionLever, BlockPlan
from farspan.attention.executors import EXECUTORS, execute
from farspan.attention.executors.choice import Chooser
from farspan.attention.executors.failure import ExecutorFailed
from farspan.attention.selection import Attended, stored

DENSE_BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


@dataclass(frozen=True, eq=False)
class Layer:
    """What one layer's attention gets: query [1, Hq, L, D], key and value [1, Hkv, L, D]."""

    index: int
    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float


@dataclass(frozen=True, eq=False)
class Problem:
    """Attention of all layers at one length, and of which model they are."""

    layers: list[Layer]
    config: PretrainedConfig


@dataclass(eq=False)
class Taken:
    """What one sparse call of a layer gave: output, density of its plan, executor."""

    output: Tensor
    density: float
    executor: str


class Recorder(AttentionLever):
    """Attends densely and keeps what layers were given.

    only : indices of the layers to keep; None for all
    """

    name: ClassVar[str] = "recorder"
    min_length: int = 0
    only: frozenset[int] | None = None

    _layers: list[Layer] = PrivateAttr(default_factory=list)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, context: AttentionContext) -> Attended | str | None:
        if self.only is None or context.layer_idx in self.only:
            self._layers.append(Layer(context.layer_idx, query, key, value, context.scaling))
        return "recorded"

    @property
    def layers(self) -> list[Layer]:
        """What was kept, by the index of the layer."""
        return sorted(self._layers, key=lambda layer: layer.index)


def read_by(model: PreTrainedModel, ids: Tensor, only: frozenset[int] | None = None) -> Problem:
    """The attention of a model while it reads ids [1, L].

    only : indices of the layers to keep, each of which takes room; None for all. Layers whose attention is dense by
        nature, for a window or caps, are left out.
    """
    recorder = Recorder(only=only)
    with torch.no_grad(), recorder(model):
        model(ids, use_cache=False, logits_to_keep=1)
    return Problem(recorder.layers, model.config)


def made_up(
    length: int, heads: int, kv_heads: int, head_dim: int, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> Problem:
    """One layer of made attention: noise, 2 % heavy keys that all queries of a head prefer, and near keys."""
    generator = torch.Generator(device=device).manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device, dtype=torch.float32).to(dtype)

    query, key = noise(1, heads, length, head_dim), noise(1, kv_heads, length, head_dim)
    towards = F.normalize(noise(1, kv_heads, 1, head_dim).float(), dim=-1).to(dtype)
    heavy = torch.rand(1, kv_heads, length, 1, generator=generator, device=device) < 0.02
    key += heavy * towards * head_dim**0.5
    query += towards.repeat_interleave(heads // kv_heads, dim=1) * head_dim**0.25
    place = torch.arange(length, device=device, dtype=torch.float32)
    near = torch.stack([(place / wave).cos() for wave in (64.0, 512.0)] + [(place / w).sin() for w in (64.0, 512.0)], 1)
    for rows in (query, key):
        rows[..., :4] += (near * head_dim**0.25).to(dtype)
    return Problem(
        [Layer(0, query, key, noise(1, kv_heads, length, head_dim), head_dim**-0.5)],
        PretrainedConfig.from_dict({"num_hidden_layers": 1, "num_attention_heads": heads}),
    )


@dataclass(eq=False)
class Runner:
    """Attends one layer in every way that is compared.

    backend : executor of sparse calls; `auto` tries all once on the first plan of a kind and length
    try_all : false leaves `auto` to the choice that a lever makes, which compiles nothing before it pays
    """

    backend: str = "auto"
    try_all: bool = True
    chooser: Chooser = field(default_factory=Chooser)
    _fastest: dict[tuple[int, int, int, bool], str] = field(default_factory=dict)

    def dense(self, layer: Layer, backend: str = "") -> Tensor:
        """Everything read, by the named fused kernel or the one torch takes."""
        inputs, grouped = (layer.query, layer.key, layer.value), layer.query.shape[1] != layer.key.shape[1]
        if not backend:
            return F.scaled_dot_product_attention(*inputs, is_causal=True, scale=layer.scaling, enable_gqa=grouped)
        with sdpa_kernel(DENSE_BACKENDS[backend]):
            return F.scaled_dot_product_attention(*inputs, is_causal=True, scale=layer.scaling, enable_gqa=grouped)

    def select(self, lever: AttentionLever, layer: Layer, config: PretrainedConfig) -> tuple[BlockPlan, Tensor | None]:
        """The plan and, where the lever stores keys in another order, that order; a plan of everything for None."""
        context = AttentionContext(layer.index, layer.scaling, 0, "prefill", nn.Module(), config)
        found = lever.select(layer.query, layer.key, context)
        if found is not None:
            return found.plan, found.order
        length, block = layer.query.shape[2], 128
        count = -(-length // block)
        whole = torch.ones(1, 1, count, count, dtype=torch.bool, device=layer.query.device).tril()
        return BlockPlan.from_block_mask(whole, q_len=length, kv_len=length, block_q=block, block_k=block), None

    def both(self, lever: AttentionLever, layer: Layer, config: PretrainedConfig) -> Taken:
        """Choosing and computing."""
        return self.attend(layer, *self.select(lever, layer, config))

    def attend(self, layer: Layer, plan: BlockPlan, order: Tensor | None) -> Taken:
        """Exact attention over the plan."""
        key, value = layer.key, layer.value
        if order is not None:
            key, value = stored(key, order), stored(value, order)
        output, _, used = execute(
            layer.query,
            key,
            value,
            plan,
            layer.scaling,
            self.fastest(layer, key, value, plan),
            False,
            self.chooser,
        )
        return Taken(output, plan.density(), used)

    def fastest(self, layer: Layer, key: Tensor, value: Tensor, plan: BlockPlan) -> str:
        """The executor asked for, or that which was fastest on a first plan of this kind and length."""
        if self.backend != "auto":
            fits = EXECUTORS[self.backend].refusal(layer.query, key, plan, False, False) is None
            return self.backend if fits else "auto"
        if not self.try_all:
            return "auto"
        kind = (layer.query.shape[2], plan.block_q, plan.block_k, plan.col_ptr is not None)
        if kind not in self._fastest:
            seconds = {}
            for name in EXECUTORS.keys() - {"dense", "reference", "masked"}:
                if EXECUTORS[name].refusal(layer.query, key, plan, False, False) is None:
                    with suppress(ExecutorFailed):
                        seconds[name] = self._seconds(name, layer, key, value, plan)
            self._fastest[kind] = min(seconds, key=lambda name: seconds[name]) if seconds else "auto"
        return self._fastest[kind]

    def _seconds(self, name: str, layer: Layer, key: Tensor, value: Tensor, plan: BlockPlan) -> float:
        taken = 0.0
        for _ in range(2):  # the first one compiles
            started = time.perf_counter()
            execute(layer.query, key, value, plan, layer.scaling, name, False, self.chooser)
            if layer.query.device.type == "cuda":
                torch.cuda.synchronize(layer.query.device)
            taken = time.perf_counter() - started
        return taken


def text_ids(rows: Sequence[int], length: int) -> Tensor:
    """Ids [1, length], the text repeated where it is too short."""
    repeated = list(rows) * -(-length // max(1, len(rows)))
    return torch.tensor([repeated[:length]])
