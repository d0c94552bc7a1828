"""Warping positions inside the rotary module, where masks do not see it.

transformers reads jumps in `position_ids` as the borders of packed sequences and masks accordingly, so positions that
are to mean angles only must be changed after the mask is made: between `position_ids` and the rotary frequencies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from farspan.errors import LeverNotApplicable
from farspan.positions.apply import kept_positions, rotary_modules
from farspan.positions.rope import text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class RotaryWithPositions(nn.Module):
    """A rotary module that reads mapped positions: `forward(x, position_ids)` is `base(x, mapper(position_ids))`.

    The map is asked once a forward pass: models that call their rotary once a layer type get the same positions for
    all of them.

    Parameters
    ----------
    base : the model's rotary module
    mapper : Tensor [batch, length] of float32 positions to a Tensor of the same shape; a module is moved between
        training and evaluation with the model
    """

    def __init__(self, base: nn.Module, mapper: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.base = base
        self.mapper = mapper
        self._mapped: torch.Tensor | None = None
        self._served: set[str | None] = set()

    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin of the mapped positions, as `base` returns them."""
        if position_ids.ndim == 2:
            # transformers gives one row where all are alike; a random map draws each row for itself.
            position_ids = position_ids.expand(x.shape[0], -1)
        mapped = self._mapped
        if mapped is None or layer_type in self._served or mapped.shape != position_ids.shape:
            self._mapped = mapped = self.mapper(position_ids.float())
            self._served.clear()
        self._served.add(layer_type)
        extra = {} if layer_type is None else {"layer_type": layer_type}
        cos, sin = self.base(x, mapped, **extra)
        return cos, sin


@contextmanager
def mapped_positions(model: PreTrainedModel, mapper: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Put a `RotaryWithPositions` around every rotary module for the length of a `with` block."""
    config = text_config(model.config)
    found = list(rotary_modules(model, config))
    if not found:
        raise LeverNotApplicable(f"no rotary module with frequencies of its own found in {type(model).__name__}")
    with kept_positions(model):
        for parent, name, module in found:
            setattr(parent, name, RotaryWithPositions(module, mapper).train(module.training))
        yield
