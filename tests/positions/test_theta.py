"""A new base, by hand or by the law."""

from __future__ import annotations

import pytest
import torch

from farspan.errors import LeverNotApplicable, RecipeError
from farspan.positions import ThetaRebase, suggest_rope_base
from farspan.positions.rope import default_inv_freq
from farspan.recipe import build_lever
from tests.positions.conftest import config_of


def test_frequencies_have_the_new_base() -> None:
    spec = ThetaRebase(factor=4, rope_theta=1e6).plan(config_of("llama"))
    torch.testing.assert_close(spec.inv_freq, default_inv_freq(1e6, 16))
    assert spec.native == {"rope_type": "default", "rope_theta": 1e6}


@pytest.mark.parametrize(
    ("theta", "factor", "head_dim", "expected"),
    [(5e5, 8, 128, 4134231.132028111), (8e6, 8, 128, 66147698.11244977), (1e4, 4, 64, 41829.36592889948)],
)
def test_the_suggested_base_is_known(theta: float, factor: float, head_dim: int, expected: float) -> None:
    assert suggest_rope_base(theta, factor, head_dim) == pytest.approx(expected, rel=1e-12)
    assert suggest_rope_base(theta, factor, head_dim, 4) == pytest.approx(4 * expected, rel=1e-12)
    assert suggest_rope_base(theta, 1, head_dim) == theta


def test_without_a_base_the_suggested_one_is_taken() -> None:
    spec = ThetaRebase(factor=4).plan(config_of("stablelm"))
    wanted = suggest_rope_base(10_000, 4, 8, 2)
    torch.testing.assert_close(spec.inv_freq, default_inv_freq(wanted, 8))
    assert spec.native is not None
    assert spec.native["rope_theta"] == wanted
    once = ThetaRebase(factor=4, multiplier=1).plan(config_of("stablelm"))
    ntk = build_lever("ntk", {"factor": 4}).plan(config_of("stablelm"))  # type: ignore[attr-defined]
    torch.testing.assert_close(once.inv_freq, ntk.inv_freq)


@pytest.mark.parametrize("theta", [1.0, -5, float("inf")])
def test_bad_bases_are_refused(theta: float) -> None:
    with pytest.raises(RecipeError, match="rope_theta"):
        build_lever("theta", {"factor": 4, "rope_theta": theta})
    with pytest.raises(LeverNotApplicable, match="multiplier"):
        suggest_rope_base(1e4, 4, 64, 0)
