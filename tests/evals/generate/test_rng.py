from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.evals.generate import derive_seed, sample_indices, substreams
from farspan.evals.generate.rng import shuffled, stream_seeds


def test_seeds_join_the_strings_of_their_parts() -> None:
    assert derive_seed("a", "b") == 8092085543480239773
    assert derive_seed("x", 0, True, None) == derive_seed("x", "0", "True", "None")
    assert derive_seed("ab", "c") != derive_seed("a", "bc")
    assert 0 <= derive_seed("any") < 2**63


def test_only_placement_depends_on_length_and_depth() -> None:
    short = stream_seeds("f", "t", 1, 2, length=1024, depth=0)
    long = stream_seeds("f", "t", 1, 2, length=4096, depth=50)
    assert {name for name in short if short[name] != long[name]} == {"placement"}


def test_streams_are_independent_and_repeatable() -> None:
    first, second = substreams("f", "t", 0, 0), substreams("f", "t", 0, 0)
    draws = {name: stream.random() for name, stream in first.items()}
    assert len(set(draws.values())) == 4
    assert draws == {name: stream.random() for name, stream in second.items()}


@given(st.integers(0, 60), st.data())
def test_sampled_indices_are_distinct_and_in_range(population: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, population))
    chosen = sample_indices(Random(data.draw(st.integers(0, 9))), population, count)
    assert len(set(chosen)) == len(chosen) == count
    assert chosen == sorted(chosen)
    assert all(0 <= index < population for index in chosen)


def test_sampled_indices_are_uniform() -> None:
    rng = Random(3)
    counts = [0] * 10
    for _ in range(4000):
        for index in sample_indices(rng, 10, 3):
            counts[index] += 1
    assert all(abs(count - 1200) < 150 for count in counts)


def test_too_many_indices_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot draw 4 distinct of 3"):
        sample_indices(Random(0), 3, 4)


def test_shuffling_keeps_the_items() -> None:
    items = list(range(30))
    mixed = shuffled(Random(1), items)
    assert sorted(mixed) == items
    assert mixed != items
    assert items == list(range(30))
