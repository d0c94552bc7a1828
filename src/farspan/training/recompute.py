"""Trading time for memory in training: layers recomputed in the backward pass, their inputs kept on the host.

Which of it a length needs is for `memory_plan` to say; gradients are the same bit for bit with and without.

Source: arXiv 1604.06174 (checkpointing); arXiv 2205.05198 (keeping what is dear to recompute).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Literal

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import CheckpointPolicy, SelectiveCheckpointContext, create_selective_checkpoint_contexts
from transformers import PretrainedConfig, PreTrainedModel

from farspan.training.memory_plan import Checkpointing, MemoryPlan, ModelShape, PlanError, memory_plan

ATTENTION = (
    "_scaled_dot_product",
    "_flash_attention_forward",
    "_efficient_attention_forward",
    "_varlen_attn",
    "flex_attention",
)
LARGE = 2**20
# What real layers keep over what their equations need, and the share of memory that a run may plan with.
OVERHEAD = 1.6
SHARE = {"cuda": 0.9, "cpu": 0.5}


def _keep_attention(
    context: SelectiveCheckpointContext, operator: object, *args: object, **kwargs: object
) -> CheckpointPolicy:
    keep = any(part in str(operator) for part in ATTENTION)
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


@contextmanager
def recomputed(model: PreTrainedModel, checkpointing: Checkpointing) -> Iterator[None]:
    """Recompute the model's layers in the backward pass while this is on.

    Parameters
    ----------
    checkpointing : `none`; `selective`, which keeps what attention gives and recomputes the rest; `full`

    Raises
    ------
    PlanError : the model has no layers that can be recomputed.
    """
    if checkpointing == "none":
        yield
        return
    settings: dict[str, object] = {"use_reentrant": False}
    if checkpointing == "selective":
        settings["context_fn"] = partial(create_selective_checkpoint_contexts, _keep_attention)
    # transformers renamed these; both names take the settings first
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    disable = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
    try:
        enable(settings)
    except ValueError as error:
        raise PlanError(f"{type(model).__name__} cannot recompute its layers: {error}") from error
    try:
        yield
    finally:
        disable()


class LayerInputOffload(saved_tensors_hooks):
    """Keep large tensors that autograd saves in the host's memory, and bring them back when they are needed.

    Around a forward whose layers are recomputed, these are the layers' inputs. Parameters and small tensors stay.

    Parameters
    ----------
    model : its parameters stay where they are
    smallest : bytes from which a tensor is moved
    """

    def __init__(self, model: nn.Module, *, smallest: int = LARGE) -> None:
        self.moved = 0
        weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}

        def pack(tensor: Tensor) -> tuple[torch.device, Tensor]:
            stays = tensor.nbytes < smallest or tensor.untyped_storage().data_ptr() in weights
            if stays or tensor.is_sparse:
                return tensor.device, tensor
            self.moved += tensor.nbytes
            if tensor.device.type == "cpu":
                return tensor.device, tensor.clone()
            host = torch.empty(tensor.size(), dtype=tensor.dtype, pin_memory=True)
            host.copy_(tensor, non_blocking=True)
            return tensor.device, host

        def unpack(packed: tuple[torch.device, Tensor]) -> Tensor:
            device, tensor = packed
            return tensor.to(device, non_blocking=True)

        super().__init__(pack, unpack)


def offloaded(model: nn.Module, offload: bool) -> AbstractContextManager[object]:
    """`LayerInputOffload`, or nothing."""
    return LayerInputOffload(model) if offload else nullcontext()


def chosen(
    config: PretrainedConfig,
    sequence: int,
    batch: int,
    device: torch.device,
    checkpointing: Checkpointing | Literal["auto"],
    offload: bool | None = None,
) -> tuple[Checkpointing, bool]:
    """What training uses: what is asked for, or the first rung of the ladder that fits the memory there is.

    Parameters
    ----------
    offload : None to decide by the plan
    """
    if checkpointing != "auto":
        return checkpointing, bool(offload)
    try:
        plan = memory_plan(ModelShape.of(config), sequence, max(1, batch))
    except PlanError:
        return "none", bool(offload)
    limit = room(device)
    for rung in plan.ladder():
        if not rung.whole_logits and not rung.lora and needed(plan, rung.checkpointing, rung.offload) <= limit:
            return rung.checkpointing, rung.offload if offload is None else offload
    return "full", offload is not False


def needed(plan: MemoryPlan, checkpointing: Checkpointing, offload: bool) -> float:
    """Bytes of a step, with what real layers keep beside the terms of their equations."""
    states = plan.weights + plan.gradients + plan.optimizer
    return states + OVERHEAD * (plan.total(checkpointing, offload=offload) - states)


def room(device: torch.device) -> float:
    """Bytes that a run may plan with on a device."""
    if device.type == "cuda":
        return SHARE["cuda"] * float(torch.cuda.mem_get_info(device)[0])
    return SHARE["cpu"] * float(psutil.virtual_memory().available)
