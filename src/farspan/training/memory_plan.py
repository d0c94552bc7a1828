"""What a training step will take, before it is tried: bytes by item, and the ladder of ways to make a length fit.

The counts are those of a decoder with a gated MLP in bf16 with AdamW, sharded over the ranks. They say what has to be
kept, not what an implementation keeps beside it: without checkpointing, real models need 1.3 to 1.6 times the
activations named here. Nothing is allocated; the parameters of an architecture are counted on the meta device.

Source: counted from the layers of a Llama; arXiv 1604.06174 (checkpointing), arXiv 2205.05198 (selecting what to keep).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from farspan.errors import FarspanError

Checkpointing = Literal["none", "selective", "full"]
LORA_RANK = 16
BF16 = 2
ADAMW = 12  # fp32 master copy and two moments
LOGITS = 10  # bf16, fp32 and the gradient in fp32, a number each
CHUNK = 2048


class PlanError(FarspanError):
    """A model or a size that no plan can be made for."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder.

    ffn : width of the MLP; matrices of it are counted three times (gate, up, down)
    tied : whether the output head is the embedding
    others : parameters beside those of a plain Llama, such as biases
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool
    others: int = 0

    @property
    def parameters(self) -> int:
        """Numbers in all weights."""
        attention = 2 * self.hidden * self.heads * self.head_dim + 2 * self.hidden * self.kv_heads * self.head_dim
        layer = attention + 3 * self.hidden * self.ffn + 2 * self.hidden
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        return self.layers * layer + self.hidden + embeddings + self.others

    @property
    def lora_parameters(self) -> int:
        """Numbers in adapters of rank 16 at every matrix of the layers."""
        query, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        widths = (query, keys, keys, query, self.ffn, self.ffn, self.ffn)
        return self.layers * LORA_RANK * sum(self.hidden + width for width in widths)

    @classmethod
    def of(cls, config: PretrainedConfig) -> ModelShape:
        """The shape of a transformers model; its parameters are those of the very architecture.

        Raises
        ------
        PlanError : a configuration without the sizes of a decoder.
        """
        text = config.get_text_config()
        try:
            heads = int(text.num_attention_heads)
            shape = cls(
                hidden=int(text.hidden_size),
                layers=int(text.num_hidden_layers),
                heads=heads,
                kv_heads=int(getattr(text, "num_key_value_heads", None) or heads),
                head_dim=int(getattr(text, "head_dim", None) or text.hidden_size // heads),
                ffn=int(text.intermediate_size),
                vocab=int(text.vocab_size),
                tied=bool(text.tie_word_embeddings),
            )
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(text)
        except (AttributeError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0][:160]
            raise PlanError(f"no plan for a model of type '{config.model_type}': {reason}") from error
        return replace(shape, others=sum(weight.numel() for weight in model.parameters()) - shape.parameters)


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of a training step on one rank, and its floating-point operations.

    activations_none, activations_selective, activations_full_checkpoint : kept for the backward pass when nothing is
        recomputed, when all but attention is, and when each layer is recomputed from its input
    activations_one_layer : what the layer at work needs beside the last two
    activations_offload_host : inputs of layers in the host's memory, where they are moved there
    logits_full, logits_chunked : of the output head, at once or in chunks of rows
    attention_flops_train, dense_flops_train : of the planned rows, forward and backward
    lora_states : gradients and AdamW's states where only adapters are trained
    """

    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations_none: int
    activations_selective: int
    activations_full_checkpoint: int
    activations_one_layer: int
    activations_offload_host: int
    logits_full: int
    logits_chunked: int
    attention_flops_train: int
    dense_flops_train: int
    lora_states: int

    def total(
        self, checkpointing: Checkpointing = "none", *, chunked: bool = True, offload: bool = False, lora: bool = False
    ) -> int:
        """Bytes at the peak of a step on the device.

        offload : of the inputs of checkpointed layers
        """
        states = self.weights + (self.lora_states if lora else self.gradients + self.optimizer)
        kept = {
            "none": self.activations_none,
            "selective": self.activations_selective + self.activations_one_layer,
            "full": (0 if offload else self.activations_full_checkpoint) + self.activations_one_layer,
        }[checkpointing]
        return states + kept + (self.logits_chunked if chunked else self.logits_full)

    def ladder(self) -> list[Rung]:
        """Ways to need less, each with those before it, from the cheapest in time on."""
        return [
            Rung("nothing", self.total(chunked=False), whole_logits=True),
            Rung("head in chunks", self.total()),
            Rung("recompute all but attention", self.total("selective"), "selective"),
            Rung("recompute every layer", self.total("full"), "full"),
            Rung("inputs of layers on the host", self.total("full", offload=True), "full", offload=True),
            Rung(
                "train adapters of rank 16",
                self.total("full", offload=True, lora=True),
                "full",
                offload=True,
                lora=True,
            ),
        ]

    def first_that_fits(self, limit: int) -> Rung | None:
        """The first rung of the ladder that needs at most `limit` bytes, None where not even the last does."""
        return next((rung for rung in self.ladder() if rung.bytes <= limit), None)


@dataclass(frozen=True)
class Rung:
    """One step of the ladder: what it is called, the bytes it needs, and what it means for training."""

    name: str
    bytes: int
    checkpointing: Checkpointing = "none"
    offload: bool = False
    lora: bool = False
    whole_logits: bool = False


def memory_plan(
    shape: ModelShape,
    sequence: int,
    batch: int = 1,
    world: int = 1,
    *,
    context_parallel: int = 1,
    chunk: int = CHUNK,
) -> MemoryPlan:
    """Plan a training step.

    Parameters
    ----------
    sequence : tokens a row
    batch : rows a rank, or a group of ranks that share rows
    world : ranks that weights, gradients and states of the optimiser are sharded over
    context_parallel : ranks that share a row
    chunk : rows of the head at a time

    Raises
    ------
    PlanError : sizes below one, or tokens that the ranks do not divide.
    """
    if min(sequence, batch, world, context_parallel, chunk) < 1:
        raise PlanError("sequence, batch, world, context_parallel and chunk must be at least 1")
    if sequence * batch % context_parallel:
        raise PlanError(f"{sequence * batch} tokens cannot be shared by {context_parallel} ranks evenly")
    tokens = sequence * batch // context_parallel
    hidden, query, keys = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layer = tokens * (8 * hidden + 4 * query + 4 * keys + 4 * shape.heads + 6 * shape.ffn)
    inputs = BF16 * shape.layers * tokens * hidden
    active = shape.parameters - (0 if shape.tied else shape.vocab * hidden)
    rows = min(chunk, tokens)
    return MemoryPlan(
        parameters=shape.parameters,
        weights=BF16 * shape.parameters // world,
        gradients=BF16 * shape.parameters // world,
        optimizer=ADAMW * shape.parameters // world,
        activations_none=shape.layers * layer,
        activations_selective=inputs + shape.layers * tokens * (BF16 * query + 4 * shape.heads),
        activations_full_checkpoint=inputs,
        activations_one_layer=layer,
        activations_offload_host=inputs,
        logits_full=tokens * shape.vocab * LOGITS,
        logits_chunked=rows * shape.vocab * LOGITS,
        attention_flops_train=12 * shape.layers * query * sequence * tokens * context_parallel // 2,
        dense_flops_train=6 * active * tokens * context_parallel,
        lora_states=(BF16 + ADAMW) * shape.lora_parameters // world,
    )
