"""Linear attention: keys and values meet first, in a matrix that does not grow with the length.

`LinearAttention` normalises its rows, with f(x) = elu(x) + 1; `Lightning` lets the past fade instead, and is the whole
published layer with its norm and gate.

Source: arXiv 2006.16236 (linear attention); arXiv 2501.08313 (lightning attention).
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from farspan.models.lightning.layer import LightningAttention
from farspan.models.lightning.op import lightning_attention
from farspan.models.mixers.base import MixerError, ProjectedMixer, State, TokenMixer, Traits


class LinearAttention(ProjectedMixer):
    """f(Q) f(K)^T with rows divided by their sums."""

    kind: ClassVar[str] = "linear_attention"
    traits: ClassVar[Traits] = Traits(True, True, False, True, "head_dim", "L D head_dim")

    def forward(
        self,
        x: Tensor,
        *,
        causal: bool = True,
        positions: Tensor | None = None,
        padding_mask: Tensor | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, State | None]:
        self._require_causal_form(causal, state)
        query, key, value = self._features(x)
        # a value channel of ones sums the weights of each row
        value = torch.cat([value, torch.ones_like(value[..., :1])], -1)
        if causal:
            mixed, after = lightning_attention(
                query.transpose(1, 2),
                key.transpose(1, 2),
                value.transpose(1, 2),
                torch.zeros(self.heads, device=x.device),
                initial_state=None if state is None else state[0],
                output_final_state=True,
                padding_mask=padding_mask,
            )
            assert after is not None
            return self._divided(mixed), (after,)
        if padding_mask is not None:
            value = value * padding_mask[:, None, :, None].to(value.dtype)
        return self._divided((query @ (key.transpose(-1, -2) @ value)).transpose(1, 2)), None

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.project(x)
        group = self.heads // self.kv_heads
        key, value = (part.repeat_interleave(group, 1) for part in (key, value))
        return F.elu(query) + 1, F.elu(key) + 1, value

    @staticmethod
    def _divided(mixed: Tensor) -> Tensor:
        total = mixed[..., -1:]
        return (mixed[..., :-1] / torch.where(total == 0, torch.ones_like(total), total)).flatten(2)

    def mixing_matrix(self, x: Tensor, *, causal: bool = True) -> Tensor:
        query, key, _ = self._features(x)
        weights = query @ key.transpose(-1, -2)
        weights = weights.tril() if causal else weights
        return weights / weights.sum(-1, keepdim=True)

    def flops(self, length: int) -> float:
        return self.projection_flops(length) + 4.0 * length * self.d_model * (self.head_dim + 1)

    def state_bytes(self, length: int, bytes_per_element: int = 4) -> int:
        return self.d_model * (self.head_dim + 1) * 4


class Lightning(TokenMixer):
    """Decaying linear attention, with the norm, gate and output map of its published layer.

    Parameters
    ----------
    layer_idx, num_layers : depth, from which the decay follows
    gate : whether the output is gated
    """

    kind: ClassVar[str] = "lightning"
    traits: ClassVar[Traits] = Traits(True, False, True, True, "up to L, by decay", "L D head_dim")

    def __init__(
        self,
        d_model: int,
        heads: int = 1,
        *,
        layer_idx: int = 0,
        num_layers: int = 1,
        gate: bool = True,
        max_length: int = 1024,
    ) -> None:
        super().__init__(d_model, heads, max_length=max_length)
        self.layer = LightningAttention.new(d_model, heads, self.head_dim, layer_idx, num_layers, gate=gate)

    def forward(
        self,
        x: Tensor,
        *,
        causal: bool = True,
        positions: Tensor | None = None,
        padding_mask: Tensor | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, State | None]:
        if not causal:
            raise MixerError("'lightning' decays in time and has no form without causality")
        before = None if state is None else state[0]
        y, after, _ = self.layer.mix(x, state=before, output_final_state=True, padding_mask=padding_mask)
        assert after is not None
        return y, (after,)

    def mixing_matrix(self, x: Tensor, *, causal: bool = True) -> Tensor:
        """The matrix that mixes the values; norm, gate and output map come after it."""
        query, key, _ = (part.transpose(1, 2) for part in self.layer.project(x))
        index = torch.arange(x.shape[1], device=x.device)
        apart = (index[:, None] - index).clamp(min=0)
        decay = torch.exp(-self.layer.slopes(x.device).to(x.dtype)[:, None, None] * apart).tril()
        return query @ key.transpose(-1, -2) * decay

    def flops(self, length: int) -> float:
        return 2.0 * length * self.d_model * self.d_model * 5 + 4.0 * length * self.d_model * self.head_dim

    def state_bytes(self, length: int, bytes_per_element: int = 4) -> int:
        return self.d_model * self.head_dim * 4
