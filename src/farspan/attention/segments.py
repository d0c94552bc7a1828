"""Attention over a prompt of independent segments: a prefix, segments that do not see each other, a suffix.

The prefix is causal, every segment sees the prefix and itself, the suffix sees everything before it. The work grows
with the number of segments, not with its square. Segments may have any lengths; short ones are computed together with
others of about their length. The pattern serves documents to rank, shots, or retrieved passages: nothing here knows
which. `token_mask` is the definition the tests compare against. Gradients flow through.

Source: arXiv 2510.05396, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from farspan.errors import FarspanError

PREFIX, SUFFIX, PADDING = 0, -1, -2
# segments in one call differ in length by at most this factor
SPREAD = 1.25


class LayoutError(FarspanError):
    """Segments that cannot be attended over."""


@dataclass(frozen=True, eq=False)
class BlockLayout:
    """Which segment each token of one row belongs to.

    block_ids : Tensor int [L]: 0 prefix, 1 to N a segment, -1 suffix, -2 padding. Tokens of a segment keep their order.

    Raises
    ------
    LayoutError : not one row, or an id below -2.
    """

    block_ids: Tensor

    def __post_init__(self) -> None:
        if self.block_ids.ndim != 1 or self.block_ids.is_floating_point():
            raise LayoutError(f"block_ids of a row are whole numbers [length], given {list(self.block_ids.shape)}")
        if self.block_ids.numel() and int(self.block_ids.min()) < PADDING:
            raise LayoutError("block_ids are 0 (prefix), 1 and up (segments), -1 (suffix) or -2 (padding)")

    @classmethod
    def from_block_mask(cls, mask: Tensor) -> BlockLayout:
        """From equal blocks with padding: mask bool [M, H], first block the prefix, last the suffix."""
        names = torch.arange(len(mask), device=mask.device)
        names[-1] = SUFFIX
        return cls(torch.where(mask.bool(), names[:, None], PADDING).flatten())

    @cached_property
    def prefix(self) -> Tensor:
        """Places of the prefix."""
        return (self.block_ids == PREFIX).nonzero()[:, 0]

    @cached_property
    def suffix(self) -> Tensor:
        """Places of the suffix."""
        return (self.block_ids == SUFFIX).nonzero()[:, 0]

    @cached_property
    def segments(self) -> list[Tensor]:
        """Places of each segment that has tokens."""
        inside = (self.block_ids > 0).nonzero()[:, 0]
        names, order = self.block_ids[inside].sort(stable=True)
        _, counts = torch.unique_consecutive(names, return_counts=True)
        return list(torch.split(inside[order], counts.tolist()))

    @cached_property
    def buckets(self) -> list[tuple[Tensor, Tensor]]:
        """Segments of about equal length together: places [n, longest] and which of them exist, bool [n, longest]."""
        found: list[list[Tensor]] = []
        for segment in sorted(self.segments, key=len):
            if found and len(segment) <= SPREAD * len(found[-1][0]):
                found[-1].append(segment)
            else:
                found.append([segment])
        return [
            (
                torch.nn.utils.rnn.pad_sequence(group, batch_first=True),
                torch.nn.utils.rnn.pad_sequence([torch.ones_like(part, dtype=torch.bool) for part in group], True),
            )
            for group in found
        ]

    def token_mask(self) -> Tensor:
        """Which keys each token reads: bool [L, L]. Quadratic: for tests and small sizes."""
        ids = self.block_ids
        place = torch.arange(len(ids), device=ids.device)
        same = (ids[:, None] == ids) & (place <= place[:, None])
        prefix = (ids == PREFIX)[None] & (ids != PREFIX)[:, None]
        whole = (ids == SUFFIX)[:, None] & (ids != SUFFIX)[None]
        real = ids != PADDING
        return (same | prefix | whole) & real & real[:, None]

    def cells(self) -> tuple[int, int]:
        """Cells (query, key) that are computed, padding inside calls left out, and those of causal attention."""
        prefix, suffix = len(self.prefix), len(self.suffix)
        lengths = [len(segment) for segment in self.segments]
        total = prefix + suffix + sum(lengths)
        kept = prefix * (prefix + 1) // 2 + suffix * (total - suffix) + suffix * (suffix + 1) // 2
        kept += sum(length * prefix + length * (length + 1) // 2 for length in lengths)
        return kept, total * (total + 1) // 2


def segmented_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: BlockLayout, *, scaling: float | None = None
) -> Tensor:
    """Attention of one row over the segments of its layout.

    query : Tensor [Hq, L, D]; key : Tensor [Hkv, L, D]; value : Tensor [Hkv, L, Dv]

    Returns
    -------
    Tensor [Hq, L, Dv]; padding gives 0.

    Raises
    ------
    LayoutError : the layout is for another length.
    """
    length = query.shape[1]
    if len(layout.block_ids) != length or key.shape[1] != length:
        raise LayoutError(f"the layout is for {len(layout.block_ids)} tokens, given {length} and {key.shape[1]}")
    call = _Call(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling)
    if len(layout.prefix):
        call.put(layout.prefix[None], None, call.causal(layout.prefix[None]))
    if call.keeps_norms and len(layout.prefix):
        _segments_in_parts(call, layout)
    else:
        _segments_beside_prefix(call, layout)
    if len(layout.suffix):
        width = len(layout.suffix)
        earlier = ((layout.block_ids != SUFFIX) & (layout.block_ids != PADDING)).nonzero()[:, 0]
        seen = torch.cat([earlier, layout.suffix])[None]
        rows = torch.arange(width, device=seen.device)[:, None] + len(earlier)
        mask = (torch.arange(seen.shape[1], device=seen.device) <= rows)[None]
        call.put(layout.suffix[None], None, call.attend(layout.suffix[None], seen, mask))
    return call.output()


def _segments_beside_prefix(call: _Call, layout: BlockLayout) -> None:
    """Every segment with the prefix before it as keys of one call; has gradients."""
    for places, there in layout.buckets:
        rows, width = places.shape
        seen = torch.cat([layout.prefix.expand(rows, -1), places], 1)
        inside = torch.ones(width, width, dtype=torch.bool, device=places.device).tril()
        before = torch.ones(width, len(layout.prefix), dtype=torch.bool, device=places.device)
        # places that fill up come last, so causality hides them
        call.put(places, there, call.attend(places, seen, torch.cat([before, inside], -1)[None]))


def _segments_in_parts(call: _Call, layout: BlockLayout) -> None:
    """The prefix for all segments at once, each segment by itself, put together by their logsumexps.

    The prefix's keys are not repeated for every segment, and no call needs a mask.
    """
    for places, there in layout.buckets:
        near, near_norm = call.with_norms(places, places, causal=True)
        far, far_norm = call.with_norms(places.reshape(1, -1), layout.prefix[None], causal=False)
        # of two parts, each weighs by the other's logsumexp
        share = torch.sigmoid(far_norm.reshape(near_norm.shape) - near_norm).to(near.dtype)
        call.put(places, there, torch.lerp(near, far.reshape(near.shape), share[..., None]))


class _Call:
    """Queries, keys and values of one row, read and written by places.

    query : Tensor [Hq, L, D]; key : Tensor [Hkv, L, D]; value : Tensor [Hkv, L, Dv]
    """

    def __init__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> None:
        self.heads, self.kv_heads = len(query), len(key)
        self.scaling = scaling
        # a token's heads lie together, so that collecting tokens copies long runs
        self._query, self._key, self._value = (x.transpose(0, 1).flatten(1) for x in (query, key, value))
        self._output = value.new_zeros(query.shape[1], self.heads * value.shape[-1])
        need_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
        self.keeps_norms = query.device.type == "cpu" and not need_grad and query.shape[-1] == value.shape[-1]

    def attend(self, places: Tensor, seen: Tensor, mask: Tensor) -> Tensor:
        """Attention [n, width, Hq, Dv] at `places` [n, width] over keys at `seen` [n, keys], mask [1, width, keys]."""
        groups, (rows, width) = self.heads // self.kv_heads, places.shape
        # the heads of a group are rows of one matrix: their keys are collected once
        queries = _rows_at(self._query, places).view(rows, width, self.kv_heads, groups, -1)
        result = F.scaled_dot_product_attention(
            queries.permute(0, 2, 3, 1, 4).flatten(2, 3),
            _collected(self._key, seen, self.kv_heads),
            _collected(self._value, seen, self.kv_heads),
            attn_mask=mask[:, None, None].expand(-1, 1, groups, -1, -1).flatten(2, 3),
            scale=self.scaling,
        )
        return result.reshape(rows, self.heads, width, -1).transpose(1, 2)

    def causal(self, places: Tensor) -> Tensor:
        """Causal attention among `places` [n, width]."""
        width = places.shape[1]
        return self.attend(places, places, torch.ones(1, width, width, dtype=torch.bool, device=places.device).tril())

    def with_norms(self, places: Tensor, seen: Tensor, *, causal: bool) -> tuple[Tensor, Tensor]:
        """Attention [n, width, Hq, Dv] without a mask, and its logsumexp [n, width, Hq]; where `keeps_norms`."""
        groups = self.heads // self.kv_heads
        keys, values = (_collected(rows, seen, self.kv_heads) for rows in (self._key, self._value))
        if groups > 1:
            # packed heads would need a mask
            keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
        output, norm = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            _collected(self._query, places, self.heads), keys, values, 0.0, causal, scale=self.scaling
        )
        return output.transpose(1, 2), norm.transpose(1, 2)

    def put(self, places: Tensor, there: Tensor | None, result: Tensor) -> None:
        """Write results [n, width, Hq, Dv] at `places` [n, width], where they are `there`."""
        at, rows = places.flatten(), result.reshape(places.numel(), -1)
        if there is not None and not bool(there.all()):
            at, rows = places[there], rows[there.flatten()]
        run = _run(at)
        if run is None:
            self._output.index_copy_(0, at, rows)
        else:
            self._output[run] = rows

    def output(self) -> Tensor:
        """What was written: Tensor [Hq, L, Dv]."""
        return self._output.view(len(self._output), self.heads, -1).transpose(0, 1)


def _collected(rows: Tensor, places: Tensor, heads: int) -> Tensor:
    """Tokens at `places` [n, width] of rows [L, heads * D]: Tensor [n, heads, width, D]."""
    return _rows_at(rows, places).view(*places.shape, heads, -1).transpose(1, 2)


def _rows_at(rows: Tensor, places: Tensor) -> Tensor:
    """Rows of a table at places of any shape, flat; a view where these follow each other."""
    at = places.flatten()
    run = _run(at)
    return rows.index_select(0, at) if run is None else rows[run]


def _run(places: Tensor) -> slice | None:
    """Places that follow each other, as a slice."""
    if not len(places) or not bool((places.diff() == 1).all()):
        return None
    first = int(places[0])
    return slice(first, first + len(places))
