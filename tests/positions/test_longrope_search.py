"""The evolutionary search: what it tries, what it pays, and how it goes on after an interruption."""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from farspan.errors import FarspanError, LeverNotApplicable
from farspan.positions import SearchSettings, get_rope, search_factors
from farspan.positions.longrope_search import Factors, analytic_starts, monotone_factors
from farspan.positions.rope import default_inv_freq, rope_frequencies
from tests.positions.conftest import WINDOW, config_of

FACTOR = 4.0
GOAL = (1.0, 1.2, 1.9, 2.4, 3.0, 3.3, 4.5, 5.0)
STARTS = {"yarn": (1.0, 1.0, 1.0, 1.5, 3.0, 4.0, 4.0, 4.0), "linear": (4.0,) * 8}
SMALL = SearchSettings(population=12, generations=6, parents=6, mutations=4, crossovers=4)


class Distance:
    """A score whose best vector is known, and that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Factors] = []

    def __call__(self, factors: Factors) -> float:
        self.asked.append(factors)
        return sum((one - other) ** 2 for one, other in zip(factors, GOAL, strict=True))


@pytest.mark.parametrize("space", ["monotone", "piecewise"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_every_vector_is_monotone_new_and_within_bounds(space: str, seed: int) -> None:
    score = Distance()
    found = search_factors(score, STARTS, FACTOR, SMALL.model_copy(update={"seed": seed, "space": space}))
    assert len(set(score.asked)) == len(score.asked) == found.evaluations
    for vector in score.asked:
        assert all(one <= other for one, other in itertools.pairwise(vector))
        assert vector[0] >= 1
        assert vector[-1] <= (1 + FACTOR if space == "monotone" else FACTOR)
    assert list(found.history) == sorted(found.history, reverse=True)
    assert len(found.history) == SMALL.generations + 1
    assert found.score == found.history[-1] <= min(found.starts.values())
    assert found.score == Distance()(found.factors)
    assert found.finished


def test_the_published_size_comes_near_the_goal() -> None:
    score = Distance()
    found = search_factors(score, STARTS, FACTOR)
    assert found.score < min(found.starts.values()) / 20
    # 64 at the start, 32 children in each of 40 generations, fewer where no new child was found.
    assert 64 < found.evaluations <= 64 + 40 * 32


def test_mutants_stand_on_the_grid_between_their_neighbours() -> None:
    score = Distance()
    on_grid = {"one": (1.0,) * 8}
    search_factors(score, on_grid, FACTOR, SMALL.model_copy(update={"step": 0.25}))
    values = {value for vector in score.asked for value in vector}
    assert len(values) > 5
    assert all((value * 4).is_integer() for value in values)


def test_equal_seeds_take_equal_steps() -> None:
    runs = [Distance() for _ in range(3)]
    for score, seed in zip(runs, (1, 1, 2), strict=True):
        search_factors(score, STARTS, FACTOR, SMALL.model_copy(update={"seed": seed}))
    assert runs[0].asked == runs[1].asked != runs[2].asked


def test_starts_are_paid_first_and_a_budget_ends_the_search() -> None:
    score = Distance()
    found = search_factors(score, STARTS, FACTOR, SMALL, budget_evals=1)
    assert score.asked == [STARTS["yarn"]]
    assert (found.evaluations, found.finished, found.history) == (1, False, ())
    assert found.starts == {"yarn": found.score}
    for budget in (2, 12, 13, 20):
        score = Distance()
        found = search_factors(score, STARTS, FACTOR, SMALL, budget_evals=budget)
        assert len(score.asked) == found.evaluations == budget
        assert not found.finished
        assert found.score == min(Distance()(vector) for vector in score.asked)


@pytest.mark.parametrize("stop", [1, 7, 12, 13, 25])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(stop: int, tmp_path: Path) -> None:
    whole = Distance()
    wanted = search_factors(whole, STARTS, FACTOR, SMALL)
    journal = tmp_path / "new" / "journal.jsonl"

    class Failing(Distance):
        def __call__(self, factors: Factors) -> float:
            if len(self.asked) == stop:
                raise KeyboardInterrupt
            return super().__call__(factors)

    with pytest.raises(KeyboardInterrupt):
        search_factors(Failing(), STARTS, FACTOR, SMALL, journal=journal)
    # A line that was being written when the power failed is paid for again.
    with journal.open("a") as file:
        file.write('{"vector": [1.0, 2')
    rest = Distance()
    found = search_factors(rest, STARTS, FACTOR, SMALL, journal=journal)
    assert found == wanted
    assert rest.asked == whole.asked[stop:]
    again = Distance()
    assert search_factors(again, STARTS, FACTOR, SMALL, journal=journal) == wanted
    assert not again.asked


def test_more_generations_go_on_from_a_journal(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    first = search_factors(Distance(), STARTS, FACTOR, SMALL, journal=journal)
    more = Distance()
    found = search_factors(more, STARTS, FACTOR, SMALL.model_copy(update={"generations": 9}), journal=journal)
    assert found.history[: len(first.history)] == first.history
    assert found.evaluations == first.evaluations + len(more.asked)


def test_time_ends_the_search_too(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    with pytest.raises(LeverNotApplicable, match="no time for a single evaluation"):
        search_factors(Distance(), STARTS, FACTOR, SMALL, deadline=time.monotonic() - 1)
    search_factors(Distance(), STARTS, FACTOR, SMALL, budget_evals=5, journal=journal)
    found = search_factors(Distance(), STARTS, FACTOR, SMALL, deadline=time.monotonic() - 1, journal=journal)
    assert (found.evaluations, found.finished) == (5, False)


def test_patience_ends_a_search_that_finds_nothing() -> None:
    found = search_factors(
        lambda factors: 0.0, STARTS, FACTOR, SMALL.model_copy(update={"patience": 2, "generations": 40})
    )
    assert len(found.history) == 3
    assert found.finished
    assert found.factors == STARTS["yarn"]


def test_scores_that_are_no_numbers_lose(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"

    def score(factors: Factors) -> float:
        return 1.0 if factors == STARTS["linear"] else math.nan

    for _ in range(2):
        found = search_factors(score, STARTS, FACTOR, SMALL, journal=journal)
        assert found.factors == STARTS["linear"]
        assert found.starts["yarn"] == math.inf


def test_progress_is_told() -> None:
    told: list[tuple[int, float]] = []
    found = search_factors(
        Distance(), STARTS, FACTOR, SMALL, budget_evals=9, progress=lambda count, best: told.append((count, best))
    )
    assert [count for count, _ in told] == list(range(1, 10))
    assert told[-1][1] == found.score


def test_wrong_journals_are_refused(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    search_factors(Distance(), STARTS, FACTOR, SMALL, budget_evals=3, journal=journal)
    with pytest.raises(FarspanError, match="belongs to another search"):
        search_factors(Distance(), STARTS, FACTOR, SMALL.model_copy(update={"seed": 5}), journal=journal)
    with pytest.raises(FarspanError, match="belongs to another search"):
        search_factors(Distance(), STARTS, FACTOR, SMALL, journal=journal, subject="other")
    journal.write_text(journal.read_text() + "nonsense\n")
    with pytest.raises(FarspanError, match="holds a line that is no score"):
        search_factors(Distance(), STARTS, FACTOR, SMALL, journal=journal)
    with pytest.raises(FarspanError, match="cannot use journal"):
        search_factors(Distance(), STARTS, FACTOR, SMALL, journal=tmp_path)


def test_wrong_searches_are_refused() -> None:
    with pytest.raises(LeverNotApplicable, match="one factor a pair"):
        search_factors(Distance(), {}, FACTOR)
    with pytest.raises(LeverNotApplicable, match="one factor a pair"):
        search_factors(Distance(), {"one": (1.0,), "two": (1.0, 2.0)}, FACTOR)
    with pytest.raises(LeverNotApplicable, match="at least 1 evaluation"):
        search_factors(Distance(), STARTS, FACTOR, budget_evals=0)
    with pytest.raises(ValidationError, match="mutations or crossovers"):
        SearchSettings(mutations=0, crossovers=0)


def test_repair_raises_what_falls() -> None:
    assert monotone_factors((0.5, 2.0, 1.5, 9.0), 5.0) == (1.0, 2.0, 2.0, 5.0)
    assert monotone_factors(GOAL, 5.0) == GOAL


def test_the_start_is_yarns_own_divisor() -> None:
    rope = get_rope(config_of("llama"))
    starts = analytic_starts(rope, 4)
    parameters = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": WINDOW}
    yarn = rope_frequencies(parameters, rope.rotary_dim, 4 * WINDOW)[0].double()
    wanted = default_inv_freq(rope.rope_theta, rope.rotary_dim) / yarn
    assert starts["yarn"] == pytest.approx(wanted.tolist(), rel=1e-5)
    assert starts["linear"] == (4.0,) * 8
    assert all(one <= other for vector in starts.values() for one, other in itertools.pairwise(vector))
