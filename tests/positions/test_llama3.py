"""Llama-3 scaling, compared with its rule written out here."""

from __future__ import annotations

import math

import pytest
import torch

from farspan.errors import RecipeError
from farspan.positions import Llama3, get_rope
from farspan.recipe import build_lever
from tests.positions.conftest import config_of


def test_pairs_are_kept_blended_or_divided_by_their_turns() -> None:
    config = config_of("llama")
    rope, spec = get_rope(config), Llama3(factor=8).plan(config)
    for own, new, turns in zip(rope.inv_freq.tolist(), spec.inv_freq.tolist(), rope.turns().tolist(), strict=True):
        share = min(1.0, max(0.0, (turns - 1) / (4 - 1)))
        assert math.isclose(new, share * own + (1 - share) * own / 8, rel_tol=1e-5)
    assert spec.attention_factor == 1
    assert torch.equal(spec.inv_freq[:1], rope.inv_freq[:1])


def test_crossed_limits_are_refused() -> None:
    with pytest.raises(RecipeError, match="high_freq_factor must be above low_freq_factor"):
        build_lever("llama3", {"factor": 8, "high_freq_factor": 1, "low_freq_factor": 1})
