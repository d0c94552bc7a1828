"""Toy levers and a toy model for tests of what all levers share. They change one tensor and write one log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator

from farspan.errors import LeverNotApplicable
from farspan.recipe import Lever


class ToyModel:
    """A weight, a configuration and a log: all that the toy levers touch."""

    def __init__(self) -> None:
        self.weight = torch.nn.Parameter(torch.tensor([0.1, -2.0, 3e-5]))
        self.config = {"rotary": True, "window": 512}
        self.log: list[str] = []


class Scale(Lever):
    """Multiply the weight; restored from a copy, since dividing back would round."""

    name: ClassVar[str] = "toy-scale"
    slot: ClassVar[str] = "toy-weight"

    factor: float = Field(2.0, ge=1)
    label: str | None = None
    layers: list[int] | None = None
    exact: bool = True

    def check(self, config: Any) -> None:
        if not config["rotary"]:
            raise LeverNotApplicable(f"lever '{self.name}' needs rotary positions")

    @contextmanager
    def switch_on(self, model: Any) -> Iterator[None]:
        before = model.weight.detach().clone()
        model.weight.data.mul_(self.factor)
        try:
            yield
        finally:
            model.weight.data.copy_(before)

    def bake(self, model: Any) -> None:
        model.weight.data.mul_(self.factor)


class Shift(Scale):
    """Another change of the same weight."""

    name: ClassVar[str] = "toy-shift"


class Note(Lever):
    """Writes down when it goes on and off, and carries learned weights."""

    name: ClassVar[str] = "toy-note"
    weights_fields: ClassVar[tuple[str, ...]] = ("weights",)

    weights: str | None = None
    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _ordered(self) -> Note:
        if self.low > self.high:
            raise ValueError("low must not be above high")
        return self

    @contextmanager
    def switch_on(self, model: Any) -> Iterator[None]:
        model.log.append("note on")
        try:
            yield
        finally:
            model.log.append("note off")


class Idle(Lever):
    """Declares no method."""

    name: ClassVar[str] = "toy-idle"


TOYS = {cls.name: f"{__name__}:{cls.__name__}" for cls in (Scale, Shift, Note, Idle)}
