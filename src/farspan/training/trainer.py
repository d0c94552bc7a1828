"""A thin layer on transformers' Trainer: supervised rows only, exact token weights, one stream of packed batches.

Everything else (accumulation, mixed precision, checkpoints, distribution) is the Trainer's. This module knows
neither YAML nor tokenizers; `run.py` puts a whole run together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import IterableDataset
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import TrainOutput

from farspan.positions import DrawnRotary
from farspan.training.loss import linear_cross_entropy_sum
from farspan.training.memory_plan import Checkpointing
from farspan.training.optimizers import MuonWithAdamW
from farspan.training.packed_attention import check_documents_apart, packed
from farspan.training.recompute import offloaded, recomputed

Batch = dict[str, torch.Tensor]


class BatchList(IterableDataset[Batch]):
    """Any iterable of batches as the data set that a Trainer asks for."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


class LongTrainer(Trainer):
    """Trains on ready-made batches of `input_ids`, `labels`, `loss_weights` and, where packed, `position_ids`.

    The loss is the weighted mean over supervised tokens: their hidden states are selected before the output head, so
    the memory of logits does not grow with the context. With several processes each brings its own batch, and loss and
    gradients are those of all their tokens together, exactly.

    Attributes
    ----------
    checkpointing, offload : see `recomputed` and `LayerInputOffload`; set before training
    masks : whether the objective makes the masks of packed rows itself
    """

    masks: ClassVar[bool] = False
    checkpointing: Checkpointing = "none"
    offload: bool = False

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.apart = False  # whether documents of a packed row were seen not to see each other
        self.model_accepts_loss_kwargs = False  # the loss is a mean already
        self.remove_callback(PrinterCallback)
        self.add_callback(DrawsByStep())

    def train(self, *args: object, **kwargs: object) -> TrainOutput:
        """The Trainer's own, with packed rows read document by document and layers recomputed as asked."""
        model = cast(PreTrainedModel, self.model)
        reading = nullcontext() if self.masks else packed(model)
        with reading, recomputed(model, self.checkpointing):
            return super().train(*args, **kwargs)  # type: ignore[arg-type]

    def training_step(
        self, model: nn.Module, inputs: Batch, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """One forward and backward pass; gradients are summed over processes."""
        if "position_ids" in inputs and not (self.apart or self.masks):
            check_documents_apart(self.accelerator.unwrap_model(model))
            self.apart = True
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.args.world_size > 1:
            average_gradients(model)
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        unwrapped: PreTrainedModel = self.accelerator.unwrap_model(model)
        packed = {"position_ids": inputs["position_ids"]} if "position_ids" in inputs else {}
        # The Trainer wraps only the model's own forward in autocast; the decoder is called apart from its head here.
        with self.accelerator.autocast(), offloaded(unwrapped, self.offload):
            # No attention mask and no cache: only then does transformers derive the document mask from positions.
            decoder = unwrapped.get_decoder()
            states = decoder(input_ids=inputs["input_ids"], use_cache=False, **packed).last_hidden_state
            head = unwrapped.get_output_embeddings()
            total, weight = linear_cross_entropy_sum(
                states[:, :-1].flatten(0, 1),
                head.weight,
                inputs["labels"][:, 1:].flatten(),
                bias=getattr(head, "bias", None),
                token_weights=inputs["loss_weights"][:, 1:].flatten(),
                softcap=getattr(unwrapped.config, "final_logit_softcapping", None),
            )
        if self.args.world_size > 1:
            # gradients are averaged over processes later, so that each is multiplied by their number here
            dist.all_reduce(weight)
            total = total * self.args.world_size
        return total / weight.clamp(min=1e-8)

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Batch]:
        # One worker process makes the next batches while this one trains; more would each repeat the same stream.
        workers = min(1, self.args.dataloader_num_workers)
        return torch.utils.data.DataLoader(
            cast("IterableDataset[Batch]", self.train_dataset),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
        )


@torch.no_grad()
def average_gradients(model: nn.Module) -> None:
    """Replace gradients by their means over processes, those of one type in one message.

    The decoder is called apart from its head, which goes past the hooks that would do it.
    """
    with_gradients = [weight for weight in model.parameters() if weight.requires_grad]
    for dtype in {weight.dtype for weight in with_gradients}:
        weights = [weight for weight in with_gradients if weight.dtype == dtype]
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        together /= dist.get_world_size()
        means = torch.split(together, [gradient.numel() for gradient in gradients])
        for weight, mean in zip(weights, means, strict=True):
            weight.grad = mean.view_as(weight)


class DrawsByStep(TrainerCallback):
    """Tells rotary modules that draw their positions which step it is, so that a resumed run draws as an
    uninterrupted one, and ranks draw differently."""

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: object,
    ) -> None:
        for module in model.modules() if model is not None else ():
            if isinstance(module, DrawnRotary):
                module.begin(state.global_step, args.process_index)


class Deadline(TrainerCallback):
    """Ends training at a moment of `time.monotonic()`."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if time.monotonic() >= self.deadline:
            control.should_training_stop = True


def trapezoid(step: int, warmup: int, total: int, decay_fraction: float) -> float:
    """Learning-rate factor: linear warm-up, constant, linear decay to a twentieth over the last stretch."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    decay_steps = decay_fraction * total
    left = (total - step) / decay_steps if decay_steps > 0 else 1.0
    return rise * max(0.05, min(1.0, left))


def cosine(step: int, warmup: int, total: int, least: float = 0.1) -> float:
    """Learning-rate factor: linear warm-up from 0, then half a cosine down to `least`.

    Source: arXiv 2410.02660, table 9.
    """
    if step < warmup:
        return step / warmup
    gone = min(1.0, (step - warmup) / max(1, total - warmup))
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * gone))


def build_optimizer(
    model: PreTrainedModel, kind: str, *, learning_rate: float, muon_learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """`muon` (Muon for matrices of the blocks, AdamW for the rest) or `adamw`."""
    if kind == "muon":
        return MuonWithAdamW(
            model, learning_rate=learning_rate, muon_learning_rate=muon_learning_rate, weight_decay=weight_decay
        )
    return torch.optim.AdamW(
        (p for p in model.parameters() if p.requires_grad),
        lr=learning_rate,
        betas=(0.9, 0.95),
        weight_decay=weight_decay,
        fused=True,
    )


def use_bf16(precision: str) -> bool:
    """Whether to train under bfloat16 autocast: asked for, or `auto` on hardware that multiplies in bfloat16."""
    if precision == "auto":
        if torch.cuda.is_available():
            return bool(torch.cuda.is_bf16_supported())
        capabilities = torch.backends.cpu.get_cpu_capability()
        return capabilities.startswith("AVX512") and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return precision == "bf16"


def training_arguments(
    output_dir: Path,
    *,
    max_steps: int,
    precision: str = "auto",
    max_grad_norm: float = 1.0,
    seed: int = 0,
    save_steps: int | None = None,
    log_steps: int | None = None,
    data_workers: int = 1,
) -> TrainingArguments:
    """TrainingArguments as Farspan uses them: own batches, own progress line, no reports to services."""
    return TrainingArguments(
        output_dir=str(output_dir),
        max_steps=max_steps,
        bf16=use_bf16(precision),
        use_cpu=not torch.cuda.is_available(),
        max_grad_norm=max_grad_norm,
        seed=seed,
        per_device_train_batch_size=1,
        save_strategy="no" if save_steps is None else "steps",
        save_steps=save_steps or 500,
        save_total_limit=2,
        logging_strategy="no" if log_steps is None else "steps",
        logging_steps=log_steps or 500,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        ignore_data_skip=True,
        dataloader_pin_memory=False,
        dataloader_num_workers=data_workers,
        average_tokens_across_devices=False,
    )
