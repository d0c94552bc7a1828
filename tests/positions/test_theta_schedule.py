"""Stages of training with windows and bases that grow."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, LlamaConfig

from farspan.errors import LeverNotApplicable
from farspan.positions import applied, get_rope, plan_rope, suggest_rope_base
from farspan.positions.apply import apply_rope
from farspan.positions.rope import default_inv_freq
from farspan.positions.theta_schedule import (
    SCHEDULES,
    ThetaSchedule,
    ThetaStage,
    enter_stage,
    plan_schedule,
    stage_spec,
)
from tests.positions.conftest import WINDOW, config_of, ids_of, logits_of, model_of


def test_published_bases_are_about_twice_the_suggested_ones() -> None:
    first, second = SCHEDULES["prolong"].stages
    assert first.rope_theta / suggest_rope_base(5e5, 8, 128) == pytest.approx(2, rel=0.05)
    assert second.rope_theta / suggest_rope_base(first.rope_theta, 8, 128) == pytest.approx(2, rel=0.05)
    assert SCHEDULES["lwm"].stage_for(200_000).rope_theta == 1e7
    assert SCHEDULES["lwm"].stage_for(524_289).length == 1 << 20
    with pytest.raises(LeverNotApplicable, match="ends at 1048576 tokens"):
        SCHEDULES["lwm"].stage_for((1 << 20) + 1)


def test_a_plan_grows_to_the_target() -> None:
    config = LlamaConfig(
        hidden_size=512, num_attention_heads=4, max_position_embeddings=8192, rope_parameters={"rope_theta": 5e5}
    )
    plan = plan_schedule(config, 524_288, multiplier=2)
    assert [stage.length for stage in plan.stages] == [65_536, 524_288]
    assert plan.stages[0].rope_theta == pytest.approx(2 * 4134231.132028111)
    assert [stage.length for stage in plan_schedule(config, 10_000).stages] == [10_000]
    assert [stage.length for stage in plan_schedule(config, 65_536, growth=2).stages] == [16384, 32768, 65536]


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "stablelm", "phi3"])
def test_stages_follow_one_another_and_last(architecture: str, tmp_path: Path) -> None:
    model = model_of(architecture)
    short, ids = ids_of(WINDOW), ids_of(4 * WINDOW)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = logits_of(model, short)
    plan = plan_schedule(model.config, 4 * WINDOW, growth=2)
    with applied(model, stage_spec(model.config, plan.stages[0])):
        assert not torch.equal(logits_of(model, short), before)
    assert torch.equal(logits_of(model, short), before)
    for stage in plan.stages:
        spec = enter_stage(model, stage)
        rope = get_rope(model.config)
        assert (rope.target_length, rope.original_length) == (stage.length, WINDOW)
        assert rope.rope_theta == pytest.approx(stage.rope_theta)
        torch.testing.assert_close(rope.inv_freq, default_inv_freq(stage.rope_theta, spec.rotary_dim))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits_of(loaded, ids), logits_of(model, ids))
    assert loaded.config.max_position_embeddings == 4 * WINDOW
    if architecture == "gemma3":
        sliding = get_rope(loaded.config, "sliding_attention")
        assert sliding.rope_theta == get_rope(config_of("gemma3"), "sliding_attention").rope_theta


def test_entering_the_present_stage_changes_nothing() -> None:
    model, ids = model_of("llama"), ids_of(2 * WINDOW)
    before = logits_of(model, ids)
    enter_stage(model, ThetaStage(length=WINDOW, rope_theta=10_000))
    assert torch.equal(logits_of(model, ids), before)


def test_what_cannot_be_entered_is_refused() -> None:
    model = model_of("llama")
    for stage in (ThetaStage(length=32, rope_theta=1e6), ThetaStage(length=256, rope_theta=100)):
        with pytest.raises(LeverNotApplicable, match="enter a later one"):
            enter_stage(model, stage)
    with pytest.raises(LeverNotApplicable, match="not above the model's window"):
        plan_schedule(model.config, WINDOW)
    with pytest.raises(LeverNotApplicable, match="growth"):
        plan_schedule(model.config, 4 * WINDOW, growth=1)
    apply_rope(model, plan_rope(model.config, "yarn", 4 * WINDOW))
    with pytest.raises(LeverNotApplicable, match="not from 'yarn'"):
        enter_stage(model, ThetaStage(length=1024, rope_theta=1e6))


@pytest.mark.parametrize("second", [(64, 2e4), (32, 2e4), (128, 5e3)])
def test_stages_must_grow(second: tuple[int, float]) -> None:
    stages = [{"length": 64, "rope_theta": 1e4}, {"length": second[0], "rope_theta": second[1]}]
    with pytest.raises(ValidationError, match="stages must grow"):
        ThetaSchedule(stages=stages)
