"""YaRN, compared with its formula written out here."""

from __future__ import annotations

import math

import pytest
import torch

from farspan.errors import RecipeError
from farspan.positions import Yarn, get_rope
from farspan.recipe import build_lever
from tests.positions.conftest import WINDOW, config_of


@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize(("fast", "slow"), [(32.0, 1.0), (4.0, 0.5)])
def test_the_ramp(fast: float, slow: float, truncate: bool) -> None:
    config = config_of("llama")
    rope = get_rope(config)
    spec = Yarn(factor=4, beta_fast=fast, beta_slow=slow, truncate=truncate).plan(config)
    dim = rope.rotary_dim

    def pair_of(turns: float) -> float:
        return dim * math.log(WINDOW / (2 * math.pi * turns)) / (2 * math.log(rope.rope_theta))

    low, high = pair_of(fast), pair_of(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    share = ((torch.arange(dim // 2, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
    wanted = rope.inv_freq * (1 - share) + rope.inv_freq / 4 * share
    torch.testing.assert_close(spec.inv_freq, wanted, rtol=1e-6, atol=0)
    assert spec.attention_factor == pytest.approx(0.1 * math.log(4) + 1)
    assert "attention_factor" not in (spec.native or {})


def test_attention_factors_of_ones_own() -> None:
    config = config_of("llama")
    assert Yarn(factor=4, attention_factor=1.0).plan(config).attention_factor == 1
    ratio = (0.1 * 0.7 * math.log(4) + 1) / (0.1 * math.log(4) + 1)
    assert Yarn(factor=4, mscale=0.7, mscale_all_dim=1.0).plan(config).attention_factor == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta_fast": 1, "beta_slow": 2}, "beta_fast must not be below beta_slow"),
        ({"mscale": 1.0}, "given together"),
        ({"beta_slow": 0}, "beta_slow"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_lever("yarn", {"factor": 4, **settings})
