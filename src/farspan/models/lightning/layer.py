"""The lightning layer: a gated linear attention that stands where a decoder has its softmax attention.

It takes what transformers hands to an attention module and uses no positions, since decay tells near from far. Its
parts have the names of MiniMax checkpoints; it can be built from such parts, so that a model keeps its own weights.

Source: arXiv 2501.08313 (MiniMax-01), section 2.2, and the released modelling code of MiniMax-M1.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache

from farspan.models.lightning.cache import HybridCache, States, state_layer
from farspan.models.lightning.op import Backend, lightning_attention, lightning_decode
from farspan.models.lightning.slopes import decay_slopes

NORM_EPS = 1e-6


class LightningAttention(nn.Module):
    """q, k, v = silu(x W_qkv), split within each head; linear attention with decay; norm over all heads; gate; W_out.

    Parameters
    ----------
    qkv_proj, out_proj : linear maps hidden -> 3 x heads x head_dim and heads x head_dim -> hidden
    norm : a root-mean-square norm over heads x head_dim channels
    output_gate : linear map hidden -> heads x head_dim whose sigmoid scales the output; None for no gate
    num_heads, head_dim : heads have queries, keys and values of their own; there is no sharing of keys here
    slopes : Tensor [num_heads], decay a token
    """

    def __init__(
        self,
        *,
        qkv_proj: nn.Module,
        norm: nn.Module,
        out_proj: nn.Module,
        output_gate: nn.Module | None,
        num_heads: int,
        head_dim: int,
        layer_idx: int,
        slopes: Tensor,
        block_size: int | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.qkv_proj = qkv_proj
        self.norm = norm
        self.out_proj = out_proj
        self.output_gate = output_gate
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.layer_idx = layer_idx
        self.block_size = block_size
        self.backend: Backend = backend
        # no buffer: casting a model to half precision would spoil the small ones, and checkpoints would carry them
        self._slopes = {slopes.device: slopes.float()}

    @classmethod
    def new(
        cls,
        hidden_size: int,
        num_heads: int,
        head_dim: int,
        layer_idx: int,
        num_layers: int,
        *,
        gate: bool = True,
        block_size: int | None = None,
        backend: Backend = "auto",
    ) -> LightningAttention:
        """A layer with parts of its own and the slopes of its depth."""
        inner = num_heads * head_dim
        return cls(
            qkv_proj=nn.Linear(hidden_size, 3 * inner, bias=False),
            norm=nn.RMSNorm(inner, eps=NORM_EPS),
            out_proj=nn.Linear(inner, hidden_size, bias=False),
            output_gate=nn.Linear(hidden_size, inner, bias=False) if gate else None,
            num_heads=num_heads,
            head_dim=head_dim,
            layer_idx=layer_idx,
            slopes=decay_slopes(num_heads, layer_idx, num_layers),
            block_size=block_size,
            backend=backend,
        )

    def slopes(self, device: torch.device) -> Tensor:
        """[num_heads], float32, on this device."""
        if device not in self._slopes:
            self._slopes[device] = next(iter(self._slopes.values())).to(device)
        return self._slopes[device]

    def project(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v [batch, length, heads, head_dim]"""
        mixed = F.silu(self.qkv_proj(hidden_states)).view(*hidden_states.shape[:2], self.num_heads, -1)
        query, key, value = torch.split(mixed, self.head_dim, dim=-1)
        return query, key, value

    def finish(self, mixed: Tensor, hidden_states: Tensor) -> Tensor:
        """Norm, gate and output map of [batch, length, heads, head_dim]."""
        output = self.norm(mixed.flatten(2))
        if self.output_gate is not None:
            output = torch.sigmoid(self.output_gate(hidden_states)) * output
        result: Tensor = self.out_proj(output)
        return result

    def fresh_cache(self) -> HybridCache:
        """The cache for a model with such layers; whoever makes caches for any model asks for it by this name."""
        return HybridCache()

    def mix(
        self,
        hidden_states: Tensor,
        *,
        state: Tensor | None = None,
        output_final_state: bool = False,
        padding_mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, States]:
        """The whole layer on [batch, length, hidden]: its output, the state after it, and the keys and values."""
        query, key, value = self.project(hidden_states)
        slopes = self.slopes(hidden_states.device)
        if state is not None and query.shape[1] == 1 and padding_mask is None:
            mixed, final = lightning_decode(query, key, value, slopes, state, backend=self.backend)
            return self.finish(mixed, hidden_states), final, (key, value)
        output, last = lightning_attention(
            query,
            key,
            value,
            slopes,
            initial_state=state,
            output_final_state=output_final_state,
            padding_mask=padding_mask,
            cu_seqlens=cu_seqlens,
            block_size=self.block_size,
            backend=self.backend,
        )
        return self.finish(output, hidden_states), last, (key, value)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: object = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        position_ids: Tensor | None = None,
        **kwargs: object,
    ) -> tuple[Tensor, None]:
        """As transformers calls an attention module; rotary positions are ignored.

        Packed documents are told from the mask or, without one, from positions that start again, if there is no cache.
        """
        batch, length = hidden_states.shape[:2]
        mask, bounds = read_mask(attention_mask, position_ids, batch, length)
        if past_key_values is None:
            if bounds is None:
                return self.mix(hidden_states, padding_mask=mask)[0], None
            flat, _, _ = self.mix(hidden_states.flatten(0, 1)[None], cu_seqlens=bounds)
            return flat.view(batch, length, -1), None
        layer = state_layer(past_key_values, self.layer_idx)
        before = None if layer.states is None else layer.states[0]
        output, state, (key, value) = self.mix(hidden_states, state=before, output_final_state=True, padding_mask=mask)
        assert state is not None
        if mask is None:
            mask = hidden_states.new_ones(batch, length, dtype=torch.bool)
        added = (key.detach(), value.detach(), mask) if layer.recording else None
        layer.advance((state,), length, added, partial(_replay, slopes=self.slopes(hidden_states.device)))
        return output, None


def _replay(base: States | None, added: States, *, slopes: Tensor) -> States:
    """The state after some tokens, from the one before them."""
    key, value, mask = added
    state = None if base is None else base[0]
    _, final = lightning_attention(
        key, key, value, slopes, initial_state=state, output_final_state=True, padding_mask=mask
    )
    assert final is not None
    return (final,)


def read_mask(
    attention_mask: Tensor | None, position_ids: Tensor | None, batch: int, length: int
) -> tuple[Tensor | None, Tensor | None]:
    """What transformers' mask and positions say to a layer that has no use for masks of pairs.

    Parameters
    ----------
    attention_mask : None, tokens against padding [batch, keys], or pairs [batch, 1, length, keys], boolean or added
    position_ids : looked at for documents where there is no mask

    Returns
    -------
    (tokens, bounds) : bool [batch, length], or None if there is no padding; where packed documents begin in the
        flattened batch, and the total, or None if every row is one
    """
    if attention_mask is None:
        return None, document_bounds(position_ids, batch)
    if attention_mask.ndim == 2:
        tokens = attention_mask[:, -length:].bool()
        return (None if tokens.all() else tokens), None
    pairs = attention_mask[:, 0] if attention_mask.dtype == torch.bool else attention_mask[:, 0] == 0
    pairs = pairs[..., -length:].expand(batch, -1, -1)
    # padding does not even read itself; the first token of a document does not read the one before it
    tokens = pairs.diagonal(dim1=1, dim2=2)
    if not tokens.all():
        return tokens, None
    starts = torch.ones_like(tokens)
    starts[:, 1:] = ~pairs.diagonal(-1, 1, 2)
    return None, _bounds(starts)


def document_bounds(position_ids: Tensor | None, batch: int) -> Tensor | None:
    """Where documents begin in the flattened batch, and the total; None if every row is one document.

    position_ids [batch or 1, length]; a document begins wherever positions do not go on by one
    """
    if position_ids is None or position_ids.ndim != 2 or position_ids.shape[1] < 2:
        return None
    starts = torch.ones_like(position_ids, dtype=torch.bool)
    starts[:, 1:] = position_ids[:, 1:] != position_ids[:, :-1] + 1
    return _bounds(starts.expand(batch, -1))


def _bounds(starts: Tensor) -> Tensor | None:
    """Flattened indices of starts, bool [batch, length], and the total; None if only rows start."""
    if not starts[:, 1:].any():
        return None
    starts = starts.flatten()
    total = torch.tensor([starts.numel()], device=starts.device)
    return torch.cat([starts.nonzero().squeeze(-1), total])
