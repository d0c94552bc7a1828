"""What DPRoPE weighs, laid open."""

from __future__ import annotations

import pytest

from farspan.errors import LeverNotApplicable
from farspan.positions import DPRoPE, LinearInterpolation, distributions, disturbance_of, get_rope
from tests.positions.conftest import WINDOW, config_of


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "stablelm"])
def test_it_says_what_the_lever_does(architecture: str) -> None:
    config = config_of(architecture)
    lever = DPRoPE(factor=4)
    found, spec, rope = distributions(config, lever), lever.plan(config), get_rope(config)
    assert (found.original_length, found.target_length, found.bins) == (WINDOW, 4 * WINDOW, 8)
    assert len(found.choice) == len(found.wavelengths) == rope.rotary_dim // 2
    divided = (rope.inv_freq / spec.inv_freq).tolist()
    assert [{"keep": 1.0, "linear": 4.0}[name] for name in found.choice] == pytest.approx(divided)
    chosen = found.disturbance["chosen"]
    assert found.totals["chosen"] == pytest.approx(sum(chosen) / len(chosen))
    linear = LinearInterpolation(factor=4).plan(config).inv_freq
    assert found.totals["linear"] == pytest.approx(disturbance_of(linear, rope.inv_freq, WINDOW, 4 * WINDOW))
    assert set(found.totals) == {"chosen", "keep", "linear", "ntk", "yarn"}


def test_telling_pairs_gain_and_lose_most() -> None:
    found = distributions(config_of("llama"), DPRoPE(factor=4, bins=8))
    gain = [
        kept - divided for kept, divided in zip(found.disturbance["keep"], found.disturbance["linear"], strict=True)
    ]
    turning = [index for index, wavelength in enumerate(found.wavelengths) if wavelength <= 4 * WINDOW]
    assert found.pairs[0].index == max(turning, key=lambda index: gain[index])
    for pair in found.pairs:
        for shares in (pair.trained, pair.kept, pair.interpolated):
            assert len(shares) == 8
            assert sum(shares) == pytest.approx(1)
    if len(found.pairs) > 1:
        assert found.pairs[1].index == gain.index(min(gain))


def test_two_equal_windows_are_refused() -> None:
    with pytest.raises(LeverNotApplicable, match="target above the window"):
        distributions(config_of("llama"), DPRoPE(factor=1))
