"""Linear interpolation."""

from __future__ import annotations

import pytest
import torch

from farspan.errors import LeverNotApplicable
from farspan.positions import LinearInterpolation, get_rope, linear_vector
from tests.positions.conftest import config_of


def test_every_frequency_is_divided() -> None:
    config = config_of("llama")
    spec = LinearInterpolation(factor=3).plan(config)
    assert torch.equal(spec.inv_freq, get_rope(config).inv_freq / 3)
    assert spec.attention_factor == 1
    assert spec.native == {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 3.0}


def test_a_scale_below_one_is_refused() -> None:
    with pytest.raises(LeverNotApplicable, match=r"at least 1, not 0\.5"):
        linear_vector(torch.ones(4), 0.5)
