"""FlexPrefill: budgets, the choice between lines and blocks."""

from __future__ import annotations

import pytest
import torch

from farspan.attention import FlexPrefill
from farspan.attention.query_aware import entries_for, query_aware_blocks, root_js_divergence
from farspan.errors import RecipeError
from farspan.recipe import build_lever
from tests.attention.plans import random_inputs
from tests.attention.test_selectors import stripes
from tests.attention.test_sink_window import context


def test_entries_include_the_one_that_crosses() -> None:
    mass = torch.tensor([[0.1, 0.5, 0.4], [0.2, 0.3, 0.5]])
    assert entries_for(mass, 0.45).tolist() == [1, 1]
    assert entries_for(mass, 0.6).tolist() == [2, 2]
    assert entries_for(mass, 2.0).tolist() == [3, 3]


def test_divergence_of_equal_and_disjoint_distributions() -> None:
    first = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    second = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.3, 0.7]])
    torch.testing.assert_close(root_js_divergence(first, second), torch.tensor([0.0, torch.tensor(2.0).log().sqrt()]))


def test_first_column_block_and_diagonal_are_kept_and_budgets_bind() -> None:
    query, key, _ = random_inputs(1, 4, 2, 640, 640, 8)
    for least, most in ((1, 1), (3, 3)):
        keep, _ = query_aware_blocks(query, key, block_size=32, gamma=0.9, tau=0.0, min_blocks=least, max_blocks=most)
        assert keep[..., 0].all()
        assert keep.diagonal(dim1=-2, dim2=-1).all()
        # a row holds at most so many columns and so many distances
        assert int(keep.sum(-1).max()) <= 2 * most
    wide, _ = query_aware_blocks(query, key, block_size=32, gamma=0.9, tau=0.0, min_blocks=3)
    assert int(wide.sum()) >= int(keep.sum())


def test_a_head_whose_means_predict_it_is_query_aware() -> None:
    generator = torch.Generator().manual_seed(0)
    topics = 4.0 * torch.nn.functional.normalize(torch.randn(20, 64, generator=generator), dim=-1)
    block = torch.arange(640) // 32
    # all tokens of a block are alike, and ask for the block of the same topic four before
    key = topics[block % 20] + 0.05 * torch.randn(640, 64, generator=generator)
    query = topics[(block - 4) % 20] + 0.05 * torch.randn(640, 64, generator=generator)
    alike = (3.0 * query[None, None], key[None, None])
    line = stripes(224)
    for (some_query, some_key), expected in ((alike, True), (line, False)):
        keep, aware = query_aware_blocks(some_query, some_key, block_size=32, gamma=0.9, tau=0.1, min_blocks=1)
        assert aware.tolist() == [[expected]]
        if expected:
            rows = torch.arange(4, 20)
            assert keep[0, 0, rows, rows - 4].all()


def test_short_inputs_are_left_to_dense_attention() -> None:
    query, key, _ = random_inputs(1, 2, 2, 128, 128, 8)
    assert FlexPrefill(block_size=16, min_budget=128).select(query, key, context(128, 128)) is None
    assert FlexPrefill(block_size=64, min_budget=1).select(query, key, context(128, 128)) is None
    call = context(128, 128)
    assert FlexPrefill(block_size=16, min_budget=16).select(query, key, call) is not None
    assert call.figures["query_aware"].shape == (2,)


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [({"gamma": 0.0}, "gamma"), ({"tau": -1}, "tau"), ({"min_budget": 0}, "min_budget"), ({"max_budget": 0}, "max_b")],
)
def test_bad_settings_are_named(given_settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_lever("flexprefill", given_settings)
