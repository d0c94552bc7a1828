"""Effective context length: how far a model reads, from scored samples, with intervals.

Pure numbers: records of (length, score) go in, lengths and intervals come out. Bootstraps draw their indices in a
fixed order from `numpy.random.Generator(PCG64(seed))`, so equal inputs give equal intervals on any machine. Nothing
here knows models, tasks or plots.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from farspan.evals.curves import (
    CENSORING,
    Censoring,
    ContourLength,
    EffectiveLengthError,
    FloatArray,
    Scale,
    clopper_pearson,
    contour_effective_length,
    crossing,
    crossings,
    grid_length,
    isotonic_decreasing,
    isotonic_from_sums,
    longest_passing,
    passes,
    wilson,
)

Method = Literal["crossing", "grid", "certified"]

__all__ = [
    "THRESHOLDS",
    "ContourLength",
    "EffectiveLength",
    "EffectiveLengthComparison",
    "EffectiveLengthError",
    "ScoreRecord",
    "clopper_pearson",
    "compare_effective_lengths",
    "contour_effective_length",
    "crossing",
    "effective_length",
    "grid_length",
    "isotonic_decreasing",
    "relative_threshold",
    "wilson",
]

THRESHOLDS = {"needle_threading": 0.75, "ruler_chat": 0.856, "ruler_base": 0.794}
"""Absolute thresholds of published rules. Sources: arXiv 2411.05000, section 4.5; arXiv 2404.06654, section 4."""


class ScoreRecord(NamedTuple):
    """One scored sample.

    length : the length it was made for
    score : in [0, 1]
    task : scores are averaged within a task first
    sample_id : equal ids of two models are the same sample
    cluster : samples that share a document or haystack; resampled together
    depth : place of the evidence in percent
    """

    length: int
    score: float
    task: str = ""
    sample_id: str = ""
    cluster: Hashable = None
    depth: float | None = None


class EffectiveLength(BaseModel):
    """How far a model reads.

    value : effective length by `method`; 0 if the shortest length already fails, the longest tested if none does
    lo, hi : bootstrap interval of `value`; censored resamples count as 0 or the longest length
    censoring : "left" if the shortest length fails, "right" if no length does
    certified : longest length up to which every length's one-sided lower bound reaches the threshold; 0 for none
    grid : longest length up to which every length's mean reaches the threshold; 0 for none
    p_left_censored, p_right_censored : shares of censored resamples
    lengths, means, n_per_length : the data behind it
    """

    model_config = ConfigDict(frozen=True)

    value: float
    lo: float
    hi: float
    censoring: Censoring
    certified: float
    grid: float
    p_right_censored: float
    p_left_censored: float
    threshold: float
    unit: str
    conf: float
    lengths: tuple[int, ...]
    means: tuple[float, ...]
    n_per_length: tuple[int, ...]

    def __str__(self) -> str:
        shown = {
            "left": f"<{self.lengths[0]}",
            "right": f">{self.lengths[-1]}",
            "none": f"{self.value:.0f}",
        }[self.censoring]
        n = min(self.n_per_length)
        return f"{shown} {self.unit} ({100 * self.conf:g} % interval {self.lo:.0f} to {self.hi:.0f}, n >= {n} a length)"


class EffectiveLengthComparison(BaseModel):
    """Effective length of b over that of a, on the same samples.

    ratio, lo, hi : lengths that are censored on the left count as the shortest tested, on the right as the longest, so
        a ratio with a left-censored `a` or a right-censored `b` is a lower bound
    clear : the interval excludes 1
    p_left_censored_a, ... : shares of censored resamples
    """

    model_config = ConfigDict(frozen=True)

    ratio: float
    lo: float
    hi: float
    value_a: float
    value_b: float
    censoring_a: Censoring
    censoring_b: Censoring
    p_left_censored_a: float
    p_right_censored_a: float
    p_left_censored_b: float
    p_right_censored_b: float
    n_shared: int
    threshold: float
    unit: str

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 1."""
        return self.lo > 1 or self.hi < 1


def relative_threshold(records: Sequence[ScoreRecord], share: float = 0.85) -> float:
    """That share of the mean score at the shortest length."""
    cells = _Cells(records)
    return share * float(cells.means()[0])


# -- bootstrap -----------------------------------------------------------------------------------------------------


class _Cell(NamedTuple):
    """One (length, task): sums and sizes of its clusters (single samples where there are none)."""

    sums: FloatArray
    sizes: FloatArray


class _Cells:
    """Records by ascending length, then task."""

    def __init__(self, records: Sequence[ScoreRecord], clustered: bool | None = None) -> None:
        if not records:
            raise EffectiveLengthError("no scores given")
        for record in records:
            if not 0 <= record.score <= 1:
                raise EffectiveLengthError(f"scores lie between 0 and 1, got {record.score} at length {record.length}")
        grouped: dict[int, dict[str, list[ScoreRecord]]] = {}
        for record in records:
            grouped.setdefault(record.length, {}).setdefault(record.task, []).append(record)
        self.lengths = sorted(grouped)
        self.tasks = sorted({record.task for record in records})
        missing = [(length, task) for length in self.lengths for task in self.tasks if task not in grouped[length]]
        if missing:
            raise EffectiveLengthError(f"task '{missing[0][1]}' has no scores at length {missing[0][0]}")
        self.binary = all(record.score in (0, 1) for record in records)
        if clustered is None:
            clustered = any(record.cluster is not None for record in records)
        self.clustered = clustered
        self.rows = [[self._cell(grouped[length][task]) for task in self.tasks] for length in self.lengths]
        self.counts = np.array([sum(cell.sizes.sum() for cell in row) for row in self.rows])

    def _cell(self, records: list[ScoreRecord]) -> _Cell:
        if not self.clustered:
            scores = np.array([record.score for record in records], dtype=np.float64)
            return _Cell(scores, np.ones(len(scores)))
        sums: dict[Hashable, list[float]] = {}
        for number, record in enumerate(records):
            key = ("sample", number) if record.cluster is None else ("cluster", record.cluster)
            sums.setdefault(key, []).append(record.score)
        return _Cell(np.array([sum(s) for s in sums.values()]), np.array([float(len(s)) for s in sums.values()]))

    def means(self) -> FloatArray:
        """Mean over tasks of the task means, per length."""
        return np.array([np.mean([cell.sums.sum() / cell.sizes.sum() for cell in row]) for row in self.rows])

    def draws(self, b: int, rng: np.random.Generator) -> list[list[npt.NDArray[np.int64]]]:
        """Indices of `b` resamples, [b, clusters] per length and task, in ascending order of both."""
        return [[rng.integers(0, len(cell.sums), size=(b, len(cell.sums))) for cell in row] for row in self.rows]

    def resampled(self, draws: list[list[npt.NDArray[np.int64]]]) -> FloatArray:
        """Means of the resamples [b, lengths]."""
        columns = []
        for row, indices in zip(self.rows, draws, strict=True):
            means = []
            for cell, index in zip(row, indices, strict=True):
                sizes = cell.sizes[index].sum(axis=1) if self.clustered else float(index.shape[1])
                means.append(cell.sums[index].sum(axis=1) / sizes)
            columns.append(np.mean(means, axis=0))
        return np.stack(columns, axis=1)


def _values(
    cells: _Cells, means: FloatArray, threshold: float, method: Method, scale: Scale, isotonic: bool
) -> tuple[FloatArray, FloatArray]:
    """Effective length and censoring of each row of means."""
    lengths = np.asarray(cells.lengths, dtype=np.float64)
    if method == "crossing":
        fitted = (
            isotonic_from_sums(means * cells.counts, np.broadcast_to(cells.counts, means.shape)) if isotonic else means
        )
        return crossings(lengths, fitted, threshold, scale)
    values = longest_passing(lengths, passes(means, threshold))
    return values, np.where(values == 0, -1.0, np.where(values == lengths[-1], 1.0, 0.0))


def _certified(cells: _Cells, resampled: FloatArray, threshold: float, conf: float) -> float:
    """Longest length up to which one-sided lower bounds reach the threshold.

    Wilson bounds for one task of independent right-or-wrong samples, else bootstrap quantiles.
    """
    if cells.binary and not cells.clustered and len(cells.tasks) == 1:
        bounds = np.array([wilson(float(c.sums.sum()), len(c.sums), conf, "lower")[0] for (c,) in cells.rows])
    else:
        bounds = np.quantile(resampled, 1 - conf, axis=0)
    return float(longest_passing(np.asarray(cells.lengths, float), passes(bounds, threshold)[None])[0])


def effective_length(
    records: Sequence[ScoreRecord],
    threshold: float,
    method: Method = "crossing",
    scale: Scale = "log2",
    isotonic: bool = True,
    B: int = 2000,
    seed: int = 0,
    conf: float = 0.95,
    cluster: bool | None = None,
    unit: str = "tokens",
) -> EffectiveLength:
    """Effective length with a stratified bootstrap interval.

    Parameters
    ----------
    records : scored samples; several tasks are averaged per length and resampled within themselves
    threshold : score that counts as reading
    method : "crossing" interpolates, "grid" takes tested lengths by their means, "certified" by lower bounds
    scale : axis of the interpolation
    isotonic : fit a non-increasing curve first
    B : resamples
    cluster : resample clusters instead of samples; None does so where records name clusters
    unit : of the lengths, for display and comparison

    Raises
    ------
    EffectiveLengthError : no records, scores outside [0, 1], a task without scores at some length.
    """
    if B < 1 or not 0 < conf < 1:
        raise EffectiveLengthError(f"a bootstrap needs B >= 1 and 0 < conf < 1, got B={B}, conf={conf}")
    cells = _Cells(records, cluster)
    means = cells.means()
    rng = np.random.Generator(np.random.PCG64(seed))
    resampled = cells.resampled(cells.draws(B, rng))
    inner: Method = "grid" if method == "certified" else method
    value, side = _values(cells, means[None], threshold, inner, scale, isotonic)
    values, sides = _values(cells, resampled, threshold, inner, scale, isotonic)
    lo, hi = np.quantile(values, [(1 - conf) / 2, (1 + conf) / 2])
    certified = _certified(cells, resampled, threshold, conf)
    point, censored = float(value[0]), CENSORING[int(side[0])]
    if method == "certified":
        point = certified
        censored = "left" if certified == 0 else "right" if certified == cells.lengths[-1] else "none"
    return EffectiveLength(
        value=point,
        lo=float(lo),
        hi=float(hi),
        censoring=censored,
        certified=certified,
        grid=float(longest_passing(np.asarray(cells.lengths, float), passes(means, threshold)[None])[0]),
        p_right_censored=float(np.mean(sides == 1)),
        p_left_censored=float(np.mean(sides == -1)),
        threshold=threshold,
        unit=unit,
        conf=conf,
        lengths=tuple(cells.lengths),
        means=tuple(float(mean) for mean in means),
        n_per_length=tuple(int(count) for count in cells.counts),
    )


def compare_effective_lengths(
    a: Sequence[ScoreRecord],
    b: Sequence[ScoreRecord],
    threshold: float,
    *,
    scale: Scale = "log2",
    isotonic: bool = True,
    B: int = 2000,
    seed: int = 0,
    conf: float = 0.95,
    cluster: bool | None = None,
    unit: str = "tokens",
    tokenizers: tuple[str, str] | None = None,
) -> EffectiveLengthComparison:
    """Ratio of the effective lengths of b and a on the samples both answered, with a paired bootstrap interval.

    Parameters
    ----------
    a, b : records with `sample_id`; only ids (per length and task) that both have are used
    tokenizers : ids of the tokenizers lengths were measured with

    Raises
    ------
    EffectiveLengthError : no shared samples, or lengths in tokens of different tokenizers.
    """
    if tokenizers is not None and tokenizers[0] != tokenizers[1] and unit != "chars":
        raise EffectiveLengthError(
            "the two runs measured lengths with different tokenizers; compare runs made with unit='chars'"
        )
    first, second = _shared(a, b)
    if cluster is None:
        cluster = any(record.cluster is not None for record in first)
    cells_a, cells_b = _Cells(first, cluster), _Cells(second, cluster)
    draws = cells_a.draws(B, np.random.Generator(np.random.PCG64(seed)))
    shortest = float(cells_a.lengths[0])
    found = []
    for cells in (cells_a, cells_b):
        points = _values(cells, cells.means()[None], threshold, "crossing", scale, isotonic)
        found.append((points, _values(cells, cells.resampled(draws), threshold, "crossing", scale, isotonic)))
    (point_a, rows_a), (point_b, rows_b) = found
    ratios = np.maximum(rows_b[0], shortest) / np.maximum(rows_a[0], shortest)
    lo, hi = np.quantile(ratios, [(1 - conf) / 2, (1 + conf) / 2])
    value_a, value_b = float(point_a[0][0]), float(point_b[0][0])
    return EffectiveLengthComparison(
        ratio=max(value_b, shortest) / max(value_a, shortest),
        lo=float(lo),
        hi=float(hi),
        value_a=value_a,
        value_b=value_b,
        censoring_a=CENSORING[int(point_a[1][0])],
        censoring_b=CENSORING[int(point_b[1][0])],
        p_left_censored_a=float(np.mean(rows_a[1] == -1)),
        p_right_censored_a=float(np.mean(rows_a[1] == 1)),
        p_left_censored_b=float(np.mean(rows_b[1] == -1)),
        p_right_censored_b=float(np.mean(rows_b[1] == 1)),
        n_shared=len(first),
        threshold=threshold,
        unit=unit,
    )


def _shared(a: Sequence[ScoreRecord], b: Sequence[ScoreRecord]) -> tuple[list[ScoreRecord], list[ScoreRecord]]:
    """The records of both that answer the same sample, in the same order; clusters as `a` names them."""
    table: Mapping[tuple[int, str, str], ScoreRecord] = {(r.length, r.task, r.sample_id): r for r in b if r.sample_id}
    pairs = [(r, table[key]) for r in a if (key := (r.length, r.task, r.sample_id)) in table]
    if not pairs:
        raise EffectiveLengthError("the two runs share no sample ids; run both on the same seeds and lengths")
    return [first for first, _ in pairs], [second._replace(cluster=first.cluster) for first, second in pairs]
