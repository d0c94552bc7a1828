"""The composed vector: order of its three steps."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from farspan.positions import giraffe_vector
from farspan.positions.rope import default_inv_freq


def test_nothing_is_identity() -> None:
    assert torch.equal(giraffe_vector(10_000, 64), default_inv_freq(10_000, 64))


@given(scale=st.floats(1, 32), power=st.floats(0, 2), truncate=st.sampled_from([0, 64, 2048]))
def test_frequencies_fall_except_for_the_fixed_band(scale: float, power: float, truncate: int) -> None:
    vector = giraffe_vector(10_000, 64, scale, power, truncate)
    assert bool((vector.diff() <= 0).all())
    assert float(vector[0]) <= 1 / scale + 1e-12


def test_the_cut_is_applied_to_divided_frequencies() -> None:
    whole, divided = giraffe_vector(10_000, 64, truncate=2048), giraffe_vector(10_000, 64, 16, truncate=2048)
    assert int((divided == 0).sum()) > int((whole == 0).sum())
