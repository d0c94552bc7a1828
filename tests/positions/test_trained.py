"""Methods on a tiny model that has learned something: a byte model of Python sources with a window of 64.

Directions only: the model is trained for seconds. Scores are of the second half of each text, where the stretched
window matters.
"""

from __future__ import annotations

import argparse
import copy
import heapq
import inspect
import pickle
import tarfile
from itertools import pairwise
from types import ModuleType

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from farspan.positions import (
    DPRoPE,
    LinearInterpolation,
    PositionLever,
    PowerBasis,
    Randomized,
    SearchSettings,
    TruncatedBasis,
    Yarn,
    search_longrope,
)
from farspan.positions.longrope_search import analytic_starts
from farspan.positions.rope import get_rope
from tests.positions.conftest import WINDOW

pytestmark = pytest.mark.slow


def source_of(*modules: ModuleType) -> torch.Tensor:
    text = "".join(inspect.getsource(module) for module in modules)
    return torch.tensor(list(text.encode()), dtype=torch.long).clamp(max=127)


def train(model: PreTrainedModel, steps: int, length: int, rate: float, rows: int, seed: int = 0) -> None:
    data = source_of(argparse, tarfile, pickle)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 10) * (1 - step / steps)
        starts = torch.randint(0, len(data) - length, (rows,), generator=generator).tolist()
        ids = torch.stack([data[start : start + length] for start in starts])
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def measure(model: PreTrainedModel, length: int) -> tuple[float, float]:
    """Loss and accuracy of the next byte over held-out text."""
    text = source_of(heapq)
    ids = torch.stack([text[300 * index : 300 * index + length] for index in range(24)])
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[:, length // 2 - 1 : -1]
    targets = ids[:, length // 2 :]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    return float(loss), float((logits.argmax(-1) == targets).float().mean())


def stretched(model: PreTrainedModel, lever: PositionLever, length: int) -> tuple[float, float]:
    with lever(model):
        return measure(model, length)


@pytest.fixture(scope="module")
def trained() -> PreTrainedModel:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=128,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=WINDOW,
            initializer_range=0.05,
        )
    )
    train(model, 300, WINDOW, 6e-3, rows=16)
    return model


@pytest.fixture(scope="module")
def fine_tuned(trained: PreTrainedModel) -> PreTrainedModel:
    """Trained on at twice the window with linear interpolation by 2, which is off again."""
    model = copy.deepcopy(trained)
    with LinearInterpolation(factor=2)(model):
        train(model, 100, 2 * WINDOW, 3e-3, rows=8, seed=1)
    return model


@pytest.mark.parametrize("factor", [2, 4])
def test_without_training_a_choice_by_angles_beats_linear(trained: PreTrainedModel, factor: int) -> None:
    length = factor * WINDOW
    chosen = stretched(trained, DPRoPE(factor=factor), length)[0]
    assert chosen < stretched(trained, LinearInterpolation(factor=factor), length)[0]
    assert chosen < measure(trained, length)[0]


def test_fine_tuned_interpolation_beats_the_unmodified_model(
    trained: PreTrainedModel, fine_tuned: PreTrainedModel
) -> None:
    loss, accuracy = stretched(fine_tuned, LinearInterpolation(factor=2), 2 * WINDOW)
    before = measure(trained, 2 * WINDOW)
    assert loss < before[0]
    assert accuracy > before[1]


def test_a_model_trained_at_one_scale_reads_farther_at_a_larger_one(fine_tuned: PreTrainedModel) -> None:
    accuracy = {
        scale: stretched(fine_tuned, LinearInterpolation(factor=scale), 4 * WINDOW)[1] for scale in (1, 2, 3, 4)
    }
    assert accuracy[4] > accuracy[2] > accuracy[1]
    assert accuracy[3] > accuracy[2]


@pytest.mark.parametrize(
    "lever",
    [
        PowerBasis(factor=2),
        TruncatedBasis(factor=2),
        Randomized(factor=2),
        Randomized(factor=2, family="power-basis"),
        Randomized(factor=2, family="truncated-basis"),
    ],
    ids=str,
)
def test_fine_tuning_makes_up_for_a_method(trained: PreTrainedModel, lever: PositionLever) -> None:
    model = copy.deepcopy(trained)
    before = stretched(model, lever, 2 * WINDOW)
    with lever(model):
        train(model, 60, 2 * WINDOW, 3e-3, rows=8, seed=1)
        after = measure(model, 2 * WINDOW)
    assert after[0] < before[0]


@pytest.mark.parametrize("space", ["monotone", "piecewise"])
def test_a_search_never_gets_worse_and_beats_its_start(trained: PreTrainedModel, space: str) -> None:
    documents = [source_of(heapq)[start : start + 4 * WINDOW] for start in (0, 2000)]
    small = SearchSettings(population=12, generations=4, parents=6, mutations=4, crossovers=4, space=space)
    lever, found = search_longrope(trained, documents, 4 * WINDOW, small)
    assert all(later <= earlier for earlier, later in pairwise(found.history))
    assert found.score < found.starts["yarn"]
    assert found.score < min(found.starts.values())
    assert all(one <= other for one, other in pairwise(lever.factors))
    assert 1 <= lever.factors[0] <= lever.factors[-1] <= 5
    # The start is YaRN's vector itself, under the attention factor of this method.
    yarn = get_rope(trained.config).inv_freq / Yarn(factor=4).plan(trained.config).inv_freq
    assert analytic_starts(get_rope(trained.config), 4)["yarn"] == pytest.approx(yarn.tolist(), rel=1e-5)
