"""NTK-aware scaling."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from farspan.errors import LeverNotApplicable
from farspan.positions import NTKAware, ntk_aware
from farspan.positions.rope import default_inv_freq
from tests.positions.conftest import config_of


@given(factor=st.floats(1, 64), pairs=st.integers(2, 64), theta=st.floats(1e3, 1e7))
def test_the_fastest_pair_stays_and_the_slowest_is_divided_by_the_factor(
    factor: float, pairs: int, theta: float
) -> None:
    _, vector = ntk_aware(theta, 2 * pairs, factor)
    own = default_inv_freq(theta, 2 * pairs)
    assert float(vector[0]) == 1
    assert float(own[-1] / vector[-1]) == pytest.approx(factor)
    assert bool(((own / vector).diff() >= -1e-9).all())


def test_the_lever_is_written_as_a_new_base() -> None:
    spec = NTKAware(factor=4).plan(config_of("stablelm"))
    theta, vector = ntk_aware(10_000, 8, 4)
    assert spec.native is not None
    assert spec.native["rope_theta"] == theta
    torch.testing.assert_close(spec.inv_freq, vector)


@pytest.mark.parametrize(("head_dim", "factor"), [(2, 4), (16, 0.5), (16, float("nan"))])
def test_bad_values_are_refused(head_dim: int, factor: float) -> None:
    with pytest.raises(LeverNotApplicable, match="NTK-aware scaling needs"):
        ntk_aware(10_000, head_dim, factor)
