"""Learning the flow of CLEX, with or without the model around it, on rows no longer than the window.

The lever `clex` draws scales and spreads positions while it is on; here its flow takes gradients, is trained beside
the model at a pace of its own, and both are saved as a recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import distributed, nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from farspan.errors import FarspanError
from farspan.positions import Clex, get_rope
from farspan.positions.clex_flow import load_dynamics, save_dynamics
from farspan.recipe import Recipe
from farspan.training.fine_tune import FineTune, run_steps
from farspan.training.trainer import Batch


class FlowGuard(TrainerCallback):
    """Keeps parameters outside the model in step with a trainer: averaged over processes, clipped apart from the
    model's, left alone in a step whose gradients are not finite, and cleared after each.

    Parameters
    ----------
    parameters : trained by the trainer's optimiser, but no part of its model
    max_grad_norm : norm to which their gradients are clipped
    """

    def __init__(self, parameters: Sequence[nn.Parameter], max_grad_norm: float = 1.0) -> None:
        self.parameters = list(parameters)
        self.max_grad_norm = max_grad_norm
        self.skipped = 0

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if distributed.is_available() and distributed.is_initialized():
            for parameter in self.parameters:
                # A scale of 1 leaves no gradient, but every process must take part.
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                shared = gradient.to(args.device)
                distributed.all_reduce(shared)
                parameter.grad = (shared / distributed.get_world_size()).to(parameter.device)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        if not bool(torch.isfinite(norm)):
            self.skipped += 1
            self._clear()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._clear()

    def _clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


def fit_clex(
    lever: Clex,
    model: PreTrainedModel,
    batches: Iterable[Batch],
    out: str | Path,
    *,
    batch_tokens: int,
    fine_tune: FineTune | None = None,
    train_model: bool = True,
    flow_learning_rate: float = 1e-4,
    flow_max_grad_norm: float = 1.0,
    deadline: float | None = None,
    precision: str = "auto",
) -> Recipe:
    """Learn a flow from scales 1 to `lever.max_factor`, and put the model's own weights back.

    Parameters
    ----------
    lever : settings; a flow it holds already is trained further
    model : with its own positions
    batches : as `DocumentStream` makes them, of rows within the model's window
    out : folder for `clex.safetensors`, `weights.safetensors` and `recipe.yaml`
    batch_tokens : tokens a batch
    fine_tune : how the model is trained, and for how many tokens
    train_model : train the model as well, as the paper does, rather than the flow alone
    flow_learning_rate : of AdamW, at the pace of the model's
    flow_max_grad_norm : norm to which gradients of the flow, over the mean position, are clipped
    deadline : moment of `time.monotonic()` after which no further step starts

    Returns
    -------
    The lever with its learned flow, then the fine-tune where the model was trained.

    Raises
    ------
    FarspanError : nothing to train, no batches, or files that cannot be written.
    LeverNotApplicable : the model cannot take the lever, or the lever's flow is another model's.

    Source: arXiv 2310.16450, sections 3.3 and 4.1.
    """
    if lever.act == "none" and not train_model:
        raise FarspanError("clex with act=none has no flow to learn; train the model, or choose act=tanh")
    if lever.factor == 1:
        raise FarspanError("clex at factor 1 changes nothing; give the factor that the window is to reach")
    lever.check_model(model.config)
    folder, tuning = Path(out), fine_tune or FineTune()
    rope = get_rope(model.config, lever.layer_type)
    dynamics = lever.fresh_dynamics(rope)
    if lever.weights is not None and lever.act != "none":
        load_dynamics(dynamics, lever.weights, lever.told(rope))
    flow = list(dynamics.parameters())
    guard = [FlowGuard(flow, flow_max_grad_norm)] if flow else []
    with lever.engaged(model, dynamics):
        if train_model:
            group: dict[str, object] = {"params": flow, "lr": flow_learning_rate, "weight_decay": 0.0, "name": "clex"}
            fitted = [
                tuning.fit(
                    model,
                    batches,
                    folder / "weights.safetensors",
                    batch_tokens=batch_tokens,
                    deadline=deadline,
                    precision=precision,
                    groups=[group] if flow else [],
                    callbacks=guard,
                )
            ]
        else:
            fitted = []
            _fit_flow_alone(
                model,
                batches,
                torch.optim.AdamW(flow, lr=flow_learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
                guard,
                steps=max(1, tuning.tokens // batch_tokens),
                deadline=deadline,
                precision=precision,
                seed=tuning.seed,
            )
    if flow:
        weights = save_dynamics(dynamics, folder / "clex.safetensors", lever.told(rope))
        lever = lever.model_copy(update={"weights": str(weights)})
    recipe = Recipe([lever, *fitted])
    recipe.to_yaml(folder / "recipe.yaml")
    return recipe


def _fit_flow_alone(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    callbacks: Sequence[TrainerCallback],
    *,
    steps: int,
    deadline: float | None,
    precision: str,
    seed: int,
) -> None:
    """Train what `optimizer` holds; the model's parameters take no gradients meanwhile."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    was_training = model.training
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        run_steps(
            model,
            batches,
            optimizer,
            steps=steps,
            deadline=deadline,
            precision=precision,
            seed=seed,
            callbacks=callbacks,
        )
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        model.train(was_training)
