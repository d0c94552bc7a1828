"""One training run of E2-LLM: it learns, its recipes reload, and the same weights read at every factor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from farspan.errors import FarspanError
from farspan.positions import E2LLM, LinearInterpolation
from farspan.recipe import Recipe
from farspan.training import FineTune, fit_e2
from tests.training.short_reader import BATCH_TOKENS, WINDOW, batches, fresh_model, loss_at, short_reader

LEVER = E2LLM(factor=4, max_factor=8)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_a_random_model_learns_once_and_serves_every_factor(tmp_path: Path) -> None:
    model = fresh_model()
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = {factor: loss_at(model, factor * WINDOW) for factor in (1, 2, 4)}
    tuned = FineTune(tokens=40 * BATCH_TOKENS, learning_rate=3e-3, muon_learning_rate=2e-2)
    recipes = fit_e2(
        LEVER,
        model,
        batches(2),
        tmp_path,
        batch_tokens=BATCH_TOKENS,
        factors=(1, 2, 4),
        fine_tune=tuned,
        precision="fp32",
    )
    assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items())
    assert len({recipe.levers[1] for recipe in recipes.values()}) == 1
    for factor, recipe in recipes.items():
        with recipe(model):
            after = loss_at(model, int(factor) * WINDOW)
        assert after < before[int(factor)] - 0.15
        with Recipe.from_yaml(tmp_path / f"recipe-x{factor}.yaml")(model):
            assert loss_at(model, int(factor) * WINDOW) == after
    recipes[4].bake(model)
    assert model.config.max_position_embeddings == 4 * WINDOW
    assert loss_at(model, 4 * WINDOW) < before[4] - 0.15


@pytest.mark.slow
def test_without_offsets_less_is_gained(tmp_path: Path) -> None:
    model = short_reader()
    tuned = FineTune(tokens=300 * BATCH_TOKENS, learning_rate=1e-3, muon_learning_rate=5e-3)
    found = {}
    # With as many sinks as the row has tokens none is shifted.
    for name, sinks in (("shifted", 4), ("still", WINDOW)):
        recipes = fit_e2(
            LEVER.model_copy(update={"num_sink_tokens": sinks}),
            model,
            batches(2),
            tmp_path / name,
            batch_tokens=BATCH_TOKENS,
            fine_tune=tuned,
            precision="fp32",
        )
        with recipes[4](model):
            found[name] = loss_at(model, 4 * WINDOW)
    with LinearInterpolation(factor=4)(model):
        assert found["shifted"] < loss_at(model, 4 * WINDOW)
    assert found["shifted"] < found["still"] - 0.1


def test_what_cannot_be_learned_is_refused(tmp_path: Path) -> None:
    model = fresh_model()
    with pytest.raises(FarspanError, match="factor 1 changes nothing"):
        fit_e2(E2LLM(factor=1), model, batches(2), tmp_path, batch_tokens=BATCH_TOKENS)
    with pytest.raises(FarspanError, match="factor"):
        fit_e2(LEVER, model, batches(2), tmp_path, batch_tokens=BATCH_TOKENS, factors=(0.5,))
    with pytest.raises(FarspanError, match="no batch came"):
        fit_e2(LEVER, model, [], tmp_path, batch_tokens=BATCH_TOKENS, precision="fp32")
