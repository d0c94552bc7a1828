from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.evals.generate import DepthGrid, LengthTargetError
from farspan.evals.generate.length import prefix_sums
from farspan.evals.generate.placement import PlacementError, draw_depths, place_insertions, place_replacements

SUMS = prefix_sums([10] * 30)


def test_a_grid_gives_every_depth_the_same_number_of_samples() -> None:
    grid = DepthGrid(11)
    assert grid.depths == tuple(float(10 * i) for i in range(11))
    assert Counter(grid.stratum(index) for index in range(55)) == dict.fromkeys(grid.depths, 5)
    assert DepthGrid(1).depths == (50.0,)
    with pytest.raises(PlacementError, match="at least one depth"):
        _ = DepthGrid(0).depths


def test_uniform_depths_are_distinct_points_of_a_grid(rng: Random) -> None:
    depths = draw_depths("uniform", 40, rng)
    assert sorted(depths) == [100 * i / 39 for i in range(40)]
    assert depths != sorted(depths)
    assert len(set(draw_depths("uniform", 100, rng))) == 100


def test_one_depth_serves_all_needles_and_several_must_match(rng: Random) -> None:
    assert draw_depths(30, 2, rng) == [30.0, 30.0]
    assert draw_depths([0, 100], 2, rng) == [0.0, 100.0]
    with pytest.raises(PlacementError, match="3 depths given for 2"):
        draw_depths([0, 50, 100], 2, rng)
    with pytest.raises(PlacementError, match="unknown depths 'deep'"):
        draw_depths("deep", 2, rng)  # type: ignore[arg-type]


def test_clustered_needles_stand_at_consecutive_boundaries() -> None:
    for seed in range(50):
        places = place_insertions(SUMS, "clustered", 4, Random(seed), in_order=False)
        assert places == list(range(places[0], places[0] + 4))
        assert places[0] >= 0
        assert places[-1] <= 30
        indices = place_replacements(30, "clustered", 4, Random(seed), in_order=False)
        assert indices == list(range(indices[0], indices[0] + 4))
        assert indices[-1] < 30


def test_a_chain_reads_forwards() -> None:
    for seed in range(20):
        places = place_insertions(SUMS, "random", 6, Random(seed), in_order=True)
        assert places == sorted(places)
        indices = place_replacements(30, "uniform", 6, Random(seed), in_order=True)
        assert indices == sorted(indices)


@given(st.integers(1, 40), st.data())
def test_replaced_units_are_distinct(n: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, n))
    depths = data.draw(st.sampled_from(["uniform", "random", "clustered", 0.0, 50.0, 100.0]))
    places = place_replacements(n, depths, count, Random(data.draw(st.integers(0, 5))), in_order=False)
    assert len(set(places)) == count
    assert all(0 <= place < n for place in places)


def test_a_depth_replaces_the_unit_there(rng: Random) -> None:
    assert place_replacements(25, [0, 50, 100], 3, rng, in_order=False) == [0, 12, 24]


def test_more_needles_than_units_are_refused(rng: Random) -> None:
    with pytest.raises(LengthTargetError, match="cannot replace"):
        place_replacements(3, "random", 4, rng, in_order=False)
    with pytest.raises(LengthTargetError, match="outside 0 to 100"):
        place_replacements(3, [120.0], 1, rng, in_order=False)
