"""Random positions of training."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from farspan.errors import LeverNotApplicable
from farspan.positions import RandomizedPositions, mapped_positions, randomized_positions
from tests.positions.conftest import ids_of, logits_of, model_of


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
