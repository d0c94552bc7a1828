"""Running V-NIAH and V-RULER over a grid of lengths: samples in, means by cell out. What answers is a function.

Source: arXiv 2406.16852, section 3; 2505.20444, section 5.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from farspan.evals.tasks.video_needles import NEEDLES, PAPER_DEPTHS, PAPER_FRAMES, VideoSample, family_of

Ask = Callable[[VideoSample], float]


@dataclass(frozen=True)
class VideoRecord:
    """One scored sample: `length` is the number of frames asked for, `depth` in percent or None."""

    task: str
    length: int
    depth: float | None
    index: int
    score: float


@dataclass(frozen=True)
class VideoResult:
    """The scores of a run."""

    benchmark: str
    records: tuple[VideoRecord, ...]

    @property
    def average(self) -> float:
        """The mean over all cells of task, length and depth, each counting once."""
        cells = self.cells()
        return sum(cells.values()) / len(cells)

    def cells(self) -> dict[tuple[str, int, float | None], float]:
        """The mean score of each task, length and depth."""
        found: dict[tuple[str, int, float | None], list[float]] = {}
        for record in self.records:
            found.setdefault((record.task, record.length, record.depth), []).append(record.score)
        return {cell: sum(scores) / len(scores) for cell, scores in found.items()}

    def heat(self, task: str = "") -> tuple[list[int], list[float], list[list[float]]]:
        """A heat map of a task with depths: lengths, depths, and a row of means over lengths for each depth."""
        cells = {(at, deep): mean for (name, at, deep), mean in self.cells().items() if task in ("", name)}
        lengths = sorted({at for at, _ in cells})
        depths = sorted({deep for _, deep in cells if deep is not None})
        return lengths, depths, [[cells[at, deep] for at in lengths] for deep in depths]


def needle_samples(
    frames: Sequence[int] = PAPER_FRAMES, depths: int = PAPER_DEPTHS, seed: int = 0, **knobs: object
) -> Iterator[tuple[int, VideoSample]]:
    """The whole grid of V-NIAH, five needles a cell, with the number of frames each belongs to."""
    family = family_of("v_niah")
    for length in frames:
        for index in range(depths * NEEDLES):
            yield length, family.sample("needle", length, index, seed, depths=depths, **knobs)


def ruler_samples(
    tasks: Sequence[str] = (), frames: Sequence[int] = PAPER_FRAMES, n: int = 10, seed: int = 0, **knobs: object
) -> Iterator[tuple[int, VideoSample]]:
    """`n` samples of each V-RULER task (all where none is named) at each number of frames."""
    family = family_of("v_ruler")
    for task in tasks or family.tasks:
        for length in frames:
            for index in range(n):
                yield length, family.sample(task, length, index, seed, **knobs)


def run_video(ask: Ask, samples: Iterable[tuple[int, VideoSample]]) -> VideoResult:
    """Ask every sample and keep the scores.

    Parameters
    ----------
    ask : a sample to its score in [0, 1]; such as `lambda sample: float(model.forced(sample))`
    samples : from `needle_samples` or `ruler_samples`
    """
    records, benchmark = [], ""
    for length, sample in samples:
        benchmark = sample.benchmark
        records.append(VideoRecord(sample.task, length, sample.depth, sample.index, float(ask(sample))))
    return VideoResult(benchmark, tuple(records))
