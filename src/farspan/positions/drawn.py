"""Rotary positions drawn anew in every training pass, for methods that learn many windows from short text.

In evaluation the model's rotary module answers as it is; in training a method draws positions and frequencies, and the
angles are made here, with gradients to the frequencies. `position_ids` stay as they are, since masks are made from
them. What is drawn is the method's business.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from farspan.errors import LeverNotApplicable
from farspan.positions.apply import inv_freq_name, kept_positions, rotary_modules
from farspan.positions.rope import text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class Drawn:
    """Positions and frequencies of one training pass.

    positions : Tensor [batch or 1, length], float32
    inv_freq : Tensor [batch or 1, length or 1, rotary_dim / 2], float32, radians a token
    attention_factor : factor on cos and sin, or Tensor [batch or 1, length or 1, 1]
    """

    positions: torch.Tensor
    inv_freq: torch.Tensor
    attention_factor: torch.Tensor | float = 1.0


class Draw(Protocol):
    """Makes the positions of one training pass.

    Called with `position_ids` [batch or 1, length] on the model's device, the batch size, and a generator on the CPU
    from which alone all randomness comes.
    """

    def __call__(self, position_ids: torch.Tensor, batch: int, generator: torch.Generator) -> Drawn: ...


class DrawnRotary(nn.Module):
    """A rotary module that asks `draw` in training and `base` in evaluation.

    Every pass has a generator of its own, made from seed, step, rank and the number of the pass within the step. A run
    that is told its steps (`begin`) draws the same after an interruption, and ranks draw differently.

    Parameters
    ----------
    base : the model's rotary module
    draw : the method
    layer_type : entry of a layer-typed configuration that is drawn; the others stay as they are
    seed : of all draws
    """

    def __init__(self, base: nn.Module, draw: Draw, layer_type: str | None = None, seed: int = 0) -> None:
        super().__init__()
        self.base = base
        self.draw = draw
        self.layer_type = layer_type
        self.seed = seed
        self.pairs = channel_pairs(base, layer_type)
        self.begin(0)

    def begin(self, step: int, rank: int = 0) -> None:
        """Say which optimiser step the next passes belong to, and which process this is."""
        self._place = (step, rank)
        self._passes = 0

    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin, in the layout of `base`."""
        if not self.training or layer_type != self.layer_type:
            extra = {} if layer_type is None else {"layer_type": layer_type}
            cos, sin = self.base(x, position_ids, **extra)
            return cos, sin
        generator = torch.Generator().manual_seed(pass_seed(self.seed, *self._place, self._passes))
        self._passes += 1
        # Half precision would lose the fraction of positions beyond a few hundred tokens.
        with torch.autocast(x.device.type, enabled=False):
            drawn = self.draw(position_ids, x.shape[0], generator)
            angles = drawn.positions[..., None].float() * drawn.inv_freq.to(x.device, torch.float32)
            angles = angles[..., self.pairs.to(x.device)]
            return (angles.cos() * drawn.attention_factor).to(x.dtype), (angles.sin() * drawn.attention_factor).to(
                x.dtype
            )


def pass_seed(*parts: int) -> int:
    """A 63-bit seed, equal on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@torch.no_grad()
def channel_pairs(rotary: nn.Module, layer_type: str | None = None) -> torch.Tensor:
    """Which frequency each channel of cos and sin belongs to: int64 [rotary_dim].

    Architectures repeat the frequencies blockwise or side by side; the module is asked with frequencies that tell.

    Raises
    ------
    LeverNotApplicable : cos and sin are not those of position times frequency (multimodal sections and the like).
    """
    buffer: torch.Tensor = getattr(rotary, inv_freq_name(layer_type))
    own = buffer.clone()
    probe = torch.linspace(0.1, 1.0, own.shape[0], device=own.device)
    arguments = [torch.zeros(1, 1, 1, device=own.device), torch.ones(1, 1, dtype=torch.long, device=own.device)]
    # The plain forward: some types of transformers write their own frequencies back first.
    forward = inspect.unwrap(type(rotary).forward)
    try:
        buffer.copy_(probe)
        cos, sin = forward(rotary, *arguments, *([] if layer_type is None else [layer_type]))
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise LeverNotApplicable(f"{type(rotary).__name__} is not called as other rotary modules are") from error
    finally:
        buffer.copy_(own)
    distance = (torch.atan2(sin, cos).reshape(-1, 1) - probe).abs()
    nearest, index = distance.min(-1)
    spacing = 0.9 / max(1, own.shape[0] - 1)
    if nearest.max() > spacing / 4 or not bool((index.bincount(minlength=own.shape[0]) == 2).all()):
        raise LeverNotApplicable(f"{type(rotary).__name__} lays out its angles in a way that is not known")
    return index.cpu()


def own_inv_freq(model: PreTrainedModel, layer_type: str | None = None) -> torch.Tensor:
    """The frequencies in a model's rotary module, to the last bit: float32 [rotary_dim / 2] on the CPU.

    Raises
    ------
    LeverNotApplicable : no rotary module.
    """
    for _, _, module in rotary_modules(model, text_config(model.config)):
        buffer: torch.Tensor = getattr(module, inv_freq_name(layer_type))
        return buffer.detach().float().cpu().clone()
    raise LeverNotApplicable(f"no rotary module with frequencies of its own found in {type(model).__name__}")


@contextmanager
def drawn_positions(
    model: PreTrainedModel, draw: Draw, layer_type: str | None = None, seed: int = 0
) -> Iterator[list[DrawnRotary]]:
    """Put a `DrawnRotary` around every rotary module for the length of a `with` block.

    Raises
    ------
    LeverNotApplicable : no rotary module, or one whose layout of angles is not known.
    """
    found = list(rotary_modules(model, text_config(model.config)))
    if not found:
        raise LeverNotApplicable(f"no rotary module with frequencies of its own found in {type(model).__name__}")
    with kept_positions(model):
        wrapped = []
        for parent, name, module in found:
            rotary = DrawnRotary(module, draw, layer_type, seed).train(module.training)
            setattr(parent, name, rotary)
            wrapped.append(rotary)
        yield wrapped
