"""Haystacks, threads and trees of identifier pairs: every structural promise, checked by walking the pairs."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.errors import FarspanError
from farspan.evals.tasks.uuid_threads import (
    CHARACTERS_PER_PAIR,
    follow_branches,
    follow_thread,
    make_branched,
    make_thread,
    mark_keys,
    needle_index,
    parse_pairs,
    serialize,
    thread_order,
    uuid_haystack,
)

seeds = st.integers(0, 2**31)
DIRECTIONS = ("forward", "backward", "random")


@given(seed=seeds, size=st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_haystack_is_eighty_characters_a_pair_reads_back_and_extends(seed: int, size: int) -> None:
    pairs = uuid_haystack(seed, size)
    text = serialize(pairs)
    assert len(text) == CHARACTERS_PER_PAIR * size
    assert parse_pairs(text) == pairs
    assert uuid_haystack(seed, size + 1)[:size] == pairs
    assert len({part for pair in pairs for part in pair}) == 2 * size


@given(size=st.integers(1, 500), depth=st.floats(0, 100))
def test_needle_index_is_the_nearest_pair(size: int, depth: float) -> None:
    index = needle_index(size, depth)
    assert 0 <= index < size
    assert abs(index - (size - 1) * depth / 100) <= 0.5 + 1e-9


def test_needle_index_at_the_ends_and_outside() -> None:
    assert [needle_index(25, depth) for depth in (0, 50, 100)] == [0, 12, 24]
    with pytest.raises(FarspanError, match="0 to 100"):
        needle_index(25, 101)


@given(seed=seeds, size=st.integers(2, 50), data=st.data(), direction=st.sampled_from(DIRECTIONS))
@settings(max_examples=80, deadline=None)
def test_thread_leads_from_its_start_to_its_answer(seed: int, size: int, data: st.DataObject, direction: str) -> None:
    length = data.draw(st.integers(1, size))
    rng = Random(seed)
    pairs = uuid_haystack(seed, size)
    linked, thread = make_thread(pairs, rng.sample(range(size), length), direction, rng)  # type: ignore[arg-type]
    assert follow_thread(linked, thread.start) == (thread.answer, length)
    assert thread.hops == length - 1
    keys = {key for key, _ in linked}
    assert len(keys) == size
    assert thread.answer not in keys
    assert sum(value in keys for _, value in linked) == thread.hops
    assert thread.start not in {value for _, value in linked}
    order = list(thread.order)
    ascending, descending = order == sorted(order), order == sorted(order, reverse=True)
    if length >= 3:
        assert (ascending, descending) == (direction == "forward", direction == "backward")
    untouched = set(range(size)) - set(order)
    assert all(linked[i] == pairs[i] for i in untouched)
    assert [value for _, value in linked] == [value for _, value in pairs]


def test_following_a_cycle_ends() -> None:
    assert follow_thread([("a", "b"), ("b", "a")], "a") == ("a", 2)
    assert follow_thread([("a", "b"), ("b", "a")], "a", max_steps=5) == ("b", 5)
    assert follow_thread([("a", "b")], "nowhere") == ("nowhere", 0)


@given(seed=seeds, length=st.integers(2, 4), branching=st.integers(2, 3))
@settings(max_examples=60, deadline=None)
def test_tree_has_one_longest_path(seed: int, length: int, branching: int) -> None:
    pairs = uuid_haystack(seed, 60)
    linked, tree = make_branched(pairs, length, branching, Random(seed))
    ends = follow_branches(parse_pairs(serialize(linked)), tree.start)
    assert sorted(value for value, _ in ends) == sorted(tree.leaves)
    longest = [value for value, steps in ends if steps == length]
    assert longest == [tree.answer]
    assert max(steps for _, steps in ends) == length
    assert min(steps for _, steps in ends) >= 1
    assert [value for value, _ in ends] == list(tree.leaves)
    for place in tree.order[:-1]:
        assert sum(key == linked[place][0] for key, _ in linked) == branching


@given(seed=seeds, count=st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_marked_keys_are_exactly_those_asked_for(seed: int, count: int) -> None:
    rng = Random(seed)
    pairs = uuid_haystack(seed, 12)
    chosen = rng.sample(range(12), count)
    marked = mark_keys(pairs, chosen, "*", rng)
    assert [i for i, (key, _) in enumerate(marked) if "*" in key] == sorted(chosen)
    assert len(serialize(marked)) == CHARACTERS_PER_PAIR * 12
    assert [value for _, value in marked] == [value for _, value in pairs]


@pytest.mark.parametrize("character", ["a", "0", "-", '"', "\\", " ", "\n", "**", ""])
def test_unusable_marks_are_refused(character: str) -> None:
    with pytest.raises(FarspanError, match="cannot mark keys"):
        mark_keys(uuid_haystack(0, 2), [0], character, Random(0))


def test_impossible_threads_are_refused() -> None:
    pairs = uuid_haystack(0, 4)
    for indices in ([], [0, 0], [0, 4], [-1]):
        with pytest.raises(FarspanError, match="distinct places"):
            make_thread(pairs, indices, "forward", Random(0))
    with pytest.raises(FarspanError, match="'forward', 'backward' or 'random'"):
        thread_order([1, 2], "sideways", Random(0))  # type: ignore[arg-type]
    with pytest.raises(FarspanError, match="does not fit"):
        make_branched(pairs, 4, 3, Random(0))
    with pytest.raises(FarspanError, match="at least 2"):
        make_branched(pairs, 1, 2, Random(0))


def test_text_that_is_no_object_is_refused() -> None:
    for text in ("", "{", "3", '"a"'):
        with pytest.raises(FarspanError, match="not a JSON object"):
            parse_pairs(text)
