"""Randomized positions: training on real-valued positions with random steps, so that no single grid is learned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from farspan.errors import LeverNotApplicable
from farspan.positions.lever import PositionLever, Stretched
from farspan.positions.linear import linear_vector
from farspan.positions.position_map import mapped_positions
from farspan.positions.rope import RopeSpec
from farspan.recipe import build_lever

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def positions_from_uniforms(uniforms: torch.Tensor, max_step: float = 2.0, min_step: float = 0.0) -> torch.Tensor:
    """Cumulated random steps, shrunk where they overshoot so that the last position is at most the length.

    Parameters
    ----------
    uniforms : Tensor [batch, length] in [0, 1)
    max_step, min_step : range of a step

    Returns
    -------
    Tensor [batch, length], non-decreasing; the first one is not 0
    """
    if not 0 <= min_step <= max_step or max_step <= 0:
        raise LeverNotApplicable(f"steps need 0 <= min_step <= max_step, not {min_step} and {max_step}")
    length = uniforms.shape[-1]
    positions = (min_step + (max_step - min_step) * uniforms).cumsum(-1)
    return positions * (length / positions[..., -1:].clamp(min=length))


def randomized_positions(
    batch: int,
    length: int,
    generator: torch.Generator | None = None,
    max_step: float = 2.0,
    min_step: float = 0.0,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Random positions of mean step one: float32 [batch, length], each row non-decreasing and at most `length`.

    Source: arXiv 2308.10882, section 4.
    """
    # Drawn where the generator lives, so that equal seeds give equal positions on every device.
    source = generator.device if generator is not None else torch.device("cpu")
    uniforms = torch.rand(batch, length, generator=generator, device=source)
    return positions_from_uniforms(uniforms, max_step, min_step).to(device)


class RandomizedPositions(nn.Module):
    """Map for `RotaryWithPositions`: new random positions in each forward pass of training, none in evaluation.

    Equal positions of a row stay equal, so packed documents, which start anew, each get the positions of a beginning.

    Parameters
    ----------
    seed : of the random positions
    max_step, min_step : range of a step
    """

    def __init__(self, seed: int = 0, max_step: float = 2.0, min_step: float = 0.0) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.max_step = max_step
        self.min_step = min_step

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """Positions [batch, length] as they are in evaluation, else their random counterparts."""
        if not self.training:
            return positions
        whole = positions.long()
        drawn = randomized_positions(
            whole.shape[0], int(whole.max()) + 1, self.generator, self.max_step, self.min_step, positions.device
        )
        return drawn.gather(1, whole)


class Randomized(PositionLever):
    """Random real-valued positions while the model trains, whole ones afterwards, with all frequencies divided.

    Any training that runs while the lever is on sees the random positions: `randomized:factor=4,fine-tune`. Evaluated
    and exported, the model is one of its family's; without training the lever is no more than that.

    Fields
    ------
    family : how frequencies change, in training and evaluation: as by `linear`, `power-basis` or `truncated-basis`
    scale : divisor of all frequencies; the factor if left out, 1 for families other than `linear`. Training at one
        scale and serving at a larger one is allowed: give the served recipe the larger
    seed : of the random positions
    max_step, min_step : range of a step from one token to the next

    Source: arXiv 2308.10882, section 4.
    """

    name: ClassVar[str] = "randomized"
    needs: ClassVar[Literal["nothing", "calibration", "training"]] = "training"
    trials: ClassVar[tuple[dict[str, object], ...]] = ({},)
    short_rows: ClassVar[bool] = True

    family: Literal["linear", "power-basis", "truncated-basis"] = "linear"
    scale: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    seed: int = 0
    max_step: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    min_step: float = Field(default=0.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _ordered(self) -> Randomized:
        if self.min_step > self.max_step:
            raise ValueError(f"min_step must not be above max_step, not {self.min_step} and {self.max_step}")
        return self

    def stretch(self, rope: RopeSpec) -> Stretched:
        if self.family != "linear":
            lever = build_lever(self.family, {"factor": self.factor, "scale": self.scale or 1.0})
            assert isinstance(lever, PositionLever)
            return lever.stretch(rope)
        scale = self.scale or self.factor
        native = {"rope_type": "linear", "rope_theta": rope.rope_theta, "factor": scale}
        return Stretched(linear_vector(rope.inv_freq, scale), native=native)

    @contextmanager
    def switch_on(self, model: PreTrainedModel) -> Iterator[None]:
        with super().switch_on(model):
            if self.factor == 1:
                yield
                return
            with mapped_positions(model, RandomizedPositions(self.seed, self.max_step, self.min_step)):
                yield
