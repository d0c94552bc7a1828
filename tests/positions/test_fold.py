"""Folding the attention factor into query weights."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, Olmo2Config, StableLmConfig

from farspan.errors import LeverNotApplicable
from farspan.positions import applied, plan_rope
from farspan.positions.fold import folded
from tests.positions.conftest import CONFIGS, GROUPED, WINDOW, ids_of, logits_of, model_of


@pytest.mark.parametrize("architecture", CONFIGS)
def test_scaled_queries_equal_a_scaled_rotary(architecture: str) -> None:
    model, ids = model_of(architecture), ids_of(2 * WINDOW, batch=2)
    spec = plan_rope(model.config, "yarn", 4 * WINDOW)
    with applied(model, spec):
        wanted = logits_of(model, ids)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with folded(model, spec) as plain:
        assert plain.attention_factor == 1
        with applied(model, plain):
            found = logits_of(model, ids)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_norm_over_all_heads_is_scaled_too() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Olmo2Config(**GROUPED)).eval()
    spec = plan_rope(model.config, "yarn", 4 * WINDOW)
    ids = ids_of(2 * WINDOW)
    with applied(model, spec):
        wanted = logits_of(model, ids)
    with folded(model, spec) as plain, applied(model, plain):
        torch.testing.assert_close(logits_of(model, ids), wanted, rtol=0, atol=1e-5)


def test_a_factor_of_one_changes_nothing() -> None:
    model = model_of("llama")
    spec = plan_rope(model.config, "linear", 4 * WINDOW)
    with folded(model, spec) as same:
        assert same is spec


def test_unknown_normalisation_is_refused() -> None:
    model = AutoModelForCausalLM.from_config(StableLmConfig(**GROUPED, qk_layernorm=True))
    spec = plan_rope(model.config, "yarn", 4 * WINDOW)
    with pytest.raises(LeverNotApplicable, match="cannot be folded"), folded(model, spec):
        pass


def test_a_wrong_result_is_refused_and_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    from farspan.positions import fold

    model = model_of("llama")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    original = fold._scaled
    monkeypatch.setattr(fold, "_scaled", lambda model, module, spec, scale: original(model, module, spec, 2 * scale))
    spec = plan_rope(model.config, "yarn", 4 * WINDOW)
    with pytest.raises(LeverNotApplicable, match="logits would change"), folded(model, spec):
        pass
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
