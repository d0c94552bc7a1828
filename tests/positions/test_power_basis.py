"""The power basis."""

from __future__ import annotations

import pytest
import torch

from farspan.errors import LeverNotApplicable, RecipeError
from farspan.positions import PowerBasis, get_rope, power_vector
from farspan.recipe import build_lever
from tests.positions.conftest import config_of


def test_slow_pairs_shrink_most() -> None:
    config = config_of("llama")
    own, new = get_rope(config).inv_freq, PowerBasis(factor=4, power=0.5).plan(config).inv_freq
    assert float(new[0]) == float(own[0])
    torch.testing.assert_close(new / own, torch.sqrt(1 - torch.arange(8).double() / 8))


def test_no_power_is_identity_and_scale_comes_first() -> None:
    own = get_rope(config_of("llama")).inv_freq
    assert torch.equal(power_vector(own, 0.0), own)
    torch.testing.assert_close(PowerBasis(factor=4, power=0, scale=2).plan(config_of("llama")).inv_freq, own / 2)


def test_negative_powers_are_refused() -> None:
    with pytest.raises(LeverNotApplicable, match="at least 0, not -1"):
        power_vector(torch.ones(4), -1)
    with pytest.raises(RecipeError, match="power"):
        build_lever("power-basis", {"factor": 4, "power": -0.1})
