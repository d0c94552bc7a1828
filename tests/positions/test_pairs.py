"""What becomes of each pair."""

from __future__ import annotations

import math

import pytest

from farspan.errors import LeverNotApplicable
from farspan.positions import get_rope, pair_rows, plan_rope
from farspan.positions.pairs import fate_of
from tests.positions.conftest import WINDOW, config_of


def test_yarn_keeps_fast_pairs_and_interpolates_slow_ones() -> None:
    config = config_of("llama")
    before, after = get_rope(config), plan_rope(config, "yarn", 4 * WINDOW)
    rows = pair_rows(before, after)
    assert [row.index for row in rows] == list(range(8))
    assert rows[0].fate == "kept"
    assert rows[-1].fate == "interpolated"
    assert rows[-1].divisor == pytest.approx(4, rel=1e-5)
    for row in rows:
        assert row.wavelength == pytest.approx(2 * math.pi * 10_000 ** (2 * row.index / 16))
        assert row.turns == pytest.approx(WINDOW / row.wavelength)
        assert row.new_turns == pytest.approx(4 * WINDOW / row.new_wavelength)
        assert row.divisor == pytest.approx(row.new_wavelength / row.wavelength)
        # Nothing but the fate of a pair of fewer than one turn says whether new angles are met.
        if row.fate == "interpolated":
            assert row.new_turns == pytest.approx(row.turns, rel=1e-4)


def test_a_model_alone_keeps_everything() -> None:
    rope = get_rope(config_of("stablelm"))
    rows = pair_rows(rope, rope)
    assert {row.fate for row in rows} == {"kept"}
    assert {row.divisor for row in rows} == {1.0}


def test_every_fate_has_a_name() -> None:
    found = [fate_of(1.0, new, 4) for new in (1.0, 0.25, 0.5, 0.1, 2.0, 0.0)]
    assert found == ["kept", "interpolated", "between", "slowed", "faster", "at rest"]
    rows = pair_rows(get_rope(config_of("llama")), plan_rope(config_of("llama"), "truncated", 4 * WINDOW))
    at_rest = [row for row in rows if row.fate == "at rest"]
    assert at_rest
    assert all(math.isinf(row.new_wavelength) and math.isinf(row.divisor) and row.new_turns == 0 for row in at_rest)


def test_different_models_are_refused() -> None:
    with pytest.raises(LeverNotApplicable, match="8 and 4 pairs"):
        pair_rows(get_rope(config_of("llama")), get_rope(config_of("stablelm")))
