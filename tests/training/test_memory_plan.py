"""A plan counts what the very model has, gets smaller down its ladder, and says what cannot be planned."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, MistralConfig, PretrainedConfig, Qwen2Config

from farspan.training.memory_plan import ModelShape, PlanError, memory_plan

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 96,
}


@pytest.mark.parametrize("config", [LlamaConfig, Qwen2Config, MistralConfig, Gemma2Config])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_model(config, tied):
    config = config(**SIZES, tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_config(config)
    assert ModelShape.of(config).parameters == sum(weight.numel() for weight in model.parameters())


SHAPES = st.builds(
    ModelShape,
    hidden=st.integers(128, 512),
    layers=st.integers(1, 8),
    heads=st.sampled_from([4, 8]),
    kv_heads=st.sampled_from([1, 2, 4]),
    head_dim=st.sampled_from([16, 64]),
    ffn=st.integers(16, 1024),
    vocab=st.integers(100, 5000),
    tied=st.booleans(),
)


@given(SHAPES, st.integers(4096, 2**17))
def test_each_rung_needs_no_more_than_the_one_before_where_rows_are_long(shape, sequence):
    # one layer at a time is less than all of them only where there are several
    sizes = [rung.bytes for rung in memory_plan(shape, sequence).ladder()]
    assert sizes[1] <= sizes[0]
    assert sizes[3] <= sizes[2]
    assert sizes[5] <= sizes[4] <= sizes[3]


@given(SHAPES, st.integers(1, 2**15), st.integers(1, 8))
def test_ranks_share_states_and_rows(shape, sequence, ranks):
    alone, sharded = memory_plan(shape, sequence * ranks), memory_plan(shape, sequence * ranks, world=ranks)
    assert sharded.optimizer == alone.optimizer // ranks
    assert sharded.activations_none == alone.activations_none
    shared = memory_plan(shape, sequence * ranks, context_parallel=ranks)
    assert shared.activations_none * ranks == alone.activations_none
    assert shared.attention_flops_train == pytest.approx(alone.attention_flops_train, abs=12 * 8 * 512 * ranks)


def test_what_fits_is_the_first_rung_that_does():
    plan = memory_plan(ModelShape(64, 4, 4, 2, 16, 128, 1000, tied=True), 8192)
    ladder = plan.ladder()
    assert plan.first_that_fits(ladder[0].bytes) == ladder[0]
    assert plan.first_that_fits(ladder[3].bytes).bytes <= ladder[3].bytes
    assert plan.first_that_fits(1) is None


def test_what_cannot_be_planned():
    shape = ModelShape(8, 1, 1, 1, 8, 8, 10, tied=True)
    with pytest.raises(PlanError, match="at least 1"):
        memory_plan(shape, 0)
    with pytest.raises(PlanError, match="cannot be shared by 3 ranks"):
        memory_plan(shape, 100, context_parallel=3)
    with pytest.raises(PlanError, match="no plan for a model"):
        ModelShape.of(PretrainedConfig())
