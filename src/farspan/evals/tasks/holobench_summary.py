"""Results of HoloBench put together: one row a cell, and the directions that the published study found.

Source: arXiv 2410.11996, section 4; its tables of models could not be recovered, its directions can be checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from farspan.evals.schema import LongSample

GROUPED = ("begin", "end", "bimodal")
SWEEPS: Mapping[str, tuple[str, tuple[object, ...]]] = {
    "info": ("info", ("1k", "2k", "25%", "50%", "75%")),
    "position": ("position", ("uniform", "begin", "end", "middle", "bimodal")),
}
"""Knobs whose values are compared with each other, and these values."""


@dataclass(frozen=True)
class Cell:
    """Scores of one length, amount of information, place of it, and type of query.

    mean, lo, hi : mean score and its 95 % interval, contexts resampled
    empty : share of questions without an answer
    gold_rows : mean number of right rows
    """

    length: int
    info: str
    position: str
    type: str
    mean: float
    lo: float
    hi: float
    n: int
    empty: float
    gold_rows: float


def cell_table(
    samples: Sequence[LongSample], scores: Sequence[float], *, draws: int = 2000, seed: int = 0
) -> list[Cell]:
    """One row for each combination that occurs, in ascending order.

    Parameters
    ----------
    samples, scores : equally many
    """
    cells: dict[tuple[int, str, str, str], list[tuple[LongSample, float]]] = {}
    for sample, score in zip(samples, scores, strict=True):
        facts = sample.metadata
        info = str(facts.get("info_asked", facts["info"]))
        key = (sample.length, info, str(facts["position"]), str(facts["type"]))
        cells.setdefault(key, []).append((sample, score))
    rng = np.random.Generator(np.random.PCG64(seed))
    table = []
    for key in sorted(cells):
        found = cells[key]
        values, clusters = (
            [score for _, score in found],
            [sample.shared_context_key or sample.id for sample, _ in found],
        )
        lo, hi = _interval(values, clusters, rng, draws)
        empty = fmean(float(bool(sample.metadata["empty"])) for sample, _ in found)
        rows = fmean(_rows(sample) for sample, _ in found)
        table.append(Cell(*key, fmean(values), lo, hi, len(values), empty, rows))
    return table


def directions(cells: Sequence[Cell], fixed: str = "2k", share: str = "50%") -> dict[str, float]:
    """What the study found, as numbers that are positive where it holds; only those that can be computed.

    `length_matters_less` : how much more of its score a model keeps from the shortest to the longest length at a fixed
    amount of information than at a fixed share; `aggregation_gap` : mean score on extremes minus that on aggregations,
    at the longest length; `gap_grows` : by how much that gap is larger than at the shortest; `grouping_helps` : mean
    score where rows stand together minus that where they are spread evenly
    """
    lengths = sorted({cell.length for cell in cells})
    found: dict[str, float] = {}
    if len(lengths) < 2:
        return found
    kept = {info: _kept(cells, lengths, info) for info in (fixed, share)}
    if None not in kept.values():
        found["length_matters_less"] = abs(float(kept[share] or 0) - 1) - abs(float(kept[fixed] or 0) - 1)
    gaps = [_gap(cells, length) for length in (lengths[0], lengths[-1])]
    if gaps[0] is not None and gaps[1] is not None:
        found |= {"aggregation_gap": gaps[1], "gap_grows": gaps[1] - gaps[0]}
    together = [cell.mean for cell in cells if cell.position in GROUPED]
    spread = [cell.mean for cell in cells if cell.position == "uniform"]
    if together and spread:
        found["grouping_helps"] = fmean(together) - fmean(spread)
    return found


def _kept(cells: Sequence[Cell], lengths: Sequence[int], info: str) -> float | None:
    """Score at the longest length as a share of that at the shortest."""
    ends = [[c.mean for c in cells if c.length == length and c.info == info] for length in (lengths[0], lengths[-1])]
    if not ends[0] or not ends[1] or fmean(ends[0]) == 0:
        return None
    return fmean(ends[1]) / fmean(ends[0])


def _gap(cells: Sequence[Cell], length: int) -> float | None:
    means = {
        kind: [cell.mean for cell in cells if cell.length == length and cell.type == kind]
        for kind in ("max_min", "aggregation")
    }
    return fmean(means["max_min"]) - fmean(means["aggregation"]) if all(means.values()) else None


def _interval(
    values: Sequence[float], clusters: Sequence[str], rng: np.random.Generator, draws: int
) -> tuple[float, float]:
    names = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    sums, sizes = np.zeros(len(names)), np.zeros(len(names))
    for value, cluster in zip(values, clusters, strict=True):
        sums[names[cluster]] += value
        sizes[names[cluster]] += 1
    drawn = rng.integers(0, len(names), size=(draws, len(names)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    lo, hi = np.quantile(means, [0.025, 0.975])
    return float(lo), float(hi)


def _rows(sample: LongSample) -> int:
    rows = sample.metadata["gold_rows"]
    return len(rows) if isinstance(rows, Sequence) else 0
