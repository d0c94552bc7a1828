"""Softmax attention, whole or sparse: rows of exp(q k / sqrt d), normalised, over the keys a pattern keeps.

Source: arXiv 1706.03762; patterns of arXiv 1904.10509 (window and stride) and of blocks.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from farspan.models.mixers.base import MixerError, ProjectedMixer, State, Traits

Pattern = Literal["window", "block", "strided"]


class SoftmaxAttention(ProjectedMixer):
    """Attention over all keys.

    Parameters
    ----------
    rope_theta : base of rotary positions, or None for no positions at all
    """

    kind: ClassVar[str] = "softmax_attention"
    traits: ClassVar[Traits] = Traits(True, True, False, True, "up to L", "L^2 D")

    def __init__(
        self,
        d_model: int,
        heads: int = 1,
        *,
        kv_heads: int | None = None,
        rope_theta: float | None = None,
        max_length: int = 1024,
    ) -> None:
        super().__init__(d_model, heads, kv_heads=kv_heads, max_length=max_length)
        self.rope_theta = rope_theta

    def kept(self, q_index: Tensor, k_index: Tensor) -> Tensor:
        """Which keys a query may read, by their places among the tokens [..., queries] and [..., keys]: bool
        [..., queries, keys]."""
        return torch.ones(1, 1, dtype=torch.bool, device=q_index.device)

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
        query, key, value, real = self._attended(x, positions, padding_mask, state)
        mask = self._mask(query.shape[2], key.shape[2], causal, real)
        output = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, enable_gqa=self.heads != self.kv_heads
        )
        return output.transpose(1, 2).flatten(2), (key, value, real) if causal else None

    def _attended(
        self, x: Tensor, positions: Tensor | None, padding_mask: Tensor | None, state: State | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        query, key, value = self.project(x)
        past = 0 if state is None else state[0].shape[2]
        if self.rope_theta is not None:
            if positions is None:
                positions = torch.arange(past, past + x.shape[1], device=x.device)[None]
            query, key = (rotate(part, positions, self.rope_theta) for part in (query, key))
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        if padding_mask is not None:
            real = padding_mask.bool()
        if state is not None:
            key, value = torch.cat([state[0], key], 2), torch.cat([state[1], value], 2)
            real = torch.cat([state[2], real], 1)
        return query, key, value, real

    def _mask(self, queries: int, keys: int, causal: bool, real: Tensor) -> Tensor:
        """Bool [batch, 1, queries, keys]; a padded query reads itself, so that no row is empty."""
        place = real.cumsum(1)
        mask = self.kept(place[:, keys - queries :] - 1, place - 1)
        index = torch.arange(keys, device=real.device)
        rows = index[keys - queries :, None]
        if causal:
            mask = mask & (index <= rows)
        return ((mask & real[:, None]) | (index == rows))[:, None]

    def mixing_matrix(self, x: Tensor, *, causal: bool = True) -> Tensor:
        query, key, _, real = self._attended(x, None, None, None)
        scores = query @ key.repeat_interleave(self.heads // self.kv_heads, 1).transpose(-1, -2) * self.head_dim**-0.5
        mask = self._mask(x.shape[1], x.shape[1], causal, real)
        result: Tensor = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        return result

    def flops(self, length: int) -> float:
        index = torch.arange(length)
        pairs = float((self.kept(index, index) & (index <= index[:, None])).sum()) if length <= 4096 else length**2 / 2
        return self.projection_flops(length) + 4.0 * pairs * self.d_model

    def state_bytes(self, length: int, bytes_per_element: int = 4) -> int:
        return 2 * length * self.kv_heads * self.head_dim * bytes_per_element


class SparseAttention(SoftmaxAttention):
    """Attention over the keys of a fixed pattern.

    Parameters
    ----------
    pattern : `window`, the keys at most `size` - 1 away; `block`, the keys of the query's own block of `size`;
        `strided`, the window and every key at a multiple of `size`
    """

    kind: ClassVar[str] = "sparse_attention"
    traits: ClassVar[Traits] = Traits(True, True, True, True, "up to L", "density L^2 D")

    def __init__(
        self,
        d_model: int,
        heads: int = 1,
        *,
        pattern: Pattern = "window",
        size: int = 64,
        kv_heads: int | None = None,
        rope_theta: float | None = None,
        max_length: int = 1024,
    ) -> None:
        super().__init__(d_model, heads, kv_heads=kv_heads, rope_theta=rope_theta, max_length=max_length)
        if size < 1 or pattern not in ("window", "block", "strided"):
            raise MixerError(f"need size >= 1 and a pattern of window, block, strided; given {size} and {pattern!r}")
        self.pattern = pattern
        self.size = size

    def kept(self, q_index: Tensor, k_index: Tensor) -> Tensor:
        rows, columns = q_index[..., :, None], k_index[..., None, :]
        if self.pattern == "block":
            return rows // self.size == columns // self.size
        near = (rows - columns).abs() < self.size
        return near if self.pattern == "window" else near | (columns % self.size == 0)


def rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Rotary positions: [batch, heads, length, head_dim] turned by positions [batch or 1, length]."""
    half = x.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = positions[:, None, :, None].float() * frequencies
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
