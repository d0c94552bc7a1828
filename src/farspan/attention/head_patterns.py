"""Patterns of attention heads: what they are called, how they stand in a file, and which cells they read.

A head is vertical-slash (strong columns and distances, found from the last queries), A-shape (first tokens and a
window) or block-sparse (the blocks whose means match best). Which head is which is decided elsewhere.

Source: arXiv 2407.02490, section 3.2; the file's form is that of the published head configurations.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from farspan.attention.scoring import block_scores
from farspan.attention.vertical_slash import last_attention, strongest_lines
from farspan.errors import FarspanError

Kind = Literal["vertical_and_slash", "stream_llm", "block_sparse"]
KINDS: tuple[Kind, ...] = ("vertical_and_slash", "stream_llm", "block_sparse")
Entry = tuple[str, int, int, float]
# the search forces fewer distances than prefill does, as published
SEARCH_DISTANCES = 30


class HeadPattern(NamedTuple):
    """What one head reads: columns and distances, first tokens and a window, or the best blocks.

    first, second : vertical and slash size, or first tokens and window; unused by `block_sparse`
    score : what the search found it worth
    """

    kind: Kind
    first: int
    second: int
    score: float = 1.0


def read_patterns(source: str | Sequence[dict[str, Entry]]) -> list[list[HeadPattern]]:
    """Patterns by layer and head, from a file of the published form or its content.

    Raises
    ------
    FarspanError : the file cannot be read, a pattern is unknown, or heads are missing.
    """
    content: object = source
    where = "head_config"
    if isinstance(source, str):
        where = f"head_config {source}"
        try:
            content = json.loads(Path(source).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FarspanError(f"cannot read {where}: {' '.join(str(error).split())}") from error
    if not isinstance(content, list | tuple) or not all(isinstance(layer, dict) for layer in content):
        raise FarspanError(f"{where} must be a list of layers {{head: [pattern, vertical, slash, score]}}")
    layers = []
    for index, layer in enumerate(content):
        names = [str(head) for head in range(len(layer))]
        if set(layer) != set(names):
            raise FarspanError(f"{where}, layer {index}: heads must be numbered 0 to {len(layer) - 1} without gaps")
        layers.append([pattern_of(layer[head], f"{where}, layer {index}, head {head}") for head in names])
    return layers


def pattern_of(entry: object, where: str) -> HeadPattern:
    """One entry `[pattern, vertical, slash, score]`; `FarspanError` says where it stands if it is none."""
    if not isinstance(entry, list | tuple) or not 3 <= len(entry) <= 4:
        raise FarspanError(f"{where}: an entry is [pattern, vertical, slash, score], given {entry!r}")
    kind, first, second, *score = entry
    if kind not in KINDS:
        raise FarspanError(f"{where}: unknown pattern {kind!r}; known: {', '.join(KINDS)}")
    return HeadPattern(cast("Kind", kind), int(first), int(second), float(score[0]) if score else 1.0)


def write_patterns(path: str | Path, layers: Sequence[Sequence[HeadPattern]]) -> Path:
    """Write patterns by layer and head in the published form."""
    content = [{str(head): list(found) for head, found in enumerate(heads)} for heads in layers]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path


def best_blocks(query: Tensor, key: Tensor, block_size: int, count: int, scaling: float | None = None) -> Tensor:
    """The `count` blocks of each row whose pooled keys match best: bool [B, Hq, nQ, nK].

    Source: arXiv 2407.02490, algorithm 3.
    """
    q_len, kv_len = query.shape[2], key.shape[2]
    last = (torch.arange(-(-q_len // block_size), device=query.device) + 1) * block_size - 1 + kv_len - q_len
    start = torch.arange(-(-kv_len // block_size), device=query.device) * block_size
    allowed = start <= last.clamp(max=kv_len - 1)[:, None]
    scores = block_scores(query, key, block_size=block_size, allowed=allowed, scaling=scaling)
    scores = scores.masked_fill(~allowed, -1.0)
    return (scores.sort(dim=-1, descending=True, stable=True).indices.argsort(-1) < count) & allowed


def pattern_cells(
    pattern: HeadPattern,
    query: Tensor,
    key: Tensor,
    rows: Tensor,
    *,
    last_q: int,
    block_size: int,
    top_blocks: int,
    scaling: float | None = None,
) -> Tensor:
    """Cells a pattern reads in some rows of one head, exactly and not by whole blocks, for searches.

    query : Tensor [1, 1, L, D]; key : Tensor [1, 1, L, D]; rows : Tensor int64 [R], positions

    Returns
    -------
    Tensor bool [R, L], causal
    """
    length, device = key.shape[2], key.device
    columns = torch.arange(length, device=device)
    apart = rows[:, None] - columns
    if pattern.kind == "stream_llm":
        cells = (columns < pattern.first) | (apart < pattern.second)
    elif pattern.kind == "block_sparse":
        blocks = best_blocks(query, key, block_size, top_blocks, scaling)[0, 0, rows // block_size]
        cells = blocks.repeat_interleave(block_size, 1)[:, :length] | (apart < block_size)
    else:
        attention = last_attention(query, key, min(last_q, length), scaling)
        lines, distances = strongest_lines(attention, pattern.first, pattern.second, SEARCH_DISTANCES)
        hit = torch.zeros(2, length, dtype=torch.bool, device=device)
        hit[0, lines[0, 0]] = True
        hit[1, distances[0, 0]] = True
        cells = hit[0] | hit[1, apart.clamp(min=0)]
    return cells & (apart >= 0)
