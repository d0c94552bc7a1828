"""One divisor a pair."""

from __future__ import annotations

import math

import pytest
import torch

from farspan.errors import LeverNotApplicable, RecipeError
from farspan.positions import LongRope, get_rope
from farspan.recipe import Recipe, build_lever
from tests.positions.conftest import WINDOW, config_of

FACTORS = (1.0, 1.0, 1.5, 2.0, 2.0, 3.0, 4.0, 4.0)


def test_each_pair_is_divided_by_its_factor() -> None:
    config = config_of("llama")
    spec = LongRope(factor=4, factors=FACTORS).plan(config)
    torch.testing.assert_close(spec.inv_freq, get_rope(config).inv_freq / torch.tensor(FACTORS).double())
    assert spec.attention_factor == pytest.approx(math.sqrt(1 + math.log(4) / math.log(WINDOW)))
    assert LongRope(factor=4, factors=FACTORS, attention_factor=1.0).plan(config).attention_factor == 1


def test_a_list_of_another_length_is_refused() -> None:
    with pytest.raises(LeverNotApplicable, match="7 factors were given for a rotary dimension of 16; give 8"):
        LongRope(factor=4, factors=FACTORS[1:]).check(config_of("llama"))


@pytest.mark.parametrize("factors", [[0.0] * 8, [-1.0] * 8, [float("inf")] * 8])
def test_bad_factors_are_refused(factors: list[float]) -> None:
    with pytest.raises(RecipeError, match="finite and above 0"):
        build_lever("longrope", {"factor": 4, "factors": factors})


def test_the_string_form_holds_the_list() -> None:
    lever = LongRope(factor=4, factors=FACTORS)
    assert Recipe.parse(str(lever)) == Recipe([lever])
