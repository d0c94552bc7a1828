"""SpargeAttn: self-similarity and the map made from it."""

from __future__ import annotations

import pytest
import torch

from farspan.attention import SpargeAttn, block_self_similarity
from farspan.attention.self_similarity import self_similar_blocks
from farspan.errors import RecipeError
from farspan.recipe import build_lever
from tests.attention.plans import random_inputs
from tests.attention.test_sink_window import context


def test_similarity_is_the_mean_of_all_cosines() -> None:
    rows, _, _ = random_inputs(2, 3, 3, 21, 21, 6)
    found = block_self_similarity(rows, 8)
    assert found.shape == (2, 3, 3)
    for block, (start, stop) in enumerate([(0, 8), (8, 16), (16, 21)]):
        some = rows[:, :, start:stop]
        cosines = torch.nn.functional.cosine_similarity(some[:, :, :, None], some[:, :, None], dim=-1)
        torch.testing.assert_close(found[..., block], cosines.mean((-1, -2)))
    same = torch.ones(1, 1, 16, 4)
    torch.testing.assert_close(block_self_similarity(same, 16), torch.ones(1, 1, 1))


def likeness(blocks: list[bool]) -> torch.Tensor:
    """Rows [1, 1, 8 * blocks, 16] whose blocks of 8 are alike or not."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(len(blocks), 1, 16, generator=generator).expand(-1, 8, -1)
    noise = torch.randn(len(blocks), 8, 16, generator=generator)
    alike = torch.tensor(blocks)[:, None, None]
    return torch.where(alike, base + 0.05 * noise, noise).reshape(1, 1, -1, 16)


def test_blocks_that_are_not_alike_are_read_and_read_everything() -> None:
    query, key = likeness([True, True, False, True]), likeness([True, False, True, True])
    blocks = self_similar_blocks(query, key, block_q=8, block_k=8, similarity=0.5, cdf=0.01)[0, 0]
    assert blocks[:, 1].tolist() == [False, True, True, True]
    assert blocks[2].tolist() == [True, True, True, False]
    # else one block that looks best
    assert int((blocks[3] & torch.tensor([True, False, True, True])).sum()) == 1


def test_at_most_the_mass_is_kept_but_one_block() -> None:
    query, key = likeness([True] * 8), likeness([True] * 8)
    counts = [
        int(self_similar_blocks(query, key, block_q=8, block_k=8, similarity=0.0, cdf=cdf).sum())
        for cdf in (1e-6, 0.5, 0.9, 0.999)
    ]
    assert counts[0] == 8
    assert counts == sorted(counts)
    assert counts[-1] < 36
    assert int(self_similar_blocks(query, key, block_q=8, block_k=8, similarity=0.0, cdf=1.0).sum()) == 36


def test_topk_counts_blocks_of_the_future() -> None:
    query, key = likeness([True] * 8), likeness([True] * 8)
    blocks = self_similar_blocks(query, key, block_q=8, block_k=8, similarity=0.0, topk=0.5)[0, 0]
    assert blocks.sum(-1).tolist() == [1, 2, 3, 4, 4, 4, 4, 4]


def test_the_sink_block_is_read_where_asked() -> None:
    query, key = likeness([True] * 8), likeness([True] * 8)
    blocks = self_similar_blocks(query, key, block_q=8, block_k=8, similarity=0.0, cdf=1e-6, sink=True)
    assert blocks[..., 0].all()


def test_one_block_is_left_to_dense_attention() -> None:
    query, key, _ = random_inputs(1, 2, 2, 100, 100, 8)
    assert SpargeAttn(block_size=128).select(query, key, context(100, 100)) is None


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [({"cdf": 0.0}, "cdf"), ({"topk": 1.5}, "topk"), ({"key_block_size": 20}, "key_block_size")],
)
def test_bad_settings_are_named(given_settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_lever("spargeattn", given_settings)
