"""Random positions of training."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from farspan.errors import LeverNotApplicable, RecipeError
from farspan.positions import (
    LinearInterpolation,
    Randomized,
    RandomizedPositions,
    get_rope,
    mapped_positions,
    randomized_positions,
)
from farspan.recipe import Recipe, build_lever
from tests.positions.conftest import WINDOW, config_of, ids_of, logits_of, model_of


@given(seed=st.integers(0, 2**31), length=st.integers(1, 200), min_step=st.floats(0, 1))
def test_rows_rise_and_end_within_the_length(seed: int, length: int, min_step: float) -> None:
    positions = randomized_positions(3, length, torch.Generator().manual_seed(seed), min_step=min_step)
    assert positions.shape == (3, length)
    assert positions.dtype == torch.float32
    assert bool((positions[:, -1] <= length * (1 + 1e-5)).all())
    steps = positions.diff(dim=-1)
    assert bool((steps >= 0).all())
    if min_step > 0.01:
        assert bool((steps > 0).all())


def test_the_mean_step_is_about_one_and_seeds_decide() -> None:
    positions = randomized_positions(64, 1000, torch.Generator().manual_seed(0))
    assert float(positions.diff(dim=-1).mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(positions, randomized_positions(64, 1000, torch.Generator().manual_seed(0)))
    assert not torch.equal(positions, randomized_positions(64, 1000, torch.Generator().manual_seed(1)))


def test_only_training_sees_them() -> None:
    model, ids = model_of("llama"), ids_of(32, batch=2)
    plain = logits_of(model, ids)
    with mapped_positions(model, RandomizedPositions(seed=0)):
        assert torch.equal(logits_of(model, ids), plain)
        model.train()
        first, second = logits_of(model, ids), logits_of(model, ids)
        assert not torch.allclose(first, plain, atol=1e-4)
        assert not torch.allclose(first, second, atol=1e-4)
        model.eval()
        assert torch.equal(logits_of(model, ids), plain)
    model.train()
    with mapped_positions(model, RandomizedPositions(seed=0)):
        assert torch.equal(logits_of(model, ids), first)
    assert torch.equal(logits_of(model, ids), plain)


def test_packed_documents_each_start_at_the_beginning() -> None:
    mapper = RandomizedPositions(seed=0).train()
    positions = torch.tensor([[0.0, 1, 2, 0, 1, 2, 3]])
    mapped = mapper(positions)
    assert torch.equal(mapped[0, :3], mapped[0, 3:6])
    assert bool((mapped[0, 3:].diff() >= 0).all())


@pytest.mark.parametrize(("max_step", "min_step"), [(1.0, 2.0), (2.0, -0.1), (0.0, 0.0)])
def test_bad_steps_are_refused(max_step: float, min_step: float) -> None:
    with pytest.raises(LeverNotApplicable, match="0 <= min_step <= max_step"):
        randomized_positions(1, 4, max_step=max_step, min_step=min_step)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "stablelm"])
def test_the_lever_is_linear_in_evaluation_and_random_in_training(architecture: str) -> None:
    model, ids = model_of(architecture), ids_of(2 * WINDOW, batch=2)
    with LinearInterpolation(factor=4)(model):
        linear = logits_of(model, ids)
        model.train()
        trained = logits_of(model, ids)
        model.eval()
    with Randomized(factor=4, seed=1)(model):
        assert torch.equal(logits_of(model, ids), linear)
        model.train()
        first, second = logits_of(model, ids), logits_of(model, ids)
        model.eval()
    assert not torch.allclose(first, trained, atol=1e-4)
    assert not torch.allclose(first, second, atol=1e-4)
    model.train()
    with Randomized(factor=4, seed=1)(model):
        assert torch.equal(logits_of(model, ids), first)


def test_a_scale_of_its_own_is_served_as_it_is() -> None:
    rope = get_rope(config_of("llama"))
    spec = Randomized(factor=4, scale=1).plan(config_of("llama"))
    assert torch.equal(spec.inv_freq, rope.inv_freq)
    assert spec.target_length == 4 * WINDOW
    torch.testing.assert_close(Randomized(factor=4, scale=8).plan(config_of("llama")).inv_freq, rope.inv_freq / 8)
    assert str(Recipe.parse("randomized:factor=4,scale=8")) == "randomized:factor=4.0,scale=8.0"
    with pytest.raises(RecipeError, match="min_step must not be above"):
        build_lever("randomized", {"factor": 2, "min_step": 3})


@pytest.mark.parametrize("family", ["power-basis", "truncated-basis"])
def test_other_families_are_served_as_they_are_and_trained_at_random(family: str) -> None:
    model, ids = model_of("llama"), ids_of(2 * WINDOW, batch=2)
    lever = Randomized.model_validate({"factor": 4, "family": family, "scale": 2})
    with build_lever(family, {"factor": 4, "scale": 2})(model):
        served = logits_of(model, ids)
        model.train()
        plain = logits_of(model, ids)
        model.eval()
    with lever(model):
        assert torch.equal(logits_of(model, ids), served)
        model.train()
        assert not torch.allclose(logits_of(model, ids), plain, atol=1e-4)
    wanted = build_lever(family, {"factor": 4}).plan(config_of("llama")).inv_freq  # type: ignore[attr-defined]
    assert torch.equal(lever.model_copy(update={"scale": None}).plan(config_of("llama")).inv_freq, wanted)


def test_gradients_flow_through_random_positions() -> None:
    model, ids = model_of("llama").train(), ids_of(2 * WINDOW, batch=2)
    with Randomized(factor=2)(model):
        model(input_ids=ids, labels=ids).loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and bool(torch.isfinite(gradient).all()) for gradient in gradients)
