"""What holds for every method that stretches positions: identity, restoration, refusals, the frequencies installed."""

from __future__ import annotations

import copy

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, GPT2Config, MistralConfig, OPTConfig, PreTrainedModel

from farspan.errors import LeverNotApplicable, RecipeError
from farspan.positions import PositionLever, get_rope, plan_rope
from farspan.positions.apply import inv_freq_name, rotary_modules
from farspan.recipe import LEVERS, Recipe, build_lever, lever_class
from tests.positions.conftest import (
    CONFIGS,
    GROUPED,
    METHODS,
    WINDOW,
    config_of,
    ids_of,
    logits_of,
    model_of,
    settings_of,
)

ARCHITECTURES = ["llama", "qwen3", "gemma3", "stablelm", "mistral", "phi3"]


def lever_of(method: str, architecture: str, factor: float = 4) -> PositionLever:
    rope = get_rope(config_of(architecture))
    lever = build_lever(method, {"factor": factor, **settings_of(method, rope.rotary_dim)})
    assert isinstance(lever, PositionLever)
    return lever


State = tuple[dict[str, object], list[torch.nn.Module], list[torch.Tensor]]


def state_of(model: PreTrainedModel) -> State:
    modules = list(model.modules())
    buffers = [buffer.clone() for module in modules for buffer in module.buffers(recurse=False)]
    return copy.deepcopy(model.config.to_dict()), modules, buffers


def assert_as_before(
    model: PreTrainedModel, before: tuple[dict[str, object], list[object], list[torch.Tensor]]
) -> None:
    config, modules, buffers = state_of(model)
    assert config == before[0]
    assert all(one is other for one, other in zip(modules, before[1], strict=True))
    assert all(torch.equal(one, other) for one, other in zip(buffers, before[2], strict=True))


def test_every_position_lever_of_the_table_is_tested_here() -> None:
    stretching = {name for name in LEVERS if "factor" in lever_class(name).model_fields}
    assert stretching == set(METHODS)
    assert {name for name in LEVERS if lever_class(name).slot == "positions"} == {*METHODS, "hope"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", METHODS)
def test_a_lever_installs_its_plan_and_leaves_the_model_as_found(method: str, architecture: str) -> None:
    model = model_of(architecture)
    lever = lever_of(method, architecture)
    spec = lever.plan(model.config)
    before, short = state_of(model), ids_of(WINDOW // 2)
    unchanged = logits_of(model, short)
    with lever(model):
        assert model.config.max_position_embeddings == spec.target_length == 4 * WINDOW
        ((_, _, rotary),) = rotary_modules(model, model.config)
        long = logits_of(model, ids_of(4 * WINDOW))
        installed = getattr(rotary, inv_freq_name(spec.layer_type))
        torch.testing.assert_close(installed.double(), spec.inv_freq, rtol=1e-5, atol=1e-20)
        assert torch.isfinite(long).all()
        assert get_rope(model.config).stretched
    assert_as_before(model, before)
    assert torch.equal(logits_of(model, short), unchanged)
    assert not torch.equal(logits_of(model, ids_of(4 * WINDOW)), long)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_is_as_found_after_an_exception(method: str) -> None:
    model = model_of("gemma3")
    before = state_of(model)

    def fail() -> None:
        with lever_of(method, "gemma3")(model):
            logits_of(model, ids_of(2 * WINDOW))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert_as_before(model, before)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "stablelm", "phi3"])
@pytest.mark.parametrize("method", METHODS)
def test_factor_one_is_the_model_itself(method: str, architecture: str) -> None:
    model = model_of(architecture)
    ids = ids_of(3 * WINDOW)
    before, base = state_of(model), logits_of(model, ids)
    lever = lever_of(method, architecture, factor=1)
    with lever(model):
        assert torch.equal(logits_of(model, ids), base)
        assert_as_before(model, before)
    lever.bake(model)
    assert torch.equal(logits_of(model, ids), base)
    assert_as_before(model, before)


@pytest.mark.parametrize("method", METHODS)
def test_vectors_are_slower_than_the_models_own_and_ordered(method: str) -> None:
    rope, spec = get_rope(config_of("llama")), lever_of(method, "llama").plan(config_of("llama"))
    assert bool((spec.inv_freq <= rope.inv_freq * (1 + 1e-6)).all())
    assert bool((spec.inv_freq.diff() <= 1e-6).all())
    assert spec.attention_factor >= 1
    assert spec.method == method
    assert spec.params["factor"] == 4


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
@pytest.mark.parametrize("method", METHODS)
def test_sliding_layers_stay_and_baking_lasts(method: str, architecture: str) -> None:
    model = model_of(architecture)
    lever = lever_of(method, architecture)
    lever.bake(model)
    assert get_rope(model.config).method == method
    assert get_rope(model.config).original_length == WINDOW
    wanted = lever.plan(config_of(architecture)).inv_freq
    torch.testing.assert_close(get_rope(model.config).inv_freq, wanted, rtol=1e-5, atol=1e-20)
    if architecture == "gemma3":
        sliding = get_rope(model.config, "sliding_attention")
        assert torch.equal(sliding.inv_freq, get_rope(config_of("gemma3"), "sliding_attention").inv_freq)
        assert not sliding.stretched


@pytest.mark.parametrize("method", METHODS)
def test_a_stretched_model_is_refused_unless_composed(method: str) -> None:
    model = model_of("llama")
    lever_of("linear", "llama", 2).bake(model)
    again = lever_of(method, "llama", 2)
    with pytest.raises(LeverNotApplicable, match=r"stretched already.*set compose"):
        again(model)
    composed = again.model_copy(update={"compose": True})
    if method in ("dynamic-ntk", "clex"):
        with pytest.raises(LeverNotApplicable, match="cannot follow the length"):
            composed(model)
        return
    spec = composed.plan(model.config)
    own, once = get_rope(config_of("llama")).inv_freq, get_rope(model.config).inv_freq
    torch.testing.assert_close(once, own / 2, rtol=1e-6, atol=0)
    assert spec.target_length == 4 * WINDOW
    assert spec.original_length == WINDOW
    with composed(model):
        assert torch.isfinite(logits_of(model, ids_of(4 * WINDOW))).all()
    if method == "linear":
        torch.testing.assert_close(spec.inv_freq, own / 4, rtol=1e-6, atol=0)
    if method == "ntk":
        single = lever_of("ntk", "llama", 2).plan(config_of("llama")).inv_freq
        torch.testing.assert_close(spec.inv_freq, single / 2, rtol=1e-6, atol=0)


def test_two_levers_for_positions_do_not_nest() -> None:
    model = model_of("llama")
    with lever_of("yarn", "llama")(model), pytest.raises(LeverNotApplicable, match="stretched already"):
        lever_of("linear", "llama")(model)


@pytest.mark.parametrize("config", [GPT2Config(), OPTConfig()])
@pytest.mark.parametrize("method", METHODS)
def test_models_without_rotary_positions_are_refused(method: str, config: GPT2Config) -> None:
    with pytest.raises(LeverNotApplicable, match="no rotary positions"):
        lever_of(method, "llama").check(config)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [0.5, 0, -1, float("nan"), float("inf")])
def test_factors_below_one_are_refused(method: str, factor: float) -> None:
    with pytest.raises(RecipeError, match=rf"lever '{method}': factor"):
        lever_of(method, "llama", factor)


def test_a_model_of_sliding_layers_has_nothing_to_stretch() -> None:
    model = AutoModelForCausalLM.from_config(MistralConfig(**GROUPED, sliding_window=32))
    with pytest.raises(LeverNotApplicable, match="looks back at most 32 tokens"):
        lever_of("yarn", "llama")(model)


@pytest.mark.parametrize("method", METHODS)
def test_recipes_hold_every_method(method: str) -> None:
    lever = lever_of(method, "llama")
    assert Recipe.parse(str(lever)) == Recipe([lever])
    with pytest.raises(ValidationError):
        lever.factor = 2  # type: ignore[misc]


@pytest.mark.parametrize("architecture", CONFIGS)
def test_generation_runs_past_the_trained_window(architecture: str) -> None:
    model = model_of(architecture)
    ids = ids_of(WINDOW - 4, batch=2)
    with lever_of("truncated-basis", architecture)(model):
        out = model.generate(ids, max_new_tokens=10, do_sample=False)
        assert out.shape == (2, WINDOW + 6)
        again = logits_of(model, out[:, :-1])[:, -10:].argmax(-1)
    assert torch.equal(again, out[:, -10:])


def test_plans_of_the_function_and_the_lever_agree() -> None:
    config = config_of("stablelm")
    spec = plan_rope(config, "yarn", 4 * WINDOW, beta_fast=16)
    lever = build_lever("yarn", {"factor": 4, "beta_fast": 16})
    assert isinstance(lever, PositionLever)
    assert torch.equal(spec.inv_freq, lever.plan(config).inv_freq)
    assert spec.native == lever.plan(config).native
