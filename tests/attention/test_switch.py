"""Switching on and off leaves no trace."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, PreTrainedModel

from farspan.attention import (
    MeanPool,
    PermutedBlockSparse,
    SinkWindow,
    UnknownMethod,
    apply_attention,
    attention_report,
    methods,
    remove_attention,
)
from farspan.errors import FarspanError, LeverConflict, LeverNotApplicable, RecipeError
from farspan.recipe import Recipe
from tests.attention.conftest import tiny_model
from tests.attention.test_any_model import tokens


@pytest.fixture(params=["llama", "gemma2", "gpt-oss"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return tiny_model(request.param)


def fingerprint(model: PreTrainedModel) -> tuple[object, ...]:
    """Everything a lever could leave behind, except tensors."""
    attributes = [(name, sorted(vars(module))) for name, module in model.named_modules()]
    return model.config.to_dict(), vars(model.config).copy(), model.config._attn_implementation, attributes


def test_the_model_is_left_as_found(model: PreTrainedModel) -> None:
    before, weights = fingerprint(model), copy.deepcopy(model.state_dict())
    with SinkWindow()(model):
        assert model.config._attn_implementation == "farspan_sink_window"
        assert model.config.farspan_attention == {"lever": "sink-window"}
        assert model.config.to_dict()["farspan_attention"] == {"lever": "sink-window"}
        model(tokens(1, 20))
    assert fingerprint(model) == before
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_the_model_is_left_as_found_after_an_exception(model: PreTrainedModel) -> None:
    before = fingerprint(model)
    with pytest.raises(IndexError), SinkWindow()(model):
        model(torch.tensor([[5, 1000]]))
    assert fingerprint(model) == before


def test_levers_may_be_nested(model: PreTrainedModel) -> None:
    before = fingerprint(model)
    with SinkWindow(window=32)(model):
        model(tokens(1, 20))
        outer = fingerprint(model)
        with MeanPool()(model):
            assert model.config._attn_implementation == "farspan_mean_pool"
            model(tokens(1, 20))
            assert attention_report(model)[0].method == "mean-pool"
        assert fingerprint(model) == outer
        assert attention_report(model)[0].method == "sink-window"
        assert attention_report(model)[0].calls == 1
    assert fingerprint(model) == before


def test_two_attention_levers_in_a_recipe_conflict() -> None:
    with pytest.raises(LeverConflict, match=r"'pbs' and 'sink-window' both change attention"):
        Recipe([PermutedBlockSparse(), SinkWindow()])


def test_apply_and_remove(model: PreTrainedModel) -> None:
    before = fingerprint(model)
    apply_attention(model, "pbs", block_size=32, segment_size=64, layers={1: "dense"}, backend="gather")
    assert model.config.farspan_attention == {
        "lever": "pbs",
        "block_size": 32,
        "segment_size": 64,
        "dense_layers": [1],
        "backend": "gather",
    }
    apply_attention(model, MeanPool(threshold=0.5), min_length=0)
    assert model.config.farspan_attention == {"lever": "mean-pool", "threshold": 0.5, "min_length": 0}
    model(tokens(1, 20))
    remove_attention(model)
    assert fingerprint(model) == before
    remove_attention(model)
    assert fingerprint(model) == before


def test_bad_calls_change_nothing(model: PreTrainedModel) -> None:
    before = fingerprint(model)
    with pytest.raises(UnknownMethod, match=r"unknown attention method 'magic'; known: .*mean-pool.*pbs"):
        apply_attention(model, "magic")
    with pytest.raises(RecipeError, match="threshold"):
        apply_attention(model, "pbs", threshold=7)
    with pytest.raises(FarspanError, match="'dense' only, given 'pbs'"):
        apply_attention(model, "mean-pool", layers={0: "pbs"})
    with pytest.raises(LeverNotApplicable, match="names layer 9, the model has layers 0 to 1"):
        SinkWindow(dense_layers=(9,))(model)
    with pytest.raises(FarspanError, match="no attention lever is on"):
        attention_report(model)
    assert fingerprint(model) == before


class OwnModel(LlamaForCausalLM):
    """A model that says its attention cannot be set."""

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return False


def test_models_with_attention_of_their_own_are_refused() -> None:
    config = LlamaConfig(vocab_size=9, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = OwnModel(config)
    with pytest.raises(LeverNotApplicable, match="OwnModel brings its own"), SinkWindow()(model):
        pass
    with pytest.raises(LeverNotApplicable, match="decoder with attention"):
        SinkWindow().check(MambaConfig())


def test_runtime_levers_cannot_be_baked(model: PreTrainedModel) -> None:
    assert not SinkWindow().bakeable
    with pytest.raises(LeverNotApplicable, match="cannot be baked"):
        Recipe([SinkWindow()]).bake(model)


def test_methods_are_listed() -> None:
    assert {"sink-window", "mean-pool", "pbs"} <= set(methods())


def test_a_recipe_with_positions_and_attention() -> None:
    model = tiny_model("llama")
    before = fingerprint(model)
    with Recipe.parse("linear:factor=2,sink-window:min_length=0,window=32,sinks=16,block_size=16")(model):
        model(tokens(1, 100))
        assert attention_report(model)[0].sparse == 1
    assert fingerprint(model)[:2] == before[:2]
