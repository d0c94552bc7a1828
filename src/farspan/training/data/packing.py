"""Packing: several documents in one row, so that no compute goes into padding.

Position ids restart at 0 with every document; with no attention mask and no cache, transformers derives from them a
mask that keeps documents apart. The three strategies over whole collections follow the names that TRL uses.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F

from farspan.errors import FarspanError

if TYPE_CHECKING:
    from farspan.training.data.documents import Document

IGNORE_INDEX = -100

Strategy = Literal["bfd", "bfd_split", "wrapped"]


def pack_rows(
    rows: Sequence[Sequence[tuple[Document, float]]], length: int, pad_token_id: int
) -> dict[str, torch.Tensor]:
    """Lay out rows of documents as tensors.

    Parameters
    ----------
    rows : for each row its documents, each with the loss weight of its supervised tokens
    length : row length in tokens

    Returns
    -------
    `input_ids`, `labels` (a document's first token is never a target), `loss_weights` [rows, length], and
    `position_ids` [rows, length] where any row holds more than one document.
    """
    shape = (len(rows), length)
    input_ids = torch.full(shape, pad_token_id, dtype=torch.long)
    labels = torch.full(shape, IGNORE_INDEX, dtype=torch.long)
    loss_weights = torch.zeros(shape)
    position_ids = torch.zeros(shape, dtype=torch.long)
    for index, row in enumerate(rows):
        start = 0
        for document, weight in row:
            end = start + len(document.ids)
            ids = torch.tensor(document.ids, dtype=torch.long)
            supervised = torch.tensor(document.supervised, dtype=torch.bool)
            supervised[:1] = False
            input_ids[index, start:end] = ids
            labels[index, start:end] = torch.where(supervised, ids, torch.tensor(IGNORE_INDEX))
            loss_weights[index, start:end] = weight * supervised
            position_ids[index, start:end] = torch.arange(end - start)
            start = end
        position_ids[index, start:] = torch.arange(length - start)
    batch = {"input_ids": input_ids, "labels": labels, "loss_weights": loss_weights}
    if any(len(row) > 1 for row in rows):
        batch["position_ids"] = position_ids
    return batch


def document_ids(position_ids: torch.Tensor) -> torch.Tensor | None:
    """Number the documents of packed rows: a new one starts where the position does not go on by one.

    Parameters
    ----------
    position_ids : [batch, length]

    Returns
    -------
    [batch, length], counted from 0 in each row, or None where every row is one document.
    """
    breaks = position_ids.diff(dim=-1) != 1
    if not bool(breaks.any()):
        return None
    starts = torch.zeros_like(position_ids[:, :1])
    return torch.cat([starts, breaks.cumsum(dim=-1)], dim=-1)


def document_bounds(position_ids: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Where the documents of packed rows begin and end, all rows one after another.

    Parameters
    ----------
    position_ids : [batch, length]

    Returns
    -------
    Cumulative lengths, int32 [documents + 1] from 0, and the length of the longest.
    """
    breaks = position_ids.diff(dim=-1, prepend=position_ids[:, :1] - 2) != 1
    starts = breaks.flatten().nonzero().flatten()
    bounds = F.pad(starts, (0, 1), value=position_ids.numel()).to(torch.int32)
    return bounds, int(bounds.diff().max())


def flatten_batch(features: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, torch.Tensor | int]:
    """Lay rows one after another as one row, for attention that is told where documents begin.

    Parameters
    ----------
    features : rows with `input_ids` and, where not every token is a target, `labels`

    Returns
    -------
    `input_ids`, `labels` (the first of each row is never a target) and `position_ids` [1, tokens]; `cu_seq_lens_q`,
    `cu_seq_lens_k` int32 [rows + 1] and `max_length_q`, `max_length_k`, as transformers names them.

    Raises
    ------
    FarspanError : no rows, an empty one, or labels of another length than their row.
    """
    rows = [list(feature["input_ids"]) for feature in features]
    targets = [list(feature.get("labels", row)) for feature, row in zip(features, rows, strict=True)]
    if not all(rows) or not rows:
        raise FarspanError("a batch needs at least one row, and every row at least one token")
    if any(len(row) != len(labels) for row, labels in zip(rows, targets, strict=True)):
        raise FarspanError("a row and its labels must have the same length")
    positions = torch.tensor([[position for row in rows for position in range(len(row))]])
    bounds, longest = document_bounds(positions)
    return {
        "input_ids": torch.tensor([[token for row in rows for token in row]]),
        "labels": torch.tensor([[label for labels in targets for label in (IGNORE_INDEX, *labels[1:])]]),
        "position_ids": positions,
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def pack(documents: Sequence[Sequence[int]], max_length: int, strategy: Strategy = "bfd") -> list[list[list[int]]]:
    """Pack whole documents into rows of at most `max_length` tokens.

    Parameters
    ----------
    strategy : `bfd` (best fit, longest first; the tail of an over-long document is lost), `bfd_split` (the same,
        over-long documents are cut into pieces first, nothing is lost) or `wrapped` (one stream cut at every
        `max_length` tokens, documents may be split anywhere)

    Returns
    -------
    For each row its pieces, in order.
    """
    if max_length < 1:
        raise FarspanError(f"max_length must be at least 1, not {max_length}")
    if strategy == "wrapped":
        return _wrap(documents, max_length)
    if strategy == "bfd":
        pieces = [list(document[:max_length]) for document in documents if document]
    elif strategy == "bfd_split":
        pieces = [
            list(document[start : start + max_length])
            for document in documents
            for start in range(0, len(document), max_length)
        ]
    else:
        raise FarspanError(f"unknown packing strategy '{strategy}'; known: bfd, bfd_split, wrapped")
    rows: list[list[list[int]]] = []
    spaces: list[tuple[int, int]] = []  # (free tokens, row), ascending: the best fit is the first that is large enough
    for piece in sorted(pieces, key=len, reverse=True):
        at = bisect_left(spaces, (len(piece), -1))
        if at == len(spaces):
            free, row = max_length, len(rows)
            rows.append([])
        else:
            free, row = spaces.pop(at)
        rows[row].append(piece)
        left = (free - len(piece), row)
        spaces.insert(bisect_left(spaces, left), left)
    return rows


def _wrap(documents: Sequence[Sequence[int]], max_length: int) -> list[list[list[int]]]:
    rows: list[list[list[int]]] = [[]]
    room = max_length
    for document in documents:
        rest = list(document)
        while rest:
            if room == 0:
                rows.append([])
                room = max_length
            rows[-1].append(rest[:room])
            rest, room = rest[room:], room - len(rest[:room])
    return [row for row in rows if row]
