"""E2-LLM: scales and offsets drawn in training, and one model at every factor."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import DynamicCache

from farspan.errors import LeverNotApplicable, RecipeError
from farspan.positions import (
    E2LLM,
    ScaleOffsetAugment,
    drawn_positions,
    e2_inference_scale,
    e2_positions,
    get_rope,
    plan_rope,
)
from farspan.positions.apply import rotary_modules
from farspan.positions.drawn import own_inv_freq
from farspan.positions.e2llm import ScaleOffsetDraw, e2_max_offset
from farspan.recipe import build_lever
from tests.positions.conftest import CONFIGS, WINDOW, ids_of, logits_of, model_of
from tests.positions.test_rerotate import one_layer


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The draws


def test_scales_and_offsets_are_uniform() -> None:
    augment = ScaleOffsetAugment(original_length=64, max_factor=10)
    g, t = augment.draw(torch.full((20_000,), 64), seeded())
    assert chisquare(g.bincount(minlength=11)[1:].numpy()).pvalue > 1e-3
    for scale in (2, 10):
        room = e2_max_offset(64, 64, scale)
        offsets = t[g == scale, 0]
        counts = torch.histc(offsets.double(), bins=8, min=0, max=room + 1)
        assert chisquare(counts.numpy()).pvalue > 1e-3
        assert offsets.min() == 0
        assert offsets.max() <= room
    assert not t[g == 1].any()


@pytest.mark.parametrize(
    ("sampling", "wanted"),
    [
        ("log-uniform", {1: 1 / 3, 2: 0.195, 7: 0.0642}),
        ((0.0, 1.0, 3.0), {1: 0.0, 2: 0.25, 3: 0.75}),
    ],
)
def test_scales_can_be_weighted(sampling: str | tuple[float, ...], wanted: dict[int, float]) -> None:
    augment = ScaleOffsetAugment(original_length=64, max_factor=7, scale_sampling=sampling)  # type: ignore[arg-type]
    g, _ = augment.draw(torch.full((20_000,), 64), seeded())
    shares = g.bincount(minlength=8) / len(g)
    for scale, share in wanted.items():
        assert float(shares[scale]) == pytest.approx(share, abs=0.012)


@given(
    window=st.integers(4, 64),
    length=st.integers(1, 200),
    largest=st.integers(1, 20),
    sinks=st.integers(0, 6),
    seed=st.integers(0, 2**31),
)
def test_positions_stay_in_the_window_the_model_knows(
    window: int, length: int, largest: int, sinks: int, seed: int
) -> None:
    augment = ScaleOffsetAugment(original_length=window, max_factor=largest, min_factor=1)
    g, t = augment.draw(torch.full((3,), length), seeded(seed))
    positions = e2_positions(length, g, t[:, 0], sinks)
    assert positions.shape == (3, length)
    for scale, offset, row in zip(g.tolist(), t[:, 0].tolist(), positions, strict=True):
        if scale * window >= length:
            assert row[-1] < window
        else:
            assert offset == 0
        assert torch.equal(row[:sinks], (torch.arange(length)[:sinks].double() / scale).float())
        # Distances between tokens that are not sinks are those of plain interpolation, wherever the row stands.
        torch.testing.assert_close(
            row[sinks:].diff(), torch.full((max(0, length - sinks - 1),), 1 / scale), atol=1e-4, rtol=0
        )


def test_documents_longer_than_the_window_get_scales_that_hold_them() -> None:
    lengths = torch.tensor([64, 65, 200])
    g, _ = ScaleOffsetAugment(original_length=64, max_factor=8).draw(lengths.repeat(500), seeded())
    smallest = g.reshape(500, 3).min(0).values
    assert smallest.tolist() == [1, 2, 4]
    with pytest.raises(LeverNotApplicable, match="no weight to scales that a document of 200 tokens needs"):
        ScaleOffsetAugment(64, 8, scale_sampling=(1.0, 1.0)).draw(lengths, seeded())


def test_chunks_have_rising_offsets_and_replay_is_plain() -> None:
    lengths = torch.full((4000,), 64)
    g, t = ScaleOffsetAugment(64, 8, num_chunks=3, replay=0.25).draw(lengths, seeded())
    assert t.shape == (4000, 3)
    assert bool((t.diff(dim=-1) >= 0).all())
    plain = (g == 1) & (t == 0).all(-1)
    assert float(plain.float().mean()) == pytest.approx(0.25 + 0.75 / 8, abs=0.03)


@given(st.integers(1, 10_000))
def test_inference_scale_covers_the_length(length: int) -> None:
    scale = e2_inference_scale(length, 64)
    assert scale == max(1, -(-length // 64))
    assert e2_inference_scale(length, 64, integer=False) == max(1, length / 64)
    assert e2_inference_scale(length, 64, 20) <= 20


# Training passes


@pytest.mark.parametrize("architecture", CONFIGS)
def test_scale_one_without_room_is_the_model_itself(architecture: str) -> None:
    model, ids = model_of(architecture), ids_of(WINDOW, batch=2)
    before = logits_of(model, ids)
    model.train()
    with E2LLM(factor=1.5, max_factor=1)(model):
        assert torch.equal(logits_of(model, ids), before)
    with E2LLM(factor=4)(model):
        assert not torch.allclose(logits_of(model, ids), before, atol=1e-3)


def test_angles_in_training_are_those_of_the_divided_positions() -> None:
    model = model_of("llama").train()
    own = own_inv_freq(model)
    lever = E2LLM(factor=4, max_factor=8, num_sink_tokens=3)
    draw = lever.draw(model)
    drawn = draw(torch.arange(WINDOW)[None], 6, seeded(1))
    g, t = draw.augment.draw(torch.full((6,), WINDOW), seeded(1))
    assert len(set(g.tolist())) > 1
    angles = drawn.positions[..., None] * drawn.inv_freq
    wanted = e2_positions(WINDOW, g, t[:, 0], 3)[..., None] * own
    torch.testing.assert_close(angles, wanted, rtol=1e-6, atol=1e-6)


def test_rows_of_a_batch_equal_rows_alone_and_shifted_linear_positions() -> None:
    model, ids = model_of("llama").train(), ids_of(WINDOW, batch=3)
    lever = E2LLM(factor=4, max_factor=8)
    with lever(model):
        together = logits_of(model, ids)
    draw = lever.draw(model)
    drawn = draw(torch.arange(WINDOW)[None], 3, torch.Generator().manual_seed(_first_seed()))
    mask = torch.ones(1, 1, WINDOW, WINDOW).tril().bool()
    for row in range(3):
        one = type(drawn)(drawn.positions[row : row + 1], drawn.inv_freq[row : row + 1], drawn.attention_factor[row])  # type: ignore[index]
        with drawn_positions(model, lambda position_ids, batch, generator, one=one: one):  # type: ignore[misc]
            torch.testing.assert_close(logits_of(model, ids[row : row + 1])[0], together[row], rtol=0, atol=1e-5)
        scale = float(own_inv_freq(model)[0] / drawn.inv_freq[row, 0, 0])
        if scale < 1.5:
            continue
        model.eval()
        with build_lever("linear", {"factor": round(scale)})(model), torch.no_grad():
            shifted = drawn.positions[row : row + 1].long()
            plain = model(ids[row : row + 1], attention_mask=mask, position_ids=shifted, use_cache=False).logits
        model.train()
        torch.testing.assert_close(plain[0], together[row], rtol=0, atol=1e-5)


def _first_seed() -> int:
    from farspan.positions.drawn import pass_seed

    return pass_seed(0, 0, 0, 0)


def test_packed_documents_are_drawn_apart() -> None:
    model = model_of("llama")
    places = torch.cat([torch.arange(20), torch.arange(30), torch.arange(14)])[None].repeat(2, 1)
    drawn = E2LLM(factor=4, max_factor=20).draw(model)(places, 2, seeded(2))
    assert drawn.inv_freq.shape == (2, WINDOW, 8)
    scales = (own_inv_freq(model)[0] / drawn.inv_freq[..., 0]).round()
    ends = (0, 20, 50, 64)
    documents = [(row, slice(*pair)) for row in range(2) for pair in pairwise(ends)]
    assert len({float(scales[row, part][0]) for row, part in documents}) > 3
    for row, part in documents:
        assert len(scales[row, part].unique()) == 1
        length = part.stop - part.start
        assert torch.equal(drawn.positions[row, part][:4], torch.arange(4.0))
        assert bool((drawn.positions[row, part][4:].diff() == 1).all())
        assert drawn.positions[row, part][-1] < scales[row, part][0] * WINDOW or length > WINDOW


def test_one_draw_a_batch_where_asked() -> None:
    model = model_of("llama")
    drawn = E2LLM(factor=4, per="batch").draw(model)(torch.arange(WINDOW)[None], 5, seeded(0))
    assert drawn.positions.shape == (1, WINDOW)
    assert drawn.inv_freq.shape == (1, 1, 8)


def test_other_families_change_frequencies_as_their_levers_do() -> None:
    model = model_of("llama")
    lever = E2LLM(factor=4, max_factor=4, family="yarn")
    draw = lever.draw(model)
    wanted = plan_rope(model.config, "yarn", 4 * WINDOW)
    torch.testing.assert_close(draw.inv_freq[3].double(), wanted.inv_freq, rtol=1e-6, atol=0)
    assert float(draw.attention[3]) == pytest.approx(wanted.attention_factor)
    assert torch.equal(draw.inv_freq[0], own_inv_freq(model))
    ids = ids_of(3 * WINDOW)
    with build_lever("yarn", {"factor": 4})(model):
        stretched = logits_of(model, ids)
    with lever(model):
        assert torch.equal(logits_of(model, ids), stretched)


# Serving


@pytest.mark.parametrize("factor", [2, 3.5, 8])
def test_in_evaluation_it_is_linear_interpolation_at_the_factor(factor: float) -> None:
    model, ids = model_of("llama"), ids_of(2 * WINDOW)
    with build_lever("linear", {"factor": factor})(model):
        linear = logits_of(model, ids)
    with E2LLM(factor=factor)(model):
        assert torch.equal(logits_of(model, ids), linear)
    baked = model_of("llama")
    E2LLM(factor=factor).bake(baked)
    assert torch.equal(logits_of(baked, ids), linear)


def test_generating_runs_at_two_factors_on_the_same_weights() -> None:
    model, prompt = model_of("llama"), ids_of(WINDOW - 4)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for factor in (2, 4):
        with E2LLM(factor=factor)(model):
            text = model.generate(prompt, max_new_tokens=8, do_sample=False)
            again = logits_of(model, text[:, :-1])[:, -8:].argmax(-1)
        assert torch.equal(again, text[:, -8:])
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_automatic_scales_follow_the_length_up_to_the_factor() -> None:
    model, lever = model_of("llama"), E2LLM(factor=3, automatic=True)
    short = ids_of(WINDOW)
    unchanged = logits_of(model, short)
    own = own_inv_freq(model)
    with lever(model):
        assert torch.equal(logits_of(model, short), unchanged)
        ((_, _, rotary),) = rotary_modules(model, model.config)
        for length, scale in ((WINDOW + 1, 2), (3 * WINDOW, 3), (5 * WINDOW, 3), (WINDOW, 1)):
            logits_of(model, ids_of(length))
            torch.testing.assert_close(rotary.inv_freq, own / scale, rtol=1e-6, atol=0)


@pytest.mark.parametrize("family", ["linear", "yarn"])
def test_cached_keys_follow_an_automatic_scale_in_one_layer(family: str) -> None:
    model, ids = one_layer("llama"), ids_of(WINDOW + 3, batch=2)
    lever = E2LLM.model_validate({"factor": 4, "automatic": True, "family": family})
    with lever(model), torch.no_grad():
        cache = DynamicCache(config=model.config)
        model(input_ids=ids[:, : WINDOW - 2], past_key_values=cache)
        for position in range(WINDOW - 2, WINDOW + 3):
            step = model(input_ids=ids[:, position : position + 1], past_key_values=cache).logits[:, -1]
            again = model(input_ids=ids[:, : position + 1], use_cache=False).logits[:, -1]
            torch.testing.assert_close(step, again, rtol=0, atol=1e-4)


# What is said and refused


def test_factors_far_beyond_the_trained_ones_are_warned_of() -> None:
    model = model_of("llama")
    with pytest.warns(UserWarning, match="factor 7 is far above the largest one drawn in training"):
        E2LLM(factor=7, max_factor=4).plan(model.config)


def test_rows_of_sinks_alone_are_warned_of() -> None:
    draw = ScaleOffsetDraw(ScaleOffsetAugment(64), [(torch.ones(2), 1.0)] * 20, num_sink_tokens=8, per="sample")
    with pytest.warns(UserWarning, match="offsets have no effect"):
        draw(torch.arange(8)[None], 1, seeded())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"factor": 2, "max_factor": 0}, "max_factor"),
        ({"factor": 2, "max_factor": 4, "min_factor": 5}, "must not be above max_factor 4"),
        ({"factor": 2, "scale_sampling": [-1.0, 2.0]}, "not negative"),
        ({"factor": 2, "scale_sampling": [0.0]}, "not all 0"),
        ({"factor": 2, "family": "alibi"}, "family"),
        ({"factor": 2, "replay": 1.0}, "replay"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        build_lever("e2", settings)


def test_automatic_scales_need_a_model_whose_keys_can_follow() -> None:
    config = model_of("llama").config
    config.rope_parameters = {**config.rope_parameters, "mrope_section": [2, 3, 3]}
    assert get_rope(config).carried
    with pytest.raises(LeverNotApplicable, match="leave automatic out"):
        E2LLM(factor=4, automatic=True).check(config)
