"""Mixers whose matrix depends on distance alone: average pooling, long convolution, and diagonal state spaces.

Source: arXiv 2111.11418 (pooling); arXiv 2302.10866 (long convolutions); arXiv 2203.14343 (diagonal state spaces).
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from farspan.models.mixers.base import State, TokenMixer, Traits, left_padded


class AveragePool(TokenMixer):
    """The mean of a window around each token, or of the last tokens; the window is cut at the ends.

    Parameters
    ----------
    window : tokens
    """

    kind: ClassVar[str] = "average_pool"
    traits: ClassVar[Traits] = Traits(False, True, True, True, "L", "L D")

    def __init__(self, d_model: int, heads: int = 1, *, window: int = 3, max_length: int = 1024) -> None:
        super().__init__(d_model, heads, max_length=max_length)
        self.window = window

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
        real = x.new_ones(x.shape[:2]) if padding_mask is None else padding_mask.to(x.dtype)
        # the last channel counts the tokens of each window
        x = torch.cat([left_padded(x, padding_mask), real[..., None]], -1)
        past = self.window - 1 if causal else (self.window - 1) // 2
        before = x.new_zeros(len(x), past, x.shape[2]) if state is None else state[0]
        after = x.new_zeros(len(x), self.window - 1 - past, x.shape[2])
        whole = torch.cat([before, x, after], 1)
        mean = F.avg_pool1d(whole.transpose(1, 2), self.window, 1).transpose(1, 2)
        y = mean[..., :-1] / mean[..., -1:].clamp(min=1.0 / (2 * self.window))
        return y, (whole[:, whole.shape[1] - past :],) if causal else None

    def mixing_matrix(self, x: Tensor, *, causal: bool = True) -> Tensor:
        index = torch.arange(x.shape[1], device=x.device)
        apart = index[:, None] - index
        past = self.window - 1 if causal else (self.window - 1) // 2
        near = ((apart <= past) & (apart >= past + 1 - self.window)).to(x.dtype)
        return (near / near.sum(-1, keepdim=True))[None, None]

    def flops(self, length: int) -> float:
        return float(length * self.window * self.d_model)

    def state_bytes(self, length: int, bytes_per_element: int = 4) -> int:
        return min(length, self.window - 1) * (self.d_model + 1) * bytes_per_element


class LongConvolution(TokenMixer):
    """Every channel convolved with a learned kernel as long as the sequence; always causal."""

    kind: ClassVar[str] = "long_convolution"
    traits: ClassVar[Traits] = Traits(False, False, True, True, "up to L", "L log L D")

    def __init__(self, d_model: int, heads: int = 1, *, max_length: int = 1024) -> None:
        super().__init__(d_model, heads, max_length=max_length)
        self.kernel = nn.Parameter(torch.empty(max_length, d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.kernel, 0.0, self.max_length**-0.5)

    def forward(
        self,
        x: Tensor,
        *,
        causal: bool = True,
        positions: Tensor | None = None,
        padding_mask: Tensor | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, State | None]:
        new, x = x.shape[1], left_padded(x, padding_mask)
        seen = x if state is None else torch.cat([state[0], x], 1)
        self._require_length(seen.shape[1])
        kernel = self.kernel[: seen.shape[1]]
        y = (kernel.flip(0) * seen).sum(1, keepdim=True) if new == 1 else causal_convolution(seen, kernel)[:, -new:]
        return y, (seen,) if causal else None

    def mixing_matrix(self, x: Tensor, *, causal: bool = True) -> Tensor:
        """One matrix a channel, [1, d_model, length, length]."""
        return toeplitz(self.kernel[: x.shape[1]].t())[None]

    def flops(self, length: int) -> float:
        return 15.0 * 2 * length * math.log2(max(2 * length, 2)) * self.d_model

    def state_bytes(self, length: int, bytes_per_element: int = 4) -> int:
        return length * self.d_model * bytes_per_element


class DiagonalSSM(TokenMixer):
    """h_t = a h_{t-1} + b x_t, y_t = c h_t, with `states` decaying numbers a channel; always causal.

    Decays are the tanh of their parameter, so that no state can grow.

    Parameters
    ----------
    states : numbers a channel keeps
    """

    kind: ClassVar[str] = "diagonal_ssm"
    traits: ClassVar[Traits] = Traits(False, False, True, True, "up to L", "L D states")

    def __init__(self, d_model: int, heads: int = 1, *, states: int = 16, max_length: int = 1024) -> None:
        super().__init__(d_model, heads, max_length=max_length)
        self.states = states
        self.raw_a = nn.Parameter(torch.empty(d_model, states))
        self.b = nn.Parameter(torch.empty(d_model, states))
        self.c = nn.Parameter(torch.empty(d_model, states))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        # decays over one to some hundred tokens
        nn.init.uniform_(self.raw_a, 0.5, 3.5)
        nn.init.normal_(self.b, 0.0, 1.0)
        nn.init.normal_(self.c, 0.0, 1.0 / self.states)

    def forward(
        self,
        x: Tensor,
        *,
        causal: bool = True,
        positions: Tensor | None = None,
        padding_mask: Tensor | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, State | None]:
        x = left_padded(x, padding_mask)
        length = x.shape[1]
        powers = self._powers(length + 1)
        y = causal_convolution(x, torch.einsum("dn,tdn,dn->td", self.c, powers[:-1], self.b))
        after = torch.einsum("tdn,dn,btd->bdn", powers[:-1].flip(0), self.b, x)
        if state is not None:
            y = y + torch.einsum("dn,tdn,bdn->btd", self.c, powers[1:], state[0])
            after = after + powers[length] * state[0]
        return y, (after,) if causal else None

    def _powers(self, count: int) -> Tensor:
        """a^0 ... a^(count - 1), [count, d_model, states]"""
        a = torch.tanh(self.raw_a)
        return a ** torch.arange(count, device=a.device)[:, None, None]

    def mixing_matrix(self, x: Tensor, *, causal: bool = True) -> Tensor:
        """One matrix a channel, [1, d_model, length, length]."""
        kernel = torch.einsum("dn,tdn,dn->dt", self.c, self._powers(x.shape[1]), self.b)
        return toeplitz(kernel)[None]

    def flops(self, length: int) -> float:
        return 8.0 * length * self.d_model * self.states

    def state_bytes(self, length: int, bytes_per_element: int = 4) -> int:
        return self.d_model * self.states * bytes_per_element


def causal_convolution(x: Tensor, kernel: Tensor) -> Tensor:
    """y_t = sum over s <= t of kernel_{t-s} x_s, through the Fourier transform; x [batch, L, D], kernel [L, D]."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    length = x.shape[1]
    size = 2 * length
    spectrum = torch.fft.rfft(x.to(wide), size, dim=1) * torch.fft.rfft(kernel.to(wide), size, dim=0)
    result: Tensor = torch.fft.irfft(spectrum, size, dim=1)[:, :length].to(x.dtype)
    return result


def toeplitz(kernel: Tensor) -> Tensor:
    """Lower triangular matrices with kernel [..., length] along their diagonals."""
    index = torch.arange(kernel.shape[-1], device=kernel.device)
    apart = index[:, None] - index
    return kernel[..., apart.clamp(min=0)] * (apart >= 0)
