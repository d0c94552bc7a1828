"""Mixers that see the whole sequence at once and have no causal form: low-rank attention and the Fourier transform.

Source: arXiv 2006.04768 (Linformer) and arXiv 2105.03824 (FNet).
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from farspan.models.mixers.base import MixerError, ProjectedMixer, State, TokenMixer, Traits, left_padded


class LowRankAttention(ProjectedMixer):
    """Softmax attention over `rank` learned combinations of the keys.

    Parameters
    ----------
    rank : combinations of the keys and values, the same for all heads
    """

    kind: ClassVar[str] = "low_rank"
    traits: ClassVar[Traits] = Traits(True, False, True, False, "rank", "L rank D")

    def __init__(self, d_model: int, heads: int = 1, *, rank: int = 32, max_length: int = 1024) -> None:
        super().__init__(d_model, heads, max_length=max_length)
        self.rank = rank
        self.e = nn.Parameter(torch.empty(rank, max_length))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.e, 0.0, self.max_length**-0.5)

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
        x = left_padded(x, padding_mask)
        value = self.e[:, : x.shape[1]] @ self.project(x)[2]
        return (self.mixing_matrix(x, causal=False) @ value).transpose(1, 2).flatten(2), None

    def mixing_matrix(self, x: Tensor, *, causal: bool = True) -> Tensor:
        """The softmax over combinations, [batch, heads, length, rank]; M is this times `e`."""
        self._require_causal_form(causal, None)
        self._require_length(x.shape[1])
        query, key, _ = self.project(x)
        combined = self.e[:, : x.shape[1]] @ key
        result: Tensor = (query @ combined.transpose(-1, -2) * self.head_dim**-0.5).softmax(-1)
        return result

    def flops(self, length: int) -> float:
        return self.projection_flops(length) + 8.0 * length * self.rank * self.d_model


class Fourier(TokenMixer):
    """The real part of the Fourier transform along tokens and channels; nothing is learned."""

    kind: ClassVar[str] = "fourier"
    traits: ClassVar[Traits] = Traits(False, False, True, False, "L", "L log L D")

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
        x = left_padded(x, padding_mask)
        # half precision has no transform on a CPU
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        return torch.fft.fft2(wide).real.to(x.dtype), None

    def mixing_matrix(self, x: Tensor, *, causal: bool = True) -> Tensor:
        """The complex matrix along tokens, [1, 1, length, length]; y is the real part of it times x times its like
        along channels."""
        if causal:
            raise MixerError("'fourier' has no causal form; ask with causal=False")
        along: Tensor = torch.fft.fft(torch.eye(x.shape[1], device=x.device, dtype=torch.float64))
        return along[None, None]

    def flops(self, length: int) -> float:
        size = length * self.d_model
        return 5.0 * size * math.log2(max(size, 2))
