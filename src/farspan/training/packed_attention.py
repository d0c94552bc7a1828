"""Attention over packed rows, one document at a time, so that no mask of tokens by tokens is ever made.

transformers keeps documents apart by a mask of [length, length], which alone is 16 GiB at 131,072 tokens. Here each
document is read by itself: exact, without a mask, and cheaper by what the mask would have hidden. As the attention of
a model it is `farspan_packed`, for training without a cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from farspan.errors import FarspanError
from farspan.training.data.packing import document_bounds

IMPLEMENTATION = "farspan_packed"
Backend = Literal["auto", "loop", "mask", "varlen"]
SHORT = 512  # tokens a row up to which one call with a mask beats many without
# On a CPU documents are filled up to a multiple of this: kernels are built and kept for every length they have met.
ROWS = 64
PROBE = 4  # tokens of a document in the check
WIDEST = 256  # head dimensions that the kernel for documents of varying length takes


class PackedAttentionError(FarspanError):
    """A call that attention over packed rows cannot serve."""


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    *,
    causal: bool = True,
    window: int | None = None,
    softcap: float | None = None,
    scaling: float | None = None,
    longest: int | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Attention in which a token sees its own document alone.

    Parameters
    ----------
    query : [batch, heads, length, dim]
    key, value : [batch, kv heads, length, dim]
    bounds : int [documents + 1], where documents begin and end with all rows one after another; rows are bounds too
    window : latest tokens that a token sees, itself included
    softcap : scores become `softcap * tanh(scores / softcap)`
    longest : tokens of the longest document, where it is known
    backend : `loop` over documents, `mask` for short rows (no softcap), or torch's `varlen` kernel (CUDA, no softcap);
        `auto` takes what is fastest

    Returns
    -------
    [batch, heads, length, dim]

    Raises
    ------
    PackedAttentionError : bounds that do not cover the rows, or a backend that cannot do what is asked.
    """
    batch, _, length, dim = query.shape
    ends = bounds.tolist()
    if ends[0] != 0 or ends[-1] != batch * length or not set(range(0, batch * length, length)) <= set(ends):
        raise PackedAttentionError(f"documents must cover {batch} rows of {length} tokens, none of them two rows")
    if backend == "mask" and softcap is not None:
        raise PackedAttentionError("'mask' has no softcap; use backend='loop'")
    if backend == "varlen" and (query.device.type != "cuda" or softcap is not None):
        raise PackedAttentionError("'varlen' needs a CUDA device and no softcap; use backend='loop'")
    if backend == "auto":
        able = query.device.type == "cuda" and softcap is None and dim <= WIDEST and query.dtype != torch.float32
        short = query.device.type == "cpu" and length <= SHORT and len(ends) > batch + 1 and softcap is None
        backend = "varlen" if able else "mask" if short else "loop"
    if backend == "mask":
        return _masked(query, key, value, bounds, causal, window, scaling)
    query, key, value = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value))
    if backend == "varlen":
        longest = longest or max(end - start for start, end in pairwise(ends))
        found = _varlen(query, key, value, bounds.int(), longest, causal, window, scaling)
    else:
        documents = (slice(start, end) for start, end in pairwise(ends))
        found = torch.cat([_one(query[d], key[d], value[d], causal, window, softcap, scaling) for d in documents])
    return found.reshape(batch, length, *found.shape[1:]).transpose(1, 2)


def _masked(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, causal: bool, window: int | None, scaling: float | None
) -> Tensor:
    """All documents at once under a mask, [batch, heads, length, dim]."""
    batch, heads, length, _ = query.shape
    place = torch.arange(length, device=query.device)
    document = torch.searchsorted(bounds, torch.arange(batch * length, device=query.device), right=True)
    document = document.view(batch, 1, length)
    distance = place[:, None] - place
    seen = document[..., :, None] == document[..., None, :]
    if causal:
        seen = seen & (distance >= 0)
    if window is not None:
        seen = seen & (distance.abs() < window)
    key, value = (tensor.repeat_interleave(heads // key.shape[1], 1) for tensor in (key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scaling)


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: Tensor,
    longest: int,
    causal: bool,
    window: int | None,
    scaling: float | None,
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    seen = (-1 if window is None else window - 1, 0 if causal else -1)
    found = varlen_attn(
        query, key, value, bounds, bounds, longest, longest, window_size=seen, scale=scaling, enable_gqa=True
    )
    return cast(Tensor, found)


def _one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    causal: bool,
    window: int | None,
    softcap: float | None,
    scaling: float | None,
) -> Tensor:
    """Attention of one document, [tokens, heads, dim]."""
    tokens = len(query)
    # what fills up comes after every token, where causal attention does not look
    spare = -tokens % ROWS if causal and query.device.type == "cpu" else 0
    query, key, value = (F.pad(tensor, (0, 0, 0, 0, 0, spare)).transpose(0, 1)[None] for tensor in (query, key, value))
    mask = None
    if window is not None and tokens > window:
        place = torch.arange(tokens + spare, device=query.device)
        distance = place[:, None] - place
        mask = distance < window
        mask &= distance >= 0 if causal else distance > -window
    if softcap is None:
        found = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal and mask is None, scale=scaling, enable_gqa=True
        )
    else:
        found = _written_out(query, key, value, mask, causal, softcap, scaling)
    return found[0, :, :tokens].transpose(0, 1)


def _written_out(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    softcap: float,
    scaling: float | None,
) -> Tensor:
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    if mask is None and causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.float().softmax(-1).to(value.dtype) @ value


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it; query [batch, heads, length, dim] -> [batch, length, heads, dim]"""
    positions = kwargs.get("position_ids")
    if key.shape[2] != query.shape[2]:
        raise PackedAttentionError(f"'{IMPLEMENTATION}' reads whole rows; call the model with use_cache=False")
    if attention_mask is not None:
        raise PackedAttentionError(f"'{IMPLEMENTATION}' makes no use of masks; leave attention_mask out")
    if dropout or kwargs.get("s_aux") is not None or kwargs.get("position_bias") is not None:
        raise PackedAttentionError(f"'{IMPLEMENTATION}' has no dropout, no sinks and no position bias")
    if not isinstance(positions, Tensor):
        raise PackedAttentionError(f"{type(module).__name__} does not pass position_ids on, so documents are unknown")
    bounds, longest = document_bounds(positions.expand(len(query), -1))
    found = packed_attention(
        query,
        key,
        value,
        bounds,
        causal=bool(getattr(module, "is_causal", True)),
        window=window if isinstance(window := kwargs.get("sliding_window"), int) else None,
        softcap=softcap if isinstance(softcap := kwargs.get("softcap"), float) else None,
        scaling=scaling,
        longest=longest,
    )
    return found.transpose(1, 2).contiguous(), None


def no_mask(*args: object, attention_mask: Tensor | None = None, **kwargs: object) -> None:
    """The mask that transformers makes for it: none, and none may be given."""
    if attention_mask is not None and not bool(attention_mask.all()):
        raise PackedAttentionError(f"'{IMPLEMENTATION}' takes packed rows, not padded ones; leave attention_mask out")


AttentionInterface.register(IMPLEMENTATION, attention_forward)
AttentionMaskInterface.register(IMPLEMENTATION, no_mask)


@torch.no_grad()
def check_documents_apart(model: PreTrainedModel) -> None:
    """Read two short documents in one row, change the first, and see that the second does not notice.

    Raises
    ------
    PackedAttentionError : it does; what a packed row would teach is then not what its documents say.
    """
    was_training = model.training
    model.eval()
    try:
        ids = torch.arange(2 * PROBE, device=model.device)[None] % int(model.config.get_text_config().vocab_size)
        others = torch.cat([ids[:, :PROBE].flip(1), ids[:, PROBE:]], 1)
        places = torch.arange(PROBE, device=model.device).repeat(2)[None]
        decoder = model.get_decoder()
        first, second = (
            decoder(input_ids=row, position_ids=places, use_cache=False).last_hidden_state[:, PROBE:]
            for row in (ids, others)
        )
    finally:
        model.train(was_training)
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-3):
        raise PackedAttentionError(
            f"{type(model).__name__} on attention '{model.config._attn_implementation}' lets packed documents of a row "
            "see each other; give each a row of its own: shortest_document as long as the rows"
        )


@contextmanager
def packed(model: PreTrainedModel) -> Iterator[None]:
    """Have a model that runs on `sdpa` read packed rows document by document; others stay as they are."""
    own = model.config._attn_implementation
    if own != "sdpa":
        yield
        return
    model.set_attn_implementation(IMPLEMENTATION)
    try:
        yield
    finally:
        model.set_attn_implementation(own)
