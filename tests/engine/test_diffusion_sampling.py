"""The sampler: schedules, the order of blocks, batches and padding, early stops, and the cached variant."""

from __future__ import annotations

import itertools
import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from farspan.engine import DiffusionConfig, ModelDenoiser, RequestError, generate_masked_diffusion, num_transfer_tokens
from tests.diffusion_models import ids_of, model_of

MASK, END = 40, 0


class Watched:
    """Passes calls on and keeps what it was shown; logits of the end token can be raised."""

    def __init__(self, denoiser: ModelDenoiser, end_bias: float = 0.0) -> None:
        self.denoiser = denoiser
        self.mask_token_id = denoiser.mask_token_id
        self.eos_token_id = denoiser.eos_token_id
        self.end_bias = end_bias
        self.seen: list[Tensor] = []
        self.spans: list[tuple[int, int]] = []

    def __call__(self, ids: Tensor, visible: Tensor | None, start: int, end: int) -> Tensor:
        self.seen.append(ids.clone())
        self.spans.append((start, end))
        logits = self.denoiser(ids, visible, start, end)
        logits[..., END] += self.end_bias
        return logits


def denoiser_of(layers: int = 2) -> ModelDenoiser:
    return ModelDenoiser(model_of(layers))


@given(counts=st.lists(st.integers(0, 200), min_size=1, max_size=5), steps=st.integers(1, 40))
def test_schedules_are_even_and_complete(counts: list[int], steps: int) -> None:
    schedule = num_transfer_tokens(torch.tensor(counts), steps)
    assert schedule.sum(1).tolist() == counts
    assert bool((schedule.diff(dim=1) <= 0).all())
    assert bool((schedule.amax(1) - schedule.amin(1) <= 1).all())


@given(steps=st.integers(1, 200), length=st.integers(1, 100), block=st.integers(1, 40))
def test_every_block_gets_its_share_of_steps(steps: int, length: int, block: int) -> None:
    config = DiffusionConfig(steps=steps, gen_length=length, block_length=block)
    shares = config.block_steps()
    assert len(shares) == config.blocks == -(-length // block)
    assert sum(shares) == max(config.blocks, min(steps, config.blocks * block))
    assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize(("steps", "length", "block"), [(8, 16, 8), (6, 12, 4), (7, 12, 4), (16, 16, 1), (40, 10, 4)])
def test_tokens_are_filled_in_on_schedule_block_by_block(steps: int, length: int, block: int) -> None:
    watched = Watched(denoiser_of())
    config = DiffusionConfig(steps=steps, gen_length=length, block_length=block, early_stop=False)
    prompt = ids_of(5, batch=2)
    out = generate_masked_diffusion(watched, prompt, config)
    total = config.blocks * block
    assert out.shape == (2, 5 + total)
    assert torch.equal(out[:, :5], prompt)
    assert not bool((out == MASK).any())
    assert len(watched.seen) == sum(config.block_steps())
    states = [*watched.seen, out]
    expected = [
        count
        for share in config.block_steps()
        for count in num_transfer_tokens(torch.tensor([block]), share)[0].tolist()
    ]
    for before, after, count, (start, end) in zip(states, states[1:], expected, watched.spans, strict=False):
        known = before != MASK
        assert torch.equal(before[known], after[known])
        assert (after != MASK).sum(1).tolist() == ((before != MASK).sum(1) + count).tolist()
        assert not bool((before[:, :start] == MASK).any())
        assert bool((after[:, end:] == MASK).all())


def test_one_token_a_block_goes_from_left_to_right() -> None:
    watched = Watched(denoiser_of())
    generate_masked_diffusion(
        watched, ids_of(3), DiffusionConfig(steps=6, gen_length=6, block_length=1, early_stop=False)
    )
    assert [int((ids != MASK).sum()) for ids in watched.seen] == [3, 4, 5, 6, 7, 8]
    assert all(bool((ids[0, : 3 + step] != MASK).all()) for step, ids in enumerate(watched.seen))


@pytest.mark.parametrize("cfg", [0.0, 1.5])
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_padded_batch_equals_its_rows_alone(cfg: float, cached: bool, temperature: float) -> None:
    denoiser = denoiser_of()
    long, short = ids_of(9, seed=1), ids_of(5, seed=2)
    padded = torch.cat([long, torch.cat([torch.full((1, 4), 1), short], dim=1)])
    mask = torch.ones_like(padded)
    mask[1, :4] = 0

    def run(ids: Tensor, mask: Tensor | None, seed: int) -> Tensor:
        config = DiffusionConfig(
            steps=6,
            gen_length=12,
            block_length=6,
            cfg_scale=cfg,
            temperature=temperature,
            seed=seed,
            cache_prefix=cached,
        )
        return generate_masked_diffusion(denoiser, ids, config, mask)

    both = run(padded, mask, 5)
    assert torch.equal(both[:1], run(long, None, 5))
    assert torch.equal(both[1:, 4:], run(short, None, 6))
    assert torch.equal(both, run(padded, mask, 5))


@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
def test_seeds_decide_the_noise(remasking: str) -> None:
    denoiser = denoiser_of()

    def run(seed: int) -> list[int]:
        config = DiffusionConfig(
            steps=4,
            gen_length=16,
            block_length=16,
            temperature=1.0,
            seed=seed,
            remasking=remasking,  # type: ignore[arg-type]
        )
        return generate_masked_diffusion(denoiser, ids_of(4), config)[0].tolist()

    assert run(1) == run(1) != run(2)


def test_an_early_stop_gives_the_same_text_for_fewer_forwards() -> None:
    texts, forwards = [], []
    for early in (True, False):
        watched = Watched(denoiser_of(), end_bias=1.0)
        out = generate_masked_diffusion(
            watched,
            ids_of(6, batch=6),
            DiffusionConfig(steps=16, gen_length=32, block_length=4, early_stop=early, seed=0),
        )
        rows = out[:, 6:].tolist()
        assert all(END in row for row in rows)
        texts.append([row[: row.index(END)] for row in rows])
        forwards.append(sum(len(ids) for ids in watched.seen))
        if early:
            assert all(set(row[row.index(END) // 4 * 4 + 4 :]) <= {END} for row in rows)
    assert texts[0] == texts[1]
    assert forwards[0] < forwards[1]


def test_a_threshold_fills_in_all_sure_tokens_and_one_at_least() -> None:
    prompt = ids_of(4)
    config = DiffusionConfig(steps=1, gen_length=8, block_length=8, early_stop=False)
    watched = Watched(denoiser_of())
    one_by_one = generate_masked_diffusion(watched, prompt, DiffusionConfig(8, 8, 8, confidence_threshold=1.0))
    assert len(watched.seen) == 8
    plain = generate_masked_diffusion(denoiser_of(), prompt, DiffusionConfig(8, 8, 8, early_stop=False))
    assert torch.equal(one_by_one, plain)
    watched = Watched(denoiser_of())
    at_once = generate_masked_diffusion(watched, prompt, DiffusionConfig(8, 8, 8, confidence_threshold=1e-9))
    assert len(watched.seen) == 1
    assert torch.equal(at_once, generate_masked_diffusion(denoiser_of(), prompt, config))


def test_the_cached_variant_equals_the_reference_where_nothing_can_be_stale() -> None:
    prompt = ids_of(20, batch=3)
    for layers, steps in ((1, 16), (2, 2), (3, 2)):
        plain, cached = (
            generate_masked_diffusion(
                denoiser_of(layers),
                prompt,
                DiffusionConfig(steps=steps, gen_length=16, block_length=8, cache_prefix=cache, early_stop=False),
            )
            for cache in (False, True)
        )
        # One layer: a token's keys depend on that token alone. One step a block: everything is read anew.
        assert torch.equal(plain, cached), (layers, steps)


def test_the_cached_variant_reads_the_prefix_once_a_block() -> None:
    denoiser = denoiser_of(3)
    widths: list[int] = []
    denoiser.model.get_input_embeddings().register_forward_hook(lambda _, given, __: widths.append(given[0].shape[1]))
    config = DiffusionConfig(steps=8, gen_length=16, block_length=8, cache_prefix=True, early_stop=False)
    cached = generate_masked_diffusion(denoiser, ids_of(30), config)
    assert widths == [46, 16, 16, 16, 46, 8, 8, 8]
    plain = generate_masked_diffusion(denoiser_of(3), ids_of(30), DiffusionConfig(8, 16, 8, early_stop=False))
    # The first step of the first block is exact, so the surest tokens agree; later ones may differ.
    assert int((cached == plain)[0, 30:38].sum()) >= 2


def test_the_mask_is_never_an_answer() -> None:
    denoiser = denoiser_of()
    with torch.no_grad():
        denoiser.model.lm_head.weight[MASK] = 50 * denoiser.model.lm_head.weight[:5].sum(0)
    for threshold, cached in itertools.product((None, 0.9), (False, True)):
        config = DiffusionConfig(4, 8, 4, confidence_threshold=threshold, cache_prefix=cached)
        assert MASK not in generate_masked_diffusion(denoiser, ids_of(4), config)


def test_masks_in_a_prompt_stay() -> None:
    prompt = ids_of(6)
    prompt[0, 2] = MASK
    out = generate_masked_diffusion(denoiser_of(), prompt, DiffusionConfig(4, 4, 4))
    assert torch.equal(out[:, :6], prompt)
    assert MASK not in out[:, 6:]


def test_too_few_steps_are_raised_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert DiffusionConfig(steps=2, gen_length=12, block_length=3).block_steps() == [1, 1, 1, 1]
    assert "steps raised from 2 to 4" in caplog.text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gen_length": 0}, "gen_length is 0"),
        ({"block_length": 0}, "block_length is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"temperature": -1}, "temperature is -1"),
        ({"cfg_scale": -0.5}, "cfg_scale"),
        ({"remasking": "best"}, "use low_confidence or random"),
        ({"confidence_threshold": 1.5}, "confidence_threshold"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        DiffusionConfig(**settings)  # type: ignore[arg-type]


def test_a_cache_needs_a_denoiser_that_keeps_one() -> None:
    with pytest.raises(RequestError, match="cache_prefix needs"):
        generate_masked_diffusion(Watched(denoiser_of()), ids_of(4), DiffusionConfig(cache_prefix=True))
    with pytest.raises(RequestError, match="steps is 0"):
        num_transfer_tokens(torch.tensor([3]), 0)
