"""Expected attention: its closed form against drawn queries, what it needs from a model, and a model under it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from farspan.errors import LeverNotApplicable
from farspan.memory import ExpectedAttention, eviction_report
from farspan.memory.eviction import Turning, turning_of
from farspan.memory.expected_attention import expected_scores
from farspan.positions.rerotate import rotate_keys
from farspan.recipe import Recipe
from tests.attention.conftest import tiny_model
from tests.attention.test_any_model import tokens

DIM, KEYS, SEEN = 8, 12, 64


def drawn(interleaved: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Turning]:
    """Plain queries of 4 heads, the same rotated, keys and values of 2, and the rotation."""
    generator = torch.Generator().manual_seed(3)
    turning = Turning(torch.tensor([0.5, 0.1, 0.01, 0.001]), interleaved)
    mean = torch.randn(1, 4, 1, DIM, generator=generator)
    plain = mean + 0.4 * torch.randn(1, 4, SEEN, DIM, generator=generator)
    rotated = rotate_keys(plain, torch.arange(SEEN), turning.inv_freq, interleaved)
    keys = torch.randn(1, 2, KEYS, DIM, generator=generator)
    values = torch.randn(1, 2, KEYS, DIM, generator=generator)
    return plain, rotated, keys, values, turning


@pytest.mark.parametrize("interleaved", [False, True])
def test_is_the_mean_of_exponentials_over_normal_queries(interleaved: bool) -> None:
    plain, rotated, keys, values, turning = drawn(interleaved)
    valid = torch.ones(1, 1, KEYS, dtype=torch.bool)
    arguments = {"tokens": torch.tensor([[SEEN]]), "turning": turning, "valid": valid, "sinks": 0}
    found = expected_scores(rotated, keys, values, future=1, **arguments)  # type: ignore[arg-type]
    # queries at the next position, of the same mean and covariance, as many as it takes
    mean = plain.double().mean(2, keepdim=True)
    apart = plain.double() - mean
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(1, 4, 200_000, SEEN, generator=generator, dtype=torch.float64) / SEEN**0.5
    queries = mean + weights @ apart
    queries = rotate_keys(queries.float(), torch.full((200_000,), SEEN), turning.inv_freq, interleaved)
    wide = keys.repeat_interleave(2, 1)
    mass = (queries @ wide.transpose(-1, -2) * DIM**-0.5).exp().mean(2)
    shares = (mass / mass.sum(-1, keepdim=True)).view(1, 2, 2, KEYS).mean(2)
    torch.testing.assert_close(found, shares * values.norm(dim=-1), rtol=0.03, atol=1e-4)


def test_fast_pairs_say_nothing_about_a_long_stretch() -> None:
    _, rotated, keys, values, turning = drawn(False)
    valid = torch.ones(1, 1, KEYS, dtype=torch.bool)
    arguments = {"tokens": torch.tensor([[SEEN]]), "valid": valid, "sinks": 0, "future": 20_000, "covariance": False}
    still = keys.clone()
    still[..., 0] += 1.0  # of the fastest pair
    other = Turning(turning.inv_freq, False)
    before = expected_scores(rotated, keys, values, turning=other, **arguments)  # type: ignore[arg-type]
    after = expected_scores(rotated, still, values, turning=other, **arguments)  # type: ignore[arg-type]
    torch.testing.assert_close(before, after, rtol=1e-2, atol=1e-4)


def test_sinks_are_the_first_tokens_and_padding_does_not_count() -> None:
    _, rotated, keys, values, turning = drawn(False)
    valid = torch.ones(1, 1, KEYS, dtype=torch.bool)
    valid[..., :3] = False
    arguments = {"tokens": torch.tensor([[SEEN]]), "turning": turning, "sinks": 2}
    last = rotated[:, :, -KEYS:]
    found = expected_scores(last, keys, values, valid=valid, **arguments)  # type: ignore[arg-type]
    assert (found == torch.inf).nonzero()[:, 2].tolist() == [3, 4, 3, 4]
    # the queries of padded places are gone with their keys
    shorter = (last[:, :, 3:], keys[:, :, 3:], values[:, :, 3:])
    cut = expected_scores(*shorter, valid=valid[..., 3:], **arguments)  # type: ignore[arg-type]
    torch.testing.assert_close(found[..., 3:], cut)


def test_the_rotation_is_that_of_the_model_as_it_is_now() -> None:
    model = tiny_model("llama")
    plain = turning_of(model).inv_freq.clone()
    with Recipe.parse("linear:factor=4")(model):
        torch.testing.assert_close(turning_of(model).inv_freq, plain / 4)
    with pytest.raises(LeverNotApplicable, match="last channels"):
        ExpectedAttention()(tiny_model("deepseek-v3"))


@torch.no_grad()
def test_a_model_generates_and_keeps_its_first_tokens() -> None:
    model, ids = tiny_model("llama"), tokens(1, 90)
    with ExpectedAttention(capacity=20, window=32, sinks=3)(model):
        out = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None, return_dict_in_generate=True)
        assert all(stats.dropped > 0 for stats in eviction_report(model))
    for layer in out.past_key_values.layers:
        assert bool((layer.slots[..., :3] == torch.arange(3)).all())
