"""LongRoPE's evolutionary search: a divisor for each pair that makes a score small.

The search knows vectors and numbers; what is scored is the caller's business (`longrope_score` has the usual case).

Source: arXiv 2402.13753, section 3.2 and appendix A.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from farspan.errors import LeverNotApplicable
from farspan.positions.lever import PositionLever
from farspan.positions.rope import RopeSpec
from farspan.positions.score_journal import ScoreJournal
from farspan.recipe import build_lever

Factors: TypeAlias = tuple[float, ...]
Score: TypeAlias = Callable[[Factors], float]

ANALYTIC = ("yarn", "ntk", "linear", "llama3", "dprope")
"""Methods from whose vectors the search starts, the first as published."""


class SearchSettings(BaseModel):
    """How the search goes on; the defaults are the published ones.

    Fields
    ------
    population : vectors scored at the start: the analytic ones, filled up with their mutants
    generations : rounds after the start
    parents : best vectors kept in each round
    mutations, crossovers : children made in each round
    rate, exchange : probability that a pair is considered for change; in a crossover, that it then is
    step : grid of mutated factors
    retries : attempts to make a child that is monotone and new
    patience : rounds without a better vector after which the search ends; None for no such end
    space : `monotone` for any non-decreasing factors between 1 and 1 plus the whole; `piecewise` besides has two cuts,
        1 below the first and the whole factor from the second on
    seed : of all random choices
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    population: int = Field(default=64, ge=1)
    generations: int = Field(default=40, ge=0)
    parents: int = Field(default=32, ge=1)
    mutations: int = Field(default=16, ge=0)
    crossovers: int = Field(default=16, ge=0)
    rate: float = Field(default=0.3, gt=0, le=1)
    exchange: float = Field(default=0.5, gt=0, le=1)
    step: float = Field(default=0.01, gt=0)
    retries: int = Field(default=20, ge=1)
    patience: int | None = Field(default=None, ge=1)
    space: Literal["monotone", "piecewise"] = "monotone"
    seed: int = 0

    @model_validator(mode="after")
    def _children(self) -> SearchSettings:
        if self.generations and not self.mutations + self.crossovers:
            raise ValueError("a search over generations needs mutations or crossovers")
        return self


@dataclass(frozen=True)
class SearchResult:
    """What was found.

    factors, score : the best vector and its score
    starts : scores of the analytic vectors
    history : best score after the start and after each whole generation
    evaluations : scores paid for, those of earlier runs in the journal included
    finished : whether the search ended by itself rather than by budget or time
    """

    factors: Factors
    score: float
    starts: dict[str, float]
    history: tuple[float, ...]
    evaluations: int
    finished: bool


@dataclass(frozen=True)
class _Individual:
    """A vector and, for the piecewise space, its two cuts."""

    factors: Factors
    low: int
    high: int


class _SpentError(Exception):
    """Budget or time is used up."""


@dataclass
class _Ledger:
    """Pays for scores, from the journal where it can, and remembers the best."""

    score: Score
    journal: ScoreJournal
    budget: int | None
    deadline: float | None
    progress: Callable[[int, float], None] | None
    paid: dict[Factors, float] = field(default_factory=dict)
    best: tuple[float, Factors] = (math.inf, ())

    def __call__(self, factors: Factors) -> float:
        if factors in self.paid:
            return self.paid[factors]
        if self.budget is not None and len(self.paid) >= self.budget:
            raise _SpentError
        found = self.journal.get(factors)
        if found is None:
            if self.deadline is not None and time.monotonic() >= self.deadline:
                raise _SpentError
            found = float(self.score(factors))
            found = math.inf if math.isnan(found) else found
            self.journal.add(factors, found)
        self.paid[factors] = found
        if not self.best[1] or found < self.best[0]:
            self.best = (found, factors)
        if self.progress is not None:
            self.progress(len(self.paid), self.best[0])
        return found


def monotone_factors(factors: Sequence[float], upper: float) -> Factors:
    """Factors repaired to be non-decreasing and between 1 and `upper`: each at least as large as those before it."""
    found: list[float] = []
    for factor in factors:
        found.append(round(min(max(factor, 1.0, found[-1] if found else 1.0), upper), 9))
    return tuple(found)


def analytic_starts(rope: RopeSpec, factor: float) -> dict[str, Factors]:
    """Divisors of the analytic methods for a model, repaired to lie in the searched space.

    YaRN's own divisor `1 / ((1 - m) / s + m)` is taken, not the blend `s (1 - m) + m` of the published program.
    """
    starts = {}
    for name in ANALYTIC:
        settings = {"rule": "monotone"} if name == "dprope" else {}
        lever = build_lever(name, {"factor": factor, **settings})
        assert isinstance(lever, PositionLever)
        divisors = rope.inv_freq / lever.stretch(rope).inv_freq
        starts[name] = monotone_factors(divisors.tolist(), 1 + factor)
    return starts


def search_factors(
    score: Score,
    starts: Mapping[str, Sequence[float]],
    factor: float,
    settings: SearchSettings | None = None,
    *,
    budget_evals: int | None = None,
    deadline: float | None = None,
    journal: str | Path | None = None,
    subject: str = "",
    progress: Callable[[int, float], None] | None = None,
) -> SearchResult:
    """Search non-decreasing divisors, between 1 and 1 plus the factor, whose score is small.

    Equal arguments take equal steps. A run ended by budget, time or from outside goes on where it stopped if called
    again with the same journal.

    Parameters
    ----------
    score : divisors, one a pair, to a number to make small; NaN counts as infinite
    starts : names to vectors to begin from, the most promising first
    factor : target length over present length
    budget_evals : scores to pay for in all, those in the journal included
    deadline : moment of `time.monotonic()` after which nothing more is scored
    journal : file of scores, see `ScoreJournal`
    subject : what is scored, part of the journal's identity
    progress : called with the number of scores and the best so far

    Raises
    ------
    LeverNotApplicable : no start, starts of different lengths, or no budget for a single score.
    FarspanError : the journal cannot be used, or belongs to another search.
    """
    chosen = settings or SearchSettings()
    begin = {name: monotone_factors(vector, 1 + factor) for name, vector in starts.items()}
    if len({len(vector) for vector in begin.values()}) != 1:
        raise LeverNotApplicable("a search of factors needs one or more starts, all with one factor a pair")
    if budget_evals is not None and budget_evals < 1:
        raise LeverNotApplicable(f"a search needs a budget of at least 1 evaluation, not {budget_evals}")
    identity: dict[str, object] = {
        **chosen.model_dump(exclude={"generations", "patience"}),
        "starts": {name: list(vector) for name, vector in begin.items()},
        "factor": factor,
        "subject": subject,
    }
    pay = _Ledger(score, ScoreJournal(Path(journal) if journal else None, identity), budget_evals, deadline, progress)
    breed = _Breeder(factor, chosen)
    founders = {name: _individual(vector, factor) for name, vector in begin.items()}
    history: list[float] = []
    finished = True
    try:
        _evolve(pay, breed, list(founders.values()), history)
    except _SpentError:
        finished = False
    if not pay.paid:
        raise LeverNotApplicable("the search had no time for a single evaluation; give it a later deadline")
    # A budget may end before the last of them.
    scores = {name: pay.paid.get(breed.effective(one)) for name, one in founders.items()}
    known = {name: score for name, score in scores.items() if score is not None}
    return SearchResult(pay.best[1], pay.best[0], known, tuple(history), len(pay.paid), finished)


def _evolve(pay: _Ledger, breed: _Breeder, starts: Sequence[_Individual], history: list[float]) -> None:
    settings, rng = breed.settings, breed.rng
    founders = [breed.admit(one) for one in dict.fromkeys(starts) if breed.effective(one) not in breed.seen]
    # The analytic vectors are paid for before any mutant is: they are what a small budget is best spent on.
    scored = [(pay(breed.effective(one)), index, one) for index, one in enumerate(founders)]
    while len(scored) < settings.population:
        mutant = breed.mutant(rng.choice(founders))
        if mutant is None:
            break
        scored.append((pay(breed.effective(mutant)), len(scored), mutant))
    history.append(pay.best[0])
    stale = 0
    for _ in range(settings.generations):
        # Of equal scores the older one is kept: the order of ages makes the steps reproducible.
        scored = sorted(scored, key=lambda entry: entry[:2])[: settings.parents]
        parents = [one for _, _, one in scored]
        children = [breed.mutant(rng.choice(parents)) for _ in range(settings.mutations)]
        children += [breed.cross(rng.choice(parents), rng.choice(parents)) for _ in range(settings.crossovers)]
        age = max(entry[1] for entry in scored) + 1
        scored += [
            (pay(breed.effective(child)), age + index, child)
            for index, child in enumerate(children)
            if child is not None
        ]
        stale = stale + 1 if pay.best[0] == history[-1] else 0
        history.append(pay.best[0])
        if settings.patience is not None and stale >= settings.patience:
            return


def _individual(factors: Factors, factor: float) -> _Individual:
    low = sum(value <= 1 for value in factors)
    high = next((index for index, value in enumerate(factors) if value >= factor), len(factors))
    return _Individual(factors, low, max(low, high))


class _Breeder:
    """Makes children that are monotone and have not been there before."""

    def __init__(self, factor: float, settings: SearchSettings) -> None:
        self.factor = factor
        self.settings = settings
        self.rng = Random(settings.seed)
        self.seen: set[Factors] = set()

    def admit(self, one: _Individual) -> _Individual:
        self.seen.add(self.effective(one))
        return one

    def effective(self, one: _Individual) -> Factors:
        """The factors that are scored."""
        if self.settings.space == "monotone":
            return one.factors
        middle = (min(value, self.factor) for value in one.factors[one.low : one.high])
        return (1.0,) * one.low + tuple(middle) + (float(self.factor),) * (len(one.factors) - one.high)

    def _new(self, make: Callable[[], _Individual]) -> _Individual | None:
        for _ in range(self.settings.retries):
            child = make()
            vector = self.effective(child)
            if vector not in self.seen and all(a <= b for a, b in pairwise(vector)):
                return self.admit(child)
        return None

    def mutant(self, parent: _Individual) -> _Individual | None:
        """Each pair, with probability `rate`, takes a value of the grid between its two neighbours."""

        def make() -> _Individual:
            values = list(parent.factors)
            step, upper = self.settings.step, 1 + self.factor
            for index in range(len(values)):
                if self.rng.random() >= self.settings.rate:
                    continue
                below = values[index - 1] if index else 1.0
                above = values[index + 1] if index + 1 < len(values) else upper
                first = math.ceil((below - 1) / step - 1e-9)
                last = math.floor((above - 1) / step + 1e-9)
                if first <= last:
                    drawn = 1 + step * self.rng.randint(first, last)
                    values[index] = round(min(max(drawn, below), above), 9)
            return self._cut(tuple(values), parent.low, parent.high)

        return self._new(make)

    def cross(self, one: _Individual, other: _Individual) -> _Individual | None:
        """Each pair of one parent takes the other's value, with probability `rate` times `exchange`."""

        def make() -> _Individual:
            values = [
                second
                if self.rng.random() < self.settings.rate and self.rng.random() < self.settings.exchange
                else first
                for first, second in zip(one.factors, other.factors, strict=True)
            ]
            cuts = other if self.rng.random() < self.settings.exchange else one
            return _Individual(tuple(values), cuts.low, cuts.high)

        return self._new(make)

    def _cut(self, values: Factors, low: int, high: int) -> _Individual:
        if self.settings.space == "monotone":
            return _Individual(values, low, high)
        low = min(max(0, low + round(self.rng.gauss(0, 2))), len(values))
        return _Individual(values, low, min(max(low, high + round(self.rng.gauss(0, 2))), len(values)))
