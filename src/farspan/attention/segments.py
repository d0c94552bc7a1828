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
    output = value.new_zeros(query.shape[0], length, value.shape[-1])
    if len(layout.prefix):
        at = layout.prefix[None]
        output = _placed(output, at, None, _attend(query, key, value, at, at, None, scaling))
    for places, there in layout.buckets:
        rows, width = places.shape
        seen = torch.cat([layout.prefix.expand(rows, -1), places], 1)
        inside = torch.ones(width, width, dtype=torch.bool, device=places.device).tril() & there[:, None]
        before = torch.ones(rows, width, len(layout.prefix), dtype=torch.bool, device=places.device)
        # places that fill up read themselves, so that no row of the softmax is empty
        inside = inside | torch.eye(width, dtype=torch.bool, device=places.device)
        mask = torch.cat([before, inside], -1)
        output = _placed(output, places, there, _attend(query, key, value, places, seen, mask, scaling))
    if len(layout.suffix):
        earlier = ((layout.block_ids != SUFFIX) & (layout.block_ids != PADDING)).nonzero()[:, 0]
        seen = torch.cat([earlier, layout.suffix])[None]
        width = len(layout.suffix)
        rows_of = torch.arange(width, device=seen.device)[:, None] + len(earlier)
        mask = (torch.arange(seen.shape[1], device=seen.device) <= rows_of)[None]
        at = layout.suffix[None]
        output = _placed(output, at, None, _attend(query, key, value, at, seen, mask, scaling))
    return output


def _attend(
    query: Tensor, key: Tensor, value: Tensor, places: Tensor, seen: Tensor, mask: Tensor | None, scaling: float | None
) -> Tensor:
    """Attention [n, Hq, width, Dv] of queries at `places` [n, width] over keys at `seen` [n, keys]."""
    heads, kv_heads, (rows, width) = query.shape[0], key.shape[0], places.shape
    # the heads of a group are rows of one matrix: their keys are collected once
    packed = query[:, places].view(kv_heads, heads // kv_heads, rows, width, -1).permute(2, 0, 1, 3, 4).flatten(2, 3)
    keys, values = (x[:, seen].transpose(0, 1) for x in (key, value))
    if mask is None:
        mask = torch.ones(width, width, dtype=torch.bool, device=query.device).tril()[None]
    wide = mask[:, None, None].expand(-1, 1, heads // kv_heads, -1, -1).flatten(2, 3)
    result = F.scaled_dot_product_attention(packed, keys, values, attn_mask=wide, scale=scaling)
    return result.view(rows, heads, width, -1)


def _placed(output: Tensor, places: Tensor, there: Tensor | None, result: Tensor) -> Tensor:
    """Put results [n, Hq, width, Dv] at their places of [Hq, L, Dv]."""
    at, rows = places.flatten(), result.transpose(0, 1).flatten(1, 2)
    if there is not None:
        real = there.flatten()
        at, rows = at[real], rows[:, real]
    return output.index_copy(1, at, rows)
