"""Muon for the matrices of the blocks, AdamW for everything else, as one optimiser.

Both come from torch; this module only splits the parameters and lets schedulers and checkpoints see one object.
Source of the split: Muon (Keller Jordan and others, 2024) is defined for hidden matrices; embeddings, heads, norms
and biases keep AdamW.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

import torch
from torch import nn


class MuonWithAdamW(torch.optim.Optimizer):
    """Steps a `torch.optim.Muon` and a `torch.optim.AdamW` together.

    Parameters
    ----------
    model : its two-dimensional parameters outside embeddings and the output head go to Muon
    learning_rate : of AdamW
    muon_learning_rate : of Muon
    """

    def __init__(
        self, model: nn.Module, *, learning_rate: float, muon_learning_rate: float, weight_decay: float = 0.0
    ) -> None:
        outside = {
            id(parameter)
            for module in model.modules()
            if isinstance(module, nn.Embedding)
            for parameter in module.parameters()
        }
        head = getattr(model, "lm_head", None)
        if isinstance(head, nn.Module):
            outside |= {id(parameter) for parameter in head.parameters()}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        matrices = [p for p in trained if p.ndim == 2 and id(p) not in outside]
        others = [p for p in trained if p.ndim != 2 or id(p) in outside]
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts.append(torch.optim.Muon(matrices, lr=muon_learning_rate, weight_decay=weight_decay))
        if others:
            fused = all(p.is_floating_point() for p in others)
            self.parts.append(
                torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.95), weight_decay=weight_decay, fused=fused)
            )
        super().__init__(trained, {"lr": learning_rate})
        self._share_groups()
        self._complete = True

    _complete = False

    def add_param_group(self, param_group: dict[str, object]) -> None:
        """Parameters added later, which may lie outside the model, are AdamW's."""
        if not self._complete:
            super().add_param_group(param_group)
            return
        adamw = next((part for part in self.parts if isinstance(part, torch.optim.AdamW)), None)
        if adamw is None:
            self.parts.append(torch.optim.AdamW([param_group], betas=(0.9, 0.95), weight_decay=0.0))
        else:
            adamw.add_param_group(param_group)
        self._share_groups()

    def _share_groups(self) -> None:
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = closure() if closure is not None else None
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, object]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        states = state_dict["parts"]
        assert isinstance(states, list)
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
        self._share_groups()
