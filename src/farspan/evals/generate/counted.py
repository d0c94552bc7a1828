"""Haystacks with counted units: the stream of one seed as text, token sums and character sums.

A corpus is made and counted once, chunk by chunk, and its counts kept on disk; every stream is then a slice of it.
Other haystacks are counted as they are drawn. Nothing here decides how many units a context takes.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from farspan.evals.generate.count import CALIBRATION_UNITS, Calibration, Mode, TokenCounter
from farspan.evals.generate.haystack.base import CorpusHaystack, Haystack, HaystackError, fingerprint_of
from farspan.evals.generate.length import IntArray, prefix_sums
from farspan.evals.generate.rng import derive_seed

_CALIBRATION_SEED = derive_seed("calibration")
_KEPT_STREAMS = 2
VERSION = "2"
"""Of what is kept on disk: to be raised whenever what corpora hold, or how they are counted, changes."""
CHECKED = 16
"""Units on which sums of parts are compared with counts of wholes."""


def cache_folder() -> Path:
    """Where counts are kept: `$FARSPAN_CACHE`, else `farspan` in the user's cache folder."""
    if os.environ.get("FARSPAN_CACHE"):
        return Path(os.environ["FARSPAN_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "farspan"


class Window:
    """The stream of one seed, as far as it was drawn.

    Attributes
    ----------
    tokens, chars : sums over the first 0, 1, ... pieces (joiner + unit), int64 [units + 1]
    joints : tokens of strings around needles and ends, as far as they were counted
    """

    def __init__(self, source: CountedSource, seed: int) -> None:
        self.source = source
        self.seed = seed
        self.tokens: IntArray = np.zeros(1, dtype=np.int64)
        self.chars: IntArray = np.zeros(1, dtype=np.int64)
        self.joints: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.tokens) - 1

    def grow(self, n: int) -> None:
        """Draw at least `n` units, or all there are."""
        raise NotImplementedError

    def reach(self, tokens: int = 0, chars: int = 0, spare: int = 2) -> None:
        """Draw until the sums pass both numbers and `spare` units lie beyond, or the haystack ends."""
        mean = self.source.calibration.mean_tokens
        while True:
            fits = int(np.searchsorted(self.tokens, tokens, side="right"))
            fits = max(fits, int(np.searchsorted(self.chars, chars, side="right")))
            if fits + spare <= len(self) or len(self) == self.source.haystack.size:
                return
            missing = max(tokens - int(self.tokens[-1]), 0) / mean
            if chars:
                per_unit = self.chars[-1] / len(self) if len(self) else 4 * mean
                missing = max(missing, (chars - int(self.chars[-1])) / max(float(per_unit), 1.0))
            before = len(self)
            self.grow(before + int(missing * 1.02) + 8 + spare)
            if len(self) == before:
                return

    def unit(self, i: int) -> str:
        """Unit i."""
        return self.text(i, i + 1)

    def text(self, start: int, stop: int) -> str:
        """Units `start` to `stop`, joined."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Chunk:
    text: str
    starts: IntArray
    counts: IntArray


class _CorpusWindow(Window):
    def __init__(self, source: CountedSource, haystack: CorpusHaystack, seed: int) -> None:
        super().__init__(source, seed)
        offset = haystack.offset(seed)
        self._first, self._skip = divmod(offset, haystack.CHUNK)
        self._size = haystack.CHUNK
        self._chunks: list[_Chunk] = []

    def grow(self, n: int) -> None:
        while len(self._chunks) * self._size - self._skip < n:
            self._chunks.append(self.source.chunk(self._first + len(self._chunks)))
        if n > len(self):
            counts = np.concatenate([chunk.counts for chunk in self._chunks])[self._skip :]
            lengths = np.concatenate([np.diff(chunk.starts) for chunk in self._chunks])[self._skip :]
            self.tokens, self.chars = prefix_sums(counts), prefix_sums(lengths)

    def text(self, start: int, stop: int) -> str:
        if stop <= start:
            return ""
        first, a = divmod(start + self._skip, self._size)
        last, b = divmod(stop - 1 + self._skip, self._size)
        parts = []
        for number in range(first, last + 1):
            chunk = self._chunks[number]
            low = chunk.starts[a if number == first else 0]
            high = chunk.starts[b + 1 if number == last else self._size]
            parts.append(chunk.text[low:high])
        parts[0] = parts[0][len(self.source.haystack.joiner) :]
        return "".join(parts)


class _DrawnWindow(Window):
    def __init__(self, source: CountedSource, seed: int) -> None:
        super().__init__(source, seed)
        self._units: list[str] = []

    def grow(self, n: int) -> None:
        known = len(self._units)
        if n <= known:
            return
        joiner = self.source.haystack.joiner
        self._units = self.source.haystack.units(self.seed, n)
        pieces = [joiner + unit for unit in self._units[known:]]
        self.source.check(self._units[known:])
        tokens = self.source.recurring_counts(self._units[known:], pieces)
        self.tokens = np.concatenate([self.tokens, self.tokens[-1] + np.cumsum(tokens)])
        lengths = np.fromiter((len(piece) for piece in pieces), dtype=np.int64, count=len(pieces))
        self.chars = np.concatenate([self.chars, self.chars[-1] + np.cumsum(lengths)])

    def text(self, start: int, stop: int) -> str:
        return self.source.haystack.joiner.join(self._units[start:stop])


class CountedSource:
    """A haystack and a counter, with what was counted so far.

    Attributes
    ----------
    calibration : how units add up
    """

    def __init__(self, haystack: Haystack, counter: TokenCounter) -> None:
        self.haystack = haystack
        self.counter = counter
        anchor = haystack.anchor
        if haystack.kind:
            name = f"{haystack.kind}\x1f{haystack.joiner}"
            self.calibration = counter.calibration(name, self._sample, haystack.joiner, anchor)
        else:
            self.calibration = counter.calibrate(self._sample(), haystack.joiner, anchor)
        self._inexact = False
        self._chunks: dict[int, _Chunk] = {}
        self._windows: dict[int, Window] = {}

    @property
    def mode(self) -> Mode:
        """How far sums of counts can be trusted."""
        return "verify" if self._inexact else self.calibration.mode

    def window(self, seed: int) -> Window:
        """The stream of a seed; the last ones are kept, so that a second length costs nothing."""
        if seed not in self._windows:
            if len(self._windows) >= _KEPT_STREAMS:
                del self._windows[next(iter(self._windows))]
            if isinstance(self.haystack, CorpusHaystack):
                self._windows[seed] = _CorpusWindow(self, self.haystack, seed)
            else:
                self._windows[seed] = _DrawnWindow(self, seed)
        return self._windows[seed]

    def count(self, pieces: list[str]) -> IntArray:
        """Counts of pieces (joiner + unit) behind the calibrated anchor."""
        return self.counter.count_units(pieces, self.calibration.anchor) + self.calibration.per_joint

    def recurring_counts(self, units: list[str], pieces: list[str]) -> IntArray:
        """`count`, each recurring unit or part of one tokenised once for a tokenizer.

        Whether parts add up is looked at on the last units; where they do not, pieces are counted whole.
        """
        haystack = self.haystack
        if not haystack.recurring or self.calibration.mode == "verify":
            return self.count(pieces)
        counter, joiner = self.counter, haystack.joiner
        anchor, more = self.calibration.anchor, self.calibration.per_joint
        seams = [haystack.seam(unit) for unit in units]
        if not any(seams):
            return counter.recurring(pieces, anchor) + more
        heads = [joiner + unit[:seam] for unit, seam in zip(units, seams, strict=True)]
        bodies = [unit[seam:] for unit, seam in zip(units, seams, strict=True)]
        behind = heads[0][len(joiner) :]
        counts = counter.recurring(heads, anchor) + counter.recurring(bodies, behind) + more
        if np.array_equal(counts[-CHECKED:], self.count(pieces[-CHECKED:])):
            return counts
        return self.count(pieces)

    def check(self, units: list[str]) -> None:
        """Refuse units that would glue to their joints."""
        # A text that has nothing to strip is given back as it is.
        wrong = next((unit for unit in units if not unit or unit.strip() is not unit), None)
        if wrong is not None:
            raise HaystackError(f"units must be non-empty and free of whitespace at both ends, got {wrong[:40]!r}")

    def chunk(self, number: int) -> _Chunk:
        """A counted chunk of the corpus; its counts come from the cache folder where they are there."""
        if number not in self._chunks:
            assert isinstance(self.haystack, CorpusHaystack)
            joiner = self.haystack.joiner
            units = self.haystack.chunk(number)
            self.check(units)
            pieces = [joiner + unit for unit in units]
            lengths = np.fromiter((len(piece) for piece in pieces), dtype=np.int64, count=len(pieces))
            counts = self._load(number, len(pieces))
            if counts is None:
                counts = np.append(self.count(pieces), self._errors(units, pieces))
                self._store(number, counts)
            self._inexact |= bool(counts[-1])
            self._chunks[number] = _Chunk("".join(pieces), prefix_sums(lengths), counts[:-1])
        return self._chunks[number]

    def _sample(self) -> list[str]:
        return self.haystack.units(_CALIBRATION_SEED, CALIBRATION_UNITS)

    def _errors(self, units: list[str], pieces: list[str]) -> int:
        """In how many runs of units the sum of counts is not the count of the run."""
        if self.calibration.mode == "verify":
            return 0
        runs = [units[i : i + CALIBRATION_UNITS] for i in range(0, len(units), CALIBRATION_UNITS)]
        joiner = self.haystack.joiner
        distinct = {joiner.join(run): run for run in runs}
        truth = self.counter.count_many(list(distinct))
        firsts = self.counter.count_many([run[0] for run in distinct.values()])
        sums = [int(self.count([joiner + unit for unit in run[1:]]).sum()) for run in distinct.values()]
        return sum(t != f + s for t, f, s in zip(truth, firsts, sums, strict=True))

    def _path(self, number: int) -> Path | None:
        if not self.counter.cache or not isinstance(self.haystack, CorpusHaystack):
            return None
        calibration = self.calibration
        key = fingerprint_of(
            VERSION, self.counter.tokenizer_id, self.haystack.fingerprint, calibration.anchor, calibration.per_joint
        )
        return cache_folder() / "counts" / key / f"{number}.npy"

    def _load(self, number: int, size: int) -> IntArray | None:
        path = self._path(number)
        if path is None or not path.is_file():
            return None
        try:
            stored = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            return None
        return stored.astype(np.int64) if stored.shape == (size + 1,) else None

    def _store(self, number: int, counts: IntArray) -> None:
        path = self._path(number)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as stream:
                np.save(stream, counts.astype(np.uint32))
            os.replace(stream.name, path)
        except OSError:
            # A cache that cannot be written costs time, never a result.
            return


def counted_source(haystack: Haystack, counter: TokenCounter) -> CountedSource:
    """The counted form of a haystack; that of a corpus is kept with the counter."""
    if not isinstance(haystack, CorpusHaystack):
        return CountedSource(haystack, counter)
    key = haystack.fingerprint
    if key not in counter.sources:
        counter.sources[key] = CountedSource(haystack, counter)
    return counter.sources[key]


__all__ = ["Calibration", "CountedSource", "Window", "cache_folder", "counted_source"]
