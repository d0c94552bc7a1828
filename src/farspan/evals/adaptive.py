"""Finding an effective length with few samples: coarse lengths first, then bisection where the score falls.

Says which samples to run next and when to stop; it runs nothing. Sample indices are handed out in order, so two models
searched with the same seed share the samples they both run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from farspan.evals.curves import passes
from farspan.evals.effective import (
    EffectiveLength,
    EffectiveLengthError,
    ScoreRecord,
    effective_length,
    isotonic_decreasing,
)


class Block(NamedTuple):
    """Samples to run next: indices `first` to `first + samples` at one length."""

    length: int
    first: int
    samples: int


class AdaptiveLength:
    """A search for the length at which a score falls below a threshold.

    Parameters
    ----------
    lengths : coarse grid, at least two; the shortest is run fully
    threshold : score that counts as reading
    block : samples a step
    full : samples of the shortest length, and the most any length gets
    ratio : stop when the interval's ends are closer than this factor, and the lengths on both sides closer than its
        square
    token_budget : stop before the tokens of all samples run exceed it
    seed : of the bootstrap

    Examples
    --------
    >>> search = AdaptiveLength([1024, 4096], threshold=0.75)
    >>> search.ask()
    Block(length=1024, first=0, samples=8)
    """

    def __init__(
        self,
        lengths: Sequence[int],
        threshold: float,
        *,
        block: int = 8,
        full: int = 64,
        ratio: float = 1.25,
        token_budget: int | None = None,
        seed: int = 0,
    ) -> None:
        if len(set(lengths)) < 2 or min(lengths) < 1:
            raise EffectiveLengthError(f"an adaptive search needs at least two positive lengths, got {list(lengths)}")
        if block < 1 or full < block or ratio <= 1:
            raise EffectiveLengthError(
                f"block >= 1, full >= block and ratio > 1 are needed, got {block=}, {full=}, {ratio=}"
            )
        self.threshold = threshold
        self.block = block
        self.full = full
        self.ratio = ratio
        self.token_budget = token_budget
        self.seed = seed
        self.records: list[ScoreRecord] = []
        self._asked: dict[int, int] = dict.fromkeys(sorted(set(lengths)), 0)
        self._coarse = tuple(self._asked)

    @property
    def tokens(self) -> int:
        """Tokens of all samples handed out."""
        return sum(length * count for length, count in self._asked.items())

    def tell(self, records: Iterable[ScoreRecord]) -> None:
        """Take in the scores of samples that were run."""
        self.records.extend(records)

    def result(self) -> EffectiveLength:
        """The estimate from all scores so far."""
        return effective_length(self.records, self.threshold, seed=self.seed)

    def ask(self) -> Block | None:
        """The next samples to run; None when the interval is narrow enough or nothing more can be run.

        The caller tells the scores of one block before asking for the next.
        """
        for length in self._coarse:
            if self._asked[length] == 0:
                return self._hand_out(length)
        if self._asked[self._coarse[0]] < self.full:
            return self._hand_out(self._coarse[0])
        found = self.result()
        bracket = self._bracket(found)
        # Between two lengths far apart the crossing is only interpolated, however sure both of their scores are.
        near = bracket is None or bracket[1] <= self.ratio**2 * bracket[0]
        if near and found.lo > 0 and found.hi <= self.ratio * found.lo:
            return None
        if bracket is None:
            # Nothing fails, or everything does: only more samples at the end in doubt can change that.
            edge = self._coarse[-1] if found.censoring == "right" else self._coarse[0]
            return self._hand_out(edge)
        low, high = bracket
        middle = round(math.sqrt(low * high))
        if high > low * self.ratio and middle not in self._asked:
            self._asked[middle] = 0
            return self._hand_out(middle)
        doubtful = [length for length in self._asked if found.lo <= length <= found.hi or length in bracket]
        unfinished = [length for length in doubtful if self._asked[length] < self.full]
        return self._hand_out(min(unfinished, key=lambda length: (self._asked[length], length))) if unfinished else None

    def _bracket(self, found: EffectiveLength) -> tuple[int, int] | None:
        """The last passing and first failing length of the non-increasing fit."""
        passing = passes(isotonic_decreasing(found.means, found.n_per_length), self.threshold).tolist()
        if passing[0] and False in passing:
            first = passing.index(False)
            return found.lengths[first - 1], found.lengths[first]
        return None

    def _hand_out(self, length: int) -> Block | None:
        first = self._asked[length]
        count = min(self.block, self.full - first)
        over = self.token_budget is not None and self.tokens + count * length > self.token_budget
        if count < 1 or over:
            return None
        self._asked[length] = first + count
        return Block(length, first, count)
