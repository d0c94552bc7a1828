"""Brief continued training as a lever: learned weights that can be switched on, off again, and baked in.

`fit` trains the model as it stands, with the levers before it in the recipe already on, and saves the learned weights;
switching on puts them in place of the model's own, which come back bit for bit afterwards.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, TrainerCallback

from farspan.errors import FarspanError
from farspan.recipe import Lever
from farspan.training.objectives import trainer_class
from farspan.training.trainer import (
    Batch,
    BatchList,
    Deadline,
    build_optimizer,
    training_arguments,
    trapezoid,
)

# Steps; a run that ends by time may ask for far more steps than it will make.
MOST_WARMUP = 20


class FineTune(Lever):
    """Continue training on a stream of batches for a number of tokens.

    Fields
    ------
    tokens : tokens to train on
    learning_rate, muon_learning_rate : peaks, after a short warm-up, of AdamW and Muon
    weights : path of the learned weights, set by `fit`
    """

    name: ClassVar[str] = "fine-tune"
    needs: ClassVar[Literal["nothing", "calibration", "training"]] = "training"
    slot: ClassVar[str] = "weights"
    weights_fields: ClassVar[tuple[str, ...]] = ("weights",)

    tokens: int = Field(default=400_000, gt=0)
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: float = Field(default=5e-4, gt=0)
    muon_learning_rate: float = Field(default=5e-3, gt=0)
    seed: int = 0
    weights: str | None = None

    def fit(
        self,
        model: PreTrainedModel,
        batches: Iterable[Batch],
        out: str | Path,
        *,
        batch_tokens: int,
        deadline: float | None = None,
        precision: str = "auto",
        groups: Sequence[dict[str, object]] = (),
        callbacks: Sequence[TrainerCallback] = (),
    ) -> FineTune:
        """Train, save the learned weights, and put the model's own weights back.

        Parameters
        ----------
        batches : as `DocumentStream` makes them
        out : the file to write, `.safetensors`
        deadline : moment of `time.monotonic()` after which no further step starts
        groups : optimiser groups of parameters outside the model that are trained along
        callbacks : of the trainer

        Returns
        -------
        This lever with `weights` set and `tokens` those it was trained on.

        Raises
        ------
        FarspanError : the model is in float16, or there are no batches.
        """
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        dtypes = [parameter.dtype for parameter in model.parameters()]
        was_training = model.training
        try:
            # Half precision would round most updates away.
            _cast(model, [torch.float32] * len(dtypes))
            optimizer = build_optimizer(
                model,
                self.optimizer,
                learning_rate=self.learning_rate,
                muon_learning_rate=self.muon_learning_rate,
                weight_decay=0.0,
            )
            for group in groups:
                optimizer.add_param_group(dict(group))
            done = run_steps(
                model,
                batches,
                optimizer,
                steps=max(1, self.tokens // batch_tokens),
                deadline=deadline,
                precision=precision,
                seed=self.seed,
                callbacks=callbacks,
            )
            _cast(model, dtypes)
            learned = {
                name: tensor.detach().clone().contiguous()
                for name, tensor in _once(model.state_dict()).items()
                if not torch.equal(tensor, own[name])
            }
        finally:
            model.zero_grad(set_to_none=True)
            _cast(model, dtypes)
            _put(model, own)
            model.train(was_training)
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        save_file(learned, str(out))
        return self.model_copy(update={"weights": str(out), "tokens": done * batch_tokens})

    def _load(self) -> dict[str, torch.Tensor]:
        if self.weights is None:
            raise FarspanError("lever 'fine-tune' has no learned weights yet; call fit, or give weights=FILE")
        try:
            return load_file(self.weights)
        except (OSError, SafetensorError) as error:
            raise FarspanError(f"cannot read learned weights {self.weights}: {error}") from error

    @contextmanager
    def switch_on(self, model: PreTrainedModel) -> Iterator[None]:
        learned = self._load()
        state = model.state_dict()
        own = {name: state[name].detach().clone() for name in learned if name in state}
        _check_names(learned, state)
        try:
            _put(model, learned)
            yield
        finally:
            _put(model, own)

    def bake(self, model: PreTrainedModel) -> None:
        learned = self._load()
        _check_names(learned, model.state_dict())
        _put(model, learned)


def run_steps(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    deadline: float | None = None,
    precision: str = "auto",
    seed: int = 0,
    callbacks: Sequence[TrainerCallback] = (),
) -> int:
    """Train in place for a number of steps, or up to a deadline, without checkpoints.

    Returns
    -------
    The steps done.

    Raises
    ------
    FarspanError : there are no batches.
    """
    with tempfile.TemporaryDirectory() as scratch:
        trainer = trainer_class(model)(
            model=model,
            args=training_arguments(Path(scratch), max_steps=steps, precision=precision, seed=seed),
            train_dataset=BatchList(batches),
            optimizers=(optimizer, LambdaLR(optimizer, _Pace(steps, deadline))),
            callbacks=[*callbacks, *([Deadline(deadline)] if deadline is not None else [])],
        )
        trainer.train()
        # Preparing a model wraps its forward in autocast; the model must come back without that.
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    if not trainer.state.global_step:
        raise FarspanError("there is nothing to train on: no batch came; give more or longer documents")
    return trainer.state.global_step


class _Pace:
    """The learning-rate schedule by steps, or by time where a deadline comes first."""

    def __init__(self, steps: int, deadline: float | None) -> None:
        self.steps = steps
        self.deadline = deadline
        self.start = time.monotonic()

    def __call__(self, step: int) -> float:
        by_steps = trapezoid(step, max(1, min(MOST_WARMUP, self.steps // 20)), self.steps, 0.5)
        if self.deadline is None or step == 0:
            return by_steps
        left = (self.deadline - time.monotonic()) / max(self.deadline - self.start, 1e-9)
        return min(by_steps, max(0.05, left / 0.5))


def _check_names(learned: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> None:
    for name, tensor in learned.items():
        if name not in state or state[name].shape != tensor.shape:
            raise FarspanError(f"learned weights do not belong to this model: '{name}' does not fit")


def _cast(model: PreTrainedModel, dtypes: list[torch.dtype]) -> None:
    for parameter, dtype in zip(model.parameters(), dtypes, strict=True):
        parameter.data = parameter.data.to(dtype)


def _put(model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> None:
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in weights.items():
            state[name].copy_(tensor)


def _once(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict with tied tensors under their first name only."""
    kept: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            kept[name] = tensor
    return kept
