"""CLEX and E2-LLM trained on rows within the window, measured beyond it: a byte model of Python sources, window 64.

Directions only: everything is trained for seconds. Losses are of the last 32 bytes of held-out text.
"""

from __future__ import annotations

import argparse
import heapq
import inspect
import math
import pickle
import tarfile
import typing
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from farspan.positions import E2LLM, Clex, LinearInterpolation, NTKAware
from farspan.recipe import Lever, Recipe
from farspan.training import FineTune, fit_clex, fit_e2
from tests.training.short_reader import BATCH_TOKENS, ROWS, WINDOW

pytestmark = pytest.mark.slow

BRIEF = FineTune(tokens=300 * BATCH_TOKENS, learning_rate=3e-3, muon_learning_rate=2e-2)
FLOW = Clex(factor=4, max_factor=4, t_sampling="log-uniform", per="sample")
DRAWS = E2LLM(factor=4, max_factor=8, scale_sampling="log-uniform", replay=0.25)


def source_of(*modules: ModuleType) -> torch.Tensor:
    text = "".join(inspect.getsource(module) for module in modules)
    return torch.tensor(list(text.encode())).clamp(max=127)


def batches(seed: int) -> Iterator[dict[str, torch.Tensor]]:
    data = source_of(argparse, tarfile, pickle, typing, zipfile)
    generator = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(0, len(data) - WINDOW, (ROWS,), generator=generator).tolist()
        ids = torch.stack([data[start : start + WINDOW] for start in starts])
        yield {"input_ids": ids, "labels": ids, "loss_weights": torch.ones(ids.shape)}


def loss_at(model: LlamaForCausalLM, windows: int, *levers: Lever) -> float:
    text, length = source_of(heapq), windows * WINDOW
    ids = torch.stack([text[340 * index : 340 * index + length] for index in range(48)])
    with torch.no_grad(), Recipe(levers)(model) if levers else nullcontext():
        logits = model(input_ids=ids, use_cache=False).logits[:, -33:-1]
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -32:].flatten()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("learned")


@pytest.fixture(scope="module")
def model(folder: Path) -> LlamaForCausalLM:
    """Trained to its window of 64 bytes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    found = LlamaForCausalLM(config).eval()
    longer = BRIEF.model_copy(update={"tokens": 800 * BATCH_TOKENS})
    longer.fit(found, batches(1), folder / "base", batch_tokens=BATCH_TOKENS, precision="fp32").bake(found)
    return found


Fit = Callable[[Lever | None, str], tuple[Lever, ...]]


@pytest.fixture(scope="module")
def fit(model: LlamaForCausalLM, folder: Path) -> Fit:
    """Equal training for every side: a lever, or plain fine-tuning; each trained once."""
    done: dict[str, tuple[Lever, ...]] = {}

    def train(lever: Lever | None, name: str) -> tuple[Lever, ...]:
        if name not in done:
            same = {"batch_tokens": BATCH_TOKENS, "precision": "fp32"}
            if isinstance(lever, Clex):
                recipe = fit_clex(lever, model, batches(2), folder / name, fine_tune=BRIEF, **same)  # type: ignore[arg-type]
                done[name] = tuple(recipe)  # type: ignore[arg-type]
            elif isinstance(lever, E2LLM):
                recipes = fit_e2(lever, model, batches(2), folder / name, fine_tune=BRIEF, **same)  # type: ignore[arg-type]
                done[name] = tuple(recipes[lever.factor])  # type: ignore[arg-type]
            else:
                done[name] = (BRIEF.fit(model, batches(2), folder / name, **same),)  # type: ignore[arg-type]
        return done[name]

    return train


@pytest.mark.parametrize("windows", [2, 4])
def test_a_flow_learned_on_short_rows_reads_beyond_the_window(windows: int, model: LlamaForCausalLM, fit: Fit) -> None:
    learned = loss_at(model, windows, *fit(FLOW, "clex"))
    assert learned < loss_at(model, windows)
    assert learned < loss_at(model, windows, *fit(None, "plain"))
    assert learned < loss_at(model, windows, LinearInterpolation(factor=windows))
    if windows == 4:
        assert learned < loss_at(model, windows, NTKAware(factor=windows))


def test_a_learned_flow_costs_little_within_the_window(model: LlamaForCausalLM, fit: Fit) -> None:
    assert math.exp(loss_at(model, 1, *fit(FLOW, "clex")) - loss_at(model, 1, *fit(None, "plain"))) < 1.05


def test_the_path_without_a_net_is_the_control_and_training_on_it_pays(model: LlamaForCausalLM, fit: Fit) -> None:
    bare = FLOW.model_copy(update={"act": "none", "t_sampling": "integer", "per": "batch"})
    trained = fit(bare, "control")
    assert [lever.name for lever in trained] == ["clex", "fine-tune"]
    assert loss_at(model, 4, *trained) < loss_at(model, 4, bare)
    assert loss_at(model, 2, *trained) < loss_at(model, 2)


@pytest.mark.parametrize("windows", [2, 4])
def test_one_training_on_short_rows_serves_longer_windows(windows: int, model: LlamaForCausalLM, fit: Fit) -> None:
    _, tuned = fit(DRAWS, "e2")
    served = loss_at(model, windows, E2LLM(factor=windows), tuned)
    assert served < loss_at(model, windows)
    assert served < loss_at(model, windows, LinearInterpolation(factor=windows))
    # Equal training without the draws does not make up for them.
    (plain,) = fit(None, "plain")
    assert served < loss_at(model, windows, LinearInterpolation(factor=windows), plain)


def test_within_the_window_little_is_lost(model: LlamaForCausalLM, fit: Fit) -> None:
    _, tuned = fit(DRAWS, "e2")
    assert math.exp(loss_at(model, 1, tuned) - loss_at(model, 1)) < 1.03
