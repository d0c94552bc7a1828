"""Likelihood by masking: exact cases, the bound, numbers of masks, and curves of both kinds of model."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from farspan.engine import (
    ModelDenoiser,
    RequestError,
    cumulative_perplexity,
    diffusion_perplexity,
    likelihood_mask_counts,
    perplexity_curve,
)
from tests.diffusion_models import ids_of, model_of

MASK = 40


def denoiser_of() -> ModelDenoiser:
    return ModelDenoiser(model_of())


@given(data=st.data(), length=st.integers(1, 60), batch=st.integers(1, 60))
def test_mask_counts_lie_in_range_and_are_spread(data: st.DataObject, length: int, batch: int) -> None:
    k = data.draw(st.integers(1, length))
    counts = likelihood_mask_counts(k, batch, length)
    assert counts[0] == k
    assert len(counts) == batch
    assert all(1 <= count <= length for count in counts)
    if batch == length:
        assert sorted(counts) == list(range(1, length + 1))


@torch.no_grad()
def test_one_masked_token_gives_its_own_probability() -> None:
    denoiser = denoiser_of()
    prompt, answer = ids_of(7)[0].tolist(), [5]
    ids = torch.tensor([[*prompt, MASK]])
    logits = denoiser(ids)[0, -1]
    logits[MASK] = -torch.inf
    expected = math.exp(-float(logits.log_softmax(-1)[5]))
    for batch in (1, 3):
        found = diffusion_perplexity(denoiser, prompt, answer, mc_num=4, batch_size=batch)
        assert found == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_many_maskings_approach_the_mean_over_all_of_them() -> None:
    denoiser = denoiser_of()
    prompt, answer = ids_of(6)[0].tolist(), [5, 9, 11]
    by_count = []
    for count in (1, 2, 3):
        losses = []
        for places in itertools.combinations(range(3), count):
            ids = torch.tensor([prompt + [MASK if place in places else answer[place] for place in range(3)]])
            logits = denoiser(ids)[0, 6:]
            logits[:, MASK] = -torch.inf
            logprobs = logits.log_softmax(-1)
            losses.append(-sum(float(logprobs[place, answer[place]]) for place in places) / count)
        by_count.append(sum(losses) / len(losses))
    exact = sum(by_count) / 3
    for batch in (1, 3):
        found = diffusion_perplexity(denoiser, prompt, answer, mc_num=400 * batch, batch_size=batch, weighting="elbo")
        assert math.log(found) == pytest.approx(exact, rel=0.05)
    pooled = diffusion_perplexity(denoiser, prompt, answer, mc_num=1200, batch_size=3)
    weights = (1 / 6, 2 / 6, 3 / 6)
    assert math.log(pooled) == pytest.approx(sum(w * loss for w, loss in zip(weights, by_count, strict=True)), rel=0.05)
    same = [diffusion_perplexity(denoiser, prompt, answer, mc_num=9, weighting=kind) for kind in ("none", "elbo")]
    assert same[0] == pytest.approx(same[1])


@given(values=st.lists(st.floats(1, 1e4), min_size=1, max_size=20))
def test_running_perplexity_is_a_geometric_mean(values: list[float]) -> None:
    running = cumulative_perplexity(values)
    assert running[-1] ** len(values) == pytest.approx(math.prod(values), rel=1e-6)
    assert running[0] == pytest.approx(values[0])


class Uniform:
    """Knows nothing: every token is equally likely."""

    mask_token_id = 8
    eos_token_id = None

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []

    def __call__(self, ids: Tensor, visible: Tensor | None, start: int, end: int) -> Tensor:
        self.asked.append((ids.shape[1], start, end))
        assert not bool((ids[:, :start] == self.mask_token_id).any())
        return torch.zeros(*ids.shape[:1], end - start, 8)


def test_a_curve_reads_each_chunk_behind_what_stands_before_it() -> None:
    uniform = Uniform()
    curve = perplexity_curve(uniform, [1] * 70, chunk=16, mc_num=3, batch_size=3)
    assert [point.position for point in curve] == [32, 48, 64]
    assert uniform.asked == [(32, 16, 32), (48, 32, 48), (64, 48, 64)]
    assert all(point.chunk == pytest.approx(8) and point.running == pytest.approx(8) for point in curve)


@torch.no_grad()
def test_the_curve_of_an_autoregressive_model_is_its_running_loss() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=41,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).eval()
    ids = ids_of(40)
    losses = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none").tolist()
    curve = perplexity_curve(model, ids[0].tolist(), chunk=16)
    assert [point.position for point in curve] == [16, 32]
    assert curve[0].running == pytest.approx(math.exp(sum(losses[:15]) / 15), rel=1e-4)
    assert curve[1].running == pytest.approx(math.exp(sum(losses[:31]) / 31), rel=1e-4)
    assert curve[1].chunk == pytest.approx(math.exp(sum(losses[15:31]) / 16), rel=1e-4)


def test_a_masked_diffusion_model_is_recognised() -> None:
    ids = ids_of(48)[0].tolist()
    own, wrapped = (perplexity_curve(model, ids, chunk=16, seed=3) for model in (model_of(), denoiser_of()))
    assert own == wrapped
    assert [point.position for point in own] == [32, 48]
    assert own != perplexity_curve(model_of(), ids, chunk=16, seed=4)


def test_nonsense_is_refused() -> None:
    denoiser = denoiser_of()
    with pytest.raises(RequestError, match="at least one token"):
        diffusion_perplexity(denoiser, [3], [])
    with pytest.raises(RequestError, match="use none or elbo"):
        diffusion_perplexity(denoiser, [3], [4], weighting="all")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="at least two chunks"):
        perplexity_curve(denoiser, [3] * 100)
    with pytest.raises(RequestError, match="within 1 to 4"):
        likelihood_mask_counts(5, 1, 4)
