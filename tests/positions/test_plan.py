"""From names and lengths to plans."""

from __future__ import annotations

import pytest

from farspan.errors import LeverNotApplicable, RecipeError, UnknownLever
from farspan.positions import TruncatedBasis, lever_for, plan_rope
from tests.positions.conftest import WINDOW, config_of, model_of


@pytest.mark.parametrize("target", [WINDOW, WINDOW - 1, 1])
def test_targets_not_above_the_window_are_refused(target: int) -> None:
    with pytest.raises(LeverNotApplicable, match=f"target length {target} is not above the model's window of {WINDOW}"):
        plan_rope(config_of("llama"), "yarn", target)


@pytest.mark.parametrize("target", [WINDOW + 1, 4 * WINDOW, 12_345, 1_048_576])
def test_any_length_above_is_reached_exactly(target: int) -> None:
    assert plan_rope(config_of("llama"), "yarn", target).target_length == target


@pytest.mark.parametrize("method", ["pbs", "fine-tune", "spiral", ""])
def test_other_levers_and_unknown_names_are_refused(method: str) -> None:
    with pytest.raises(UnknownLever, match="choose one of: yarn, ntk"):
        plan_rope(config_of("llama"), method, 4 * WINDOW)


def test_short_names() -> None:
    config = config_of("llama")
    assert lever_for(config, "truncated", 4 * WINDOW) == TruncatedBasis(factor=4)
    assert plan_rope(config, "power", 4 * WINDOW).method == "power-basis"


def test_unknown_settings_name_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"no setting 'beta'.*beta_fast"):
        plan_rope(config_of("llama"), "yarn", 4 * WINDOW, beta=3)


def test_a_stretched_model_is_stretched_further_only_when_asked() -> None:
    model = model_of("llama")
    TruncatedBasis(factor=2).bake(model)
    with pytest.raises(LeverNotApplicable, match="set compose"):
        plan_rope(model.config, "linear", 4 * WINDOW)
    spec = plan_rope(model.config, "linear", 4 * WINDOW, compose=True)
    assert spec.params == {"factor": 2.0, "compose": True}
    assert (spec.original_length, spec.target_length) == (WINDOW, 4 * WINDOW)
