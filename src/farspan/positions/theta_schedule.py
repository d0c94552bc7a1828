"""Length schedules: windows that grow in stages of training, each with a base of its own.

A stage is entered by giving the model its base and window; weights, optimiser and learning rate are the training
room's business. The schedules published with models are here by name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from farspan.errors import LeverNotApplicable
from farspan.positions.apply import apply_rope
from farspan.positions.rope import RopeSpec, default_inv_freq, get_rope
from farspan.positions.theta import suggest_rope_base

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class ThetaStage(BaseModel):
    """One stage: the window trained on, in tokens, and the base it is trained with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: int = Field(ge=2)
    rope_theta: float = Field(gt=1, allow_inf_nan=False)


class ThetaSchedule(BaseModel):
    """Stages of rising length and never falling base."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: tuple[ThetaStage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rising(self) -> ThetaSchedule:
        for one, other in zip(self.stages, self.stages[1:], strict=False):
            if other.length <= one.length or other.rope_theta < one.rope_theta:
                raise ValueError(
                    f"stages must grow: {other.length} tokens with base {other.rope_theta:g} follows "
                    f"{one.length} tokens with base {one.rope_theta:g}"
                )
        return self

    def stage_for(self, length: int) -> ThetaStage:
        """The first stage whose window holds `length` tokens.

        Raises
        ------
        LeverNotApplicable : no stage is long enough.
        """
        for stage in self.stages:
            if length <= stage.length:
                return stage
        raise LeverNotApplicable(
            f"the schedule ends at {self.stages[-1].length} tokens, below {length}; add a stage, or plan your own"
        )


def _schedule(*stages: tuple[int, float]) -> ThetaSchedule:
    return ThetaSchedule(stages=tuple(ThetaStage(length=length, rope_theta=theta) for length, theta in stages))


SCHEDULES: dict[str, ThetaSchedule] = {
    "prolong": _schedule((65_536, 8e6), (524_288, 1.28e8)),
    "lwm": _schedule((32_768, 1e6), (131_072, 1e7), (262_144, 1e7), (524_288, 2.5e7), (1_048_576, 5e7)),
}
"""`prolong`: from a base of 5e5 and 8,192 tokens (arXiv 2410.02660, table 9). `lwm`: from a base of 1e4 and 4,096
tokens (arXiv 2402.08268, table 11)."""


def plan_schedule(
    config: PretrainedConfig,
    target_length: int,
    *,
    growth: float = 8.0,
    multiplier: float = 2.0,
    layer_type: str | None = None,
) -> ThetaSchedule:
    """Stages from a model's window to a target, each at most `growth` times the one before.

    Each base is suggested from the model's own base and the whole factor so far.

    Parameters
    ----------
    target_length : tokens, above the present window; the last stage has it exactly
    growth : above 1
    multiplier : see `suggest_rope_base`

    Raises
    ------
    LeverNotApplicable : the target is not above the window, or the model's frequencies are not those of a base.
    """
    rope = _plain(config, layer_type)
    if target_length <= rope.target_length:
        raise LeverNotApplicable(
            f"target length {target_length} is not above the model's window of {rope.target_length} tokens; "
            "choose a longer one"
        )
    if not growth > 1:
        raise LeverNotApplicable(f"growth between stages must be above 1, not {growth}")
    lengths = []
    length = float(rope.target_length)
    while length * growth < target_length:
        length *= growth
        lengths.append(round(length))
    stages = [
        (length, suggest_rope_base(rope.rope_theta, length / rope.target_length, rope.rotary_dim, multiplier))
        for length in [*lengths, target_length]
    ]
    return _schedule(*stages)


def stage_spec(config: PretrainedConfig, stage: ThetaStage, layer_type: str | None = None) -> RopeSpec:
    """The rotary positions of a model in a stage; written as a plain base, which every server reads.

    Raises
    ------
    LeverNotApplicable : the stage is shorter than the present window, its base is below the present one, or the
        model's frequencies are not those of a base.
    """
    rope = _plain(config, layer_type)
    if stage.length < rope.target_length or stage.rope_theta < rope.rope_theta:
        raise LeverNotApplicable(
            f"the model stands at {rope.target_length} tokens with base {rope.rope_theta:g}, beyond the stage of "
            f"{stage.length} tokens with base {stage.rope_theta:g}; enter a later one"
        )
    params: dict[str, object] = stage.model_dump()
    native: dict[str, Any] = {**rope.carried, "rope_type": "default", "rope_theta": stage.rope_theta}
    if "partial_rotary_factor" in (rope.native or {}):
        native["partial_rotary_factor"] = rope.partial_rotary_factor
    return replace(
        rope,
        inv_freq=default_inv_freq(stage.rope_theta, rope.rotary_dim),
        rope_theta=stage.rope_theta,
        target_length=stage.length,
        method="theta",
        params=params,
        native=native,
    )


def enter_stage(model: PreTrainedModel, stage: ThetaStage, layer_type: str | None = None) -> RopeSpec:
    """Give a model base and window of a stage, in place and for good; its weights stay as they are.

    Returns
    -------
    What was installed; `model.save_pretrained` writes it into the checkpoint.
    """
    spec = stage_spec(model.config, stage, layer_type)
    apply_rope(model, spec)
    return spec


def _plain(config: PretrainedConfig, layer_type: str | None) -> RopeSpec:
    rope = get_rope(config, layer_type)
    rope_type = str((rope.native or {}).get("rope_type", "default"))
    if rope_type != "default":
        raise LeverNotApplicable(
            f"a schedule of bases needs a model whose frequencies come from a base alone, not from '{rope_type}'"
        )
    return rope
