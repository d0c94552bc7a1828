from __future__ import annotations

import numpy as np
import pytest

from farspan.evals.adaptive import AdaptiveLength, Block
from farspan.evals.effective import EffectiveLengthError, ScoreRecord, effective_length

LENGTHS = [1024, 4096, 16384, 65536]


def answer(block: Block, middle: float, slope: float = 2.0, seed: int = 0) -> list[ScoreRecord]:
    """Answers of a model whose score falls like a logistic; a sample's answer depends on the sample alone."""
    chance = 1 / (1 + np.exp(slope * (np.log2(block.length) - middle)))
    draws = [
        np.random.default_rng([seed, block.length, index]).random()
        for index in range(block.first, block.first + block.samples)
    ]
    return [
        ScoreRecord(block.length, float(draw < chance), sample_id=f"{block.length}/{block.first + i}")
        for i, draw in enumerate(draws)
    ]


def run(search: AdaptiveLength, middle: float, seed: int = 0) -> list[Block]:
    """Everything the search asks for."""
    blocks = []
    while (block := search.ask()) is not None:
        blocks.append(block)
        search.tell(answer(block, middle, seed=seed))
        assert len(blocks) < 500
    return blocks


def test_coarse_lengths_come_first_and_the_shortest_is_run_fully() -> None:
    search = AdaptiveLength(LENGTHS, 0.75, full=24)
    blocks = run(search, 13.0)
    assert blocks[:4] == [Block(length, 0, 8) for length in LENGTHS]
    assert blocks[4:6] == [Block(1024, 8, 8), Block(1024, 16, 8)]


def test_samples_are_handed_out_once_and_in_order() -> None:
    blocks = run(AdaptiveLength(LENGTHS, 0.75), 13.0)
    ends: dict[int, int] = {}
    for block in blocks:
        assert block.first == ends.get(block.length, 0)
        ends[block.length] = block.first + block.samples
    assert max(ends.values()) <= 64


def test_the_length_is_found_closely_with_fewer_tokens_than_a_grid() -> None:
    errors, shares = [], []
    for seed in range(12):
        search = AdaptiveLength(LENGTHS, 0.75, seed=seed)
        run(search, 13.0, seed)
        true = 2 ** (13.0 + np.log(1 / 3) / 2.0)
        found = search.result()
        errors.append(abs(np.log2(found.value / true)))
        grid = [round(1024 * 2 ** (k / 2)) for k in range(13)]
        shares.append(search.tokens / sum(64 * length for length in grid))
    assert np.median(errors) < 0.3
    assert np.mean(shares) < 0.6


def test_the_search_stops_when_the_interval_is_narrow() -> None:
    search = AdaptiveLength(LENGTHS, 0.75, full=400, ratio=1.6)
    run(search, 13.0)
    found = search.result()
    assert found.hi <= 1.6 * found.lo


def test_a_budget_of_tokens_is_kept() -> None:
    search = AdaptiveLength(LENGTHS, 0.75, token_budget=800_000)
    run(search, 13.0)
    assert search.tokens <= 800_000
    assert search.result() == effective_length(search.records, 0.75)


@pytest.mark.parametrize(("middle", "censoring"), [(30.0, "right"), (2.0, "left")])
def test_models_that_never_or_always_fail_end_the_search(middle: float, censoring: str) -> None:
    search = AdaptiveLength(LENGTHS, 0.75, full=16)
    run(search, middle)
    assert search.result().censoring == censoring


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(EffectiveLengthError, match="at least two"):
        AdaptiveLength([1024], 0.75)
    with pytest.raises(EffectiveLengthError, match="ratio > 1"):
        AdaptiveLength(LENGTHS, 0.75, ratio=1.0)
