"""Learning the flow of CLEX: beside a model and alone, saved, reloaded, and worth something beyond the window."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from transformers import TrainerControl, TrainerState

from farspan.errors import FarspanError, LeverNotApplicable
from farspan.positions import Clex, ClexDynamics, get_rope
from farspan.recipe import Recipe
from farspan.training import FineTune, FlowGuard, fit_clex
from farspan.training.optimizers import MuonWithAdamW
from farspan.training.trainer import training_arguments
from tests.training.short_reader import BATCH_TOKENS, WINDOW, batches, fresh_model, loss_at

LEVER = Clex(factor=4, max_factor=4)
BRIEF = FineTune(tokens=40 * BATCH_TOKENS, learning_rate=3e-3, muon_learning_rate=2e-2)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def fit(model: nn.Module, out: Path, lever: Clex = LEVER, tuned: FineTune = BRIEF, **options: object) -> Recipe:
    settings = {"batch_tokens": BATCH_TOKENS, "fine_tune": tuned, "precision": "fp32", **options}
    return fit_clex(lever, model, batches(2), out, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_random_model_learns_beyond_its_window_and_the_recipe_reloads(optimizer: str, tmp_path: Path) -> None:
    model = fresh_model()
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = loss_at(model, 2 * WINDOW)
    recipe = fit(model, tmp_path, tuned=BRIEF.model_copy(update={"optimizer": optimizer}), flow_learning_rate=1e-2)
    assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items())
    assert not model.training
    with recipe(model):
        after = loss_at(model, 2 * WINDOW)
    assert after < before - 0.15
    with Recipe.from_yaml(tmp_path / "recipe.yaml")(model):
        assert loss_at(model, 2 * WINDOW) == after
    assert loss_at(model, 2 * WINDOW) == before
    lever, rope = recipe.levers[0], get_rope(model.config)
    assert isinstance(lever, Clex)
    learned, fresh = lever.dynamics(rope).state_dict(), LEVER.fresh_dynamics(rope).state_dict()
    assert not any(torch.equal(learned[name], fresh[name]) for name in ("ode_up_proj", "ode_down_proj"))
    recipe.bake(model)
    assert loss_at(model, 4 * WINDOW) < before


def test_the_flow_alone_is_learned_and_trained_further(tmp_path: Path) -> None:
    model = fresh_model()
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    brief = BRIEF.model_copy(update={"tokens": 6 * BATCH_TOKENS})
    once = fit(model, tmp_path / "once", tuned=brief, train_model=False, flow_learning_rate=1e-2)
    assert [lever.name for lever in once.levers] == ["clex"]  # type: ignore[union-attr]
    assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    (lever,) = once.levers
    assert isinstance(lever, Clex)
    further = fit(model, tmp_path / "twice", lever, brief, train_model=False, flow_learning_rate=1e-4)
    rope = get_rope(model.config)
    first, second = (flow.dynamics(rope).ode_down_proj for flow in (lever, further.levers[0]))  # type: ignore[union-attr]
    assert first is not None
    assert second is not None
    assert 0 < float((first - second).abs().max()) < 1e-2 < float(first.abs().max()) + 1e-2


def test_without_a_net_the_model_learns_the_path_alone(tmp_path: Path) -> None:
    model = fresh_model()
    brief = BRIEF.model_copy(update={"tokens": 2 * BATCH_TOKENS})
    recipe = fit(model, tmp_path, LEVER.model_copy(update={"act": "none"}), brief)
    assert [lever.name for lever in recipe.levers] == ["clex", "fine-tune"]  # type: ignore[union-attr]
    assert not (tmp_path / "clex.safetensors").exists()
    with recipe(model):
        assert loss_at(model, 3 * WINDOW) > 0


def hooks(guard: FlowGuard, tmp_path: Path) -> None:
    arguments = training_arguments(tmp_path, max_steps=1, precision="fp32")
    guard.on_pre_optimizer_step(arguments, TrainerState(), TrainerControl())


def test_gradients_of_the_flow_are_clipped_and_steps_that_are_not_finite_left_out(tmp_path: Path) -> None:
    flow = ClexDynamics(8, 1e4)
    guard = FlowGuard(list(flow.parameters()), max_grad_norm=1.0)
    for parameter in flow.parameters():
        parameter.grad = torch.full_like(parameter, 10)
    hooks(guard, tmp_path)
    norms = [float(parameter.grad.norm()) for parameter in flow.parameters() if parameter.grad is not None]
    assert sum(norm**2 for norm in norms) == pytest.approx(1, rel=1e-4)
    assert guard.skipped == 0
    guard.parameters[0].grad = torch.full_like(guard.parameters[0], float("inf"))
    hooks(guard, tmp_path)
    assert guard.skipped == 1
    assert all(parameter.grad is None for parameter in flow.parameters())


def test_processes_share_gradients_also_where_one_has_none(tmp_path: Path) -> None:
    flow = ClexDynamics(8, 1e4)
    first, second = flow.parameters()
    first.grad = torch.full_like(first, 0.01)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        hooks(FlowGuard([first, second]), tmp_path)
    finally:
        distributed.destroy_process_group()
    assert torch.equal(first.grad, torch.full_like(first, 0.01))
    assert second.grad is not None
    assert not second.grad.any()


def test_groups_added_to_muon_are_stepped_with_adamw_and_saved() -> None:
    model, flow = fresh_model(), ClexDynamics(16, 1e4)
    optimizer = MuonWithAdamW(model, learning_rate=1e-3, muon_learning_rate=1e-2)
    optimizer.add_param_group({"params": list(flow.parameters()), "lr": 1e-2, "weight_decay": 0.0, "name": "clex"})
    assert [group.get("name") for group in optimizer.param_groups].count("clex") == 1
    before = [parameter.detach().clone() for parameter in flow.parameters()]
    flow.frequencies([4.0]).sum().backward()
    optimizer.step()
    moved = [float((new - old).abs().max()) for new, old in zip(flow.parameters(), before, strict=True)]
    assert moved[1] == pytest.approx(1e-2, rel=1e-3)
    again = MuonWithAdamW(model, learning_rate=1e-3, muon_learning_rate=1e-2)
    again.add_param_group({"params": list(flow.parameters()), "lr": 1e-2, "weight_decay": 0.0, "name": "clex"})
    again.load_state_dict(optimizer.state_dict())
    assert len(again.state_dict()["parts"]) == len(optimizer.state_dict()["parts"])  # type: ignore[arg-type]


def test_what_cannot_be_learned_is_refused(tmp_path: Path) -> None:
    model = fresh_model()
    with pytest.raises(FarspanError, match="no flow to learn"):
        fit(model, tmp_path, Clex(factor=2, act="none"), train_model=False)
    with pytest.raises(FarspanError, match="factor 1 changes nothing"):
        fit(model, tmp_path, Clex(factor=1))
    with pytest.raises(FarspanError, match="no batch came; give more or longer documents"):
        fit_clex(LEVER, model, [], tmp_path, batch_tokens=BATCH_TOKENS, precision="fp32")
    with LEVER.model_copy(update={"act": "none"})(model), pytest.raises(LeverNotApplicable, match="stretched already"):
        fit(model, tmp_path)
