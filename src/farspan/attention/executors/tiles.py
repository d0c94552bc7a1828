"""Sizes of the tiles a Triton kernel works with: which are possible, and which is fastest on this GPU.

Measured once for each kind of problem (head dimensions, group, blocks, dtype), never for a length, and kept in the
cache folder under the name of the GPU. Computes no attention and imports no Triton.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median

import torch
from pydantic import TypeAdapter, ValidationError

from farspan.attention.executors.files import read_json, write_json
from farspan.attention.plan import BlockPlan


@dataclass(frozen=True)
class Tiles:
    """rows : query rows of a tile, heads of a group packed; keys : keys of a tile; warps, stages : as Triton says."""

    rows: int
    keys: int
    warps: int
    stages: int


CANDIDATES = tuple(
    Tiles(rows, keys, warps, stages)
    for rows, keys, warps in ((128, 64, 8), (128, 64, 4), (128, 128, 8), (64, 64, 4), (64, 128, 4), (128, 32, 4))
    for stages in (2, 3)
)


def forward_candidates(group: int, plan: BlockPlan) -> list[Tiles]:
    """The tiles that fit a plan: no wider than its blocks, no more rows than a block of queries has.

    group : query heads packed into one tile
    """
    packed = 1 << (group - 1).bit_length()
    longest = max(1, min(plan.block_q, 1 << (plan.q_len - 1).bit_length())) * packed
    fitting = {
        Tiles(max(16, min(tiles.rows, longest)), min(tiles.keys, plan.block_k), tiles.warps, tiles.stages): None
        for tiles in CANDIDATES
    }
    return list(fitting)


def tuned(
    kind: tuple[object, ...],
    candidates: Sequence[Tiles],
    device: torch.device,
    run: Callable[[Tiles], object],
    known: dict[str, Tiles] | None = None,
) -> Tiles:
    """The fastest candidate for a kind of problem: from memory, from the cache folder, or measured now.

    run : computes the present problem with given tiles
    known : where this process keeps what it has read or measured
    """
    if device.type != "cuda" or len(candidates) == 1:
        return candidates[0]
    known = _known if known is None else known
    name = _file_name(kind, candidates, torch.cuda.get_device_name(device))
    if name not in known:
        kept = _read(name)
        if kept is None or kept not in candidates:
            kept = fastest(candidates, run, lambda: torch.cuda.synchronize(device))
            write_json(name, {"for": [str(x) for x in kind], "tiles": asdict(kept)})
        known[name] = kept
    return known[name]


def fastest(
    candidates: Sequence[Tiles], run: Callable[[Tiles], object], wait: Callable[[], object], repeats: int = 3
) -> Tiles:
    """The candidate with the smallest median time; those that do not fit this GPU are left out.

    wait : returns when all that was launched is done
    """
    best, least, last_error = None, float("inf"), None
    for tiles in candidates:
        try:
            run(tiles)
            wait()
        except Exception as error:  # more memory or registers than there are: each version of Triton has its own type
            last_error = error
            continue
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            run(tiles)
            wait()
            seconds.append(time.perf_counter() - started)
        if median(seconds) < least:
            best, least = tiles, median(seconds)
    if best is None:
        assert last_error is not None
        raise last_error
    return best


# what this process has read or measured; only ever a copy of what the cache folder holds
_known: dict[str, Tiles] = {}


def _file_name(kind: tuple[object, ...], candidates: Sequence[Tiles], gpu: str) -> str:
    parts = [gpu, torch.__version__, *(str(x) for x in kind), json.dumps([asdict(tiles) for tiles in candidates])]
    return f"tiles-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:16]}.json"


def _read(name: str) -> Tiles | None:
    kept = read_json(name)
    try:
        return TypeAdapter(Tiles).validate_python(kept["tiles"] if isinstance(kept, dict) else None)
    except (ValidationError, KeyError):
        return None
