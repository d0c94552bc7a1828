"""Perplexity through a sliding window, and the search that makes it small."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from farspan.errors import FarspanError, LeverNotApplicable
from farspan.positions import LongRope, SearchSettings, get_rope, perplexity_score, plan_rope, search_longrope
from farspan.positions.longrope_score import sliding_loss
from farspan.positions.longrope_search import analytic_starts
from tests.positions.conftest import WINDOW, ids_of, logits_of, model_of

SMALL = SearchSettings(population=8, generations=3, parents=4, mutations=3, crossovers=3)


def loss_from(model: PreTrainedModel, ids: torch.Tensor, start: int, first: int, end: int) -> float:
    """Summed loss of tokens `first` to `end`, read from `start` on."""
    logits = logits_of(model, ids[None, start:end])[0]
    return float(cross_entropy(logits[first - start - 1 : -1], ids[first:end], reduction="sum"))


@pytest.mark.parametrize(("length", "window", "stride"), [(40, 64, 8), (64, 64, 8), (90, 64, 8), (65, 64, 16)])
def test_every_token_counts_once_behind_as_much_as_the_window_holds(length: int, window: int, stride: int) -> None:
    model, ids = model_of("llama"), ids_of(length)[0]
    wanted = loss_from(model, ids, 0, 1, min(window, length))
    for first in range(window, length, stride):
        end = min(first + stride, length)
        wanted += loss_from(model, ids, end - window, first, end)
    found, count = sliding_loss(model, ids, window, stride)
    assert count == length - 1
    assert found == pytest.approx(wanted, rel=1e-5)


def test_the_score_is_that_of_the_lever_and_leaves_the_model(llama: PreTrainedModel) -> None:
    documents = [ids_of(2 * WINDOW, seed=seed)[0] for seed in range(2)]
    before = llama.config.to_dict()
    score = perplexity_score(llama, documents, 2 * WINDOW, attention_factor=1.1)
    factors = (1.0, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.0)
    with LongRope(factor=2, factors=factors, attention_factor=1.1)(llama):
        losses = [sliding_loss(llama, ids, 2 * WINDOW) for ids in documents]
    wanted = math.exp(sum(nats for nats, _ in losses) / sum(count for _, count in losses))
    assert score(factors) == pytest.approx(wanted, rel=1e-6)
    assert llama.config.to_dict() == before


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "stablelm"])
def test_search_keeps_bounds_and_resumes(architecture: str, tmp_path: Path) -> None:
    model = model_of(architecture)
    documents = [ids_of(2 * WINDOW, seed=3)[0]]
    starts = analytic_starts(get_rope(model.config), 2)
    lever, found = search_longrope(model, documents, 2 * WINDOW, SMALL, journal=tmp_path / "j", budget_evals=9)
    assert not found.finished
    assert found.evaluations == 9
    lever, found = search_longrope(model, documents, 2 * WINDOW, SMALL, journal=tmp_path / "j")
    again, same = search_longrope(model, documents, 2 * WINDOW, SMALL)
    assert (again, same) == (lever, found)
    assert list(found.history) == sorted(found.history, reverse=True)
    assert found.score <= found.starts["yarn"] == perplexity_score(model, documents, 2 * WINDOW)(starts["yarn"])
    assert all(one <= other for one, other in itertools.pairwise(lever.factors))
    assert lever.factors[0] >= 1
    assert lever.factors[-1] <= 3
    assert lever.plan(model.config).target_length == 2 * WINDOW
    spec = plan_rope(model.config, "longrope", 2 * WINDOW, factors=lever.factors)
    assert torch.equal(spec.inv_freq, lever.plan(model.config).inv_freq)


def test_another_model_or_text_does_not_take_a_journal(tmp_path: Path) -> None:
    documents = [ids_of(2 * WINDOW, seed=3)[0]]
    search_longrope(model_of("llama"), documents, 2 * WINDOW, SMALL, journal=tmp_path / "j", budget_evals=1)
    for model, texts in ((model_of("llama", seed=1), documents), (model_of("llama"), [ids_of(2 * WINDOW, seed=4)[0]])):
        with pytest.raises(FarspanError, match="belongs to another search"):
            search_longrope(model, texts, 2 * WINDOW, SMALL, journal=tmp_path / "j", budget_evals=1)


def test_short_texts_and_targets_are_refused(llama: PreTrainedModel) -> None:
    with pytest.raises(LeverNotApplicable, match="shortest of 2 has 100"):
        perplexity_score(llama, [ids_of(200)[0], ids_of(100)[0]], 2 * WINDOW)
    with pytest.raises(LeverNotApplicable, match="shortest of 0 has 0"):
        search_longrope(llama, [], 2 * WINDOW)
    with pytest.raises(LeverNotApplicable, match="not above the model's window"):
        search_longrope(llama, [ids_of(200)[0]], WINDOW)
