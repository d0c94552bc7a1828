"""A new base by hand."""

from __future__ import annotations

import pytest
import torch

from farspan.errors import RecipeError
from farspan.positions import ThetaRebase
from farspan.positions.rope import default_inv_freq
from farspan.recipe import build_lever
from tests.positions.conftest import config_of


def test_frequencies_have_the_new_base() -> None:
    spec = ThetaRebase(factor=4, rope_theta=1e6).plan(config_of("llama"))
    torch.testing.assert_close(spec.inv_freq, default_inv_freq(1e6, 16))
    assert spec.native == {"rope_type": "default", "rope_theta": 1e6}


@pytest.mark.parametrize("theta", [1.0, -5, float("inf")])
def test_bad_bases_are_refused(theta: float) -> None:
    with pytest.raises(RecipeError, match="rope_theta"):
        build_lever("theta", {"factor": 4, "rope_theta": theta})
