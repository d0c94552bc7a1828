"""DPRoPE: which pairs are interpolated, and what that costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.errors import LeverNotApplicable, RecipeError
from farspan.positions import DPRoPE, disturbance_of, dprope_vector, get_rope, plan_rope, rope_parameters_of
from farspan.positions.dprope import cut_choice, interpolated_dims, rising_choice
from farspan.positions.ntk_aware import ntk_aware
from farspan.positions.rope import default_inv_freq, rope_frequencies
from farspan.recipe import build_lever
from tests.positions.conftest import WINDOW, config_of

LLAMA2 = default_inv_freq(10_000, 128)


def yarn_of(theta: float, length: int, factor: int) -> torch.Tensor:
    parameters = {
        "rope_type": "yarn",
        "rope_theta": theta,
        "factor": float(factor),
        "original_max_position_embeddings": length,
    }
    return rope_frequencies(parameters, 128, length * factor)[0].double()


@pytest.mark.parametrize(
    ("theta", "length", "factor", "totals", "interpolated"),
    [
        (1e4, 4096, 2, (276.51, 27.30, 108.61, 24.49, 6.42), (46, 33, 25)),
        (1e4, 4096, 4, (334.09, 31.31, 115.66, 35.45, 23.00), (43, 35, 24)),
        (5e5, 8192, 4, (964.19, 4.83, 263.76, 7.63, 4.19), (51, 41, 33)),
        (1e6, 32768, 4, (731.30, 0.13, 167.44, 2.18, 0.10), (48, 33, 28)),
    ],
)
def test_totals_of_known_models(
    theta: float, length: int, factor: int, totals: tuple[float, ...], interpolated: tuple[int, ...]
) -> None:
    """Reference values in thousandths, computed independently for keep, linear, NTK-aware, YaRN and the free choice."""
    own = default_inv_freq(theta, 128)
    vectors = (own, own / factor, ntk_aware(theta, 128, factor)[1], yarn_of(theta, length, factor))
    found = [1000 * disturbance_of(vector, own, length, length * factor) for vector in vectors]
    free = [dprope_vector(own, length, length * factor, threshold=level) for level in (0, 1e-3, 1e-2)]
    assert [*found, 1000 * free[0].total] == pytest.approx(totals, rel=4e-3, abs=6e-3)
    assert tuple(result.choice.count("linear") for result in free) == interpolated


def test_the_papers_table_of_disturbances() -> None:
    """Linear and YaRN at 8k and 16k are within 15 % of the paper's values, and the choice falls as far below."""
    for factor, linear, yarn, chosen in ((2, 24.08, 25.55, 6.71), (4, 33.67, 35.44, 22.92)):
        found = [
            1000 * disturbance_of(vector, LLAMA2, 4096, 4096 * factor)
            for vector in (LLAMA2 / factor, yarn_of(1e4, 4096, factor))
        ]
        assert found == pytest.approx([linear, yarn], rel=0.15)
        assert 1000 * dprope_vector(LLAMA2, 4096, 4096 * factor, threshold=0).total == pytest.approx(chosen, rel=0.15)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([100.0, 1e4, 5e5]), st.sampled_from([8, 32, 64]), st.integers(16, 700), st.floats(1.1, 8))
def test_what_holds_for_every_choice(theta: float, dim: int, length: int, factor: float) -> None:
    own, target = default_inv_freq(theta, dim), round(length * factor)
    if target == length:
        return
    free = dprope_vector(own, length, target, threshold=0)
    kept, linear = free.disturbance["keep"], free.disturbance["linear"]
    assert free.total <= min(float(kept.mean()), float(linear.mean())) + 1e-15
    assert free.total == pytest.approx(disturbance_of(free.inv_freq, own, length, target), abs=1e-12)
    # A third candidate cannot make it worse.
    ntk = ntk_aware(theta, dim, factor)[1]
    more = dprope_vector(
        own, length, target, threshold=0, candidates={"keep": own, "linear": own / (target / length), "ntk": ntk}
    )
    assert more.total <= free.total + 1e-15
    for other in (
        dprope_vector(own, length, target),
        dprope_vector(own, length, target, rule="monotone"),
        dprope_vector(own, length, target, num_interpolated_dims="auto"),
    ):
        assert other.total >= free.total - 1e-15
        assert set(other.choice) <= {"keep", "linear"}
    auto = dprope_vector(own, length, target)
    assert auto.total <= free.total + 0.1 * abs(free.total) + 1e-15


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_pairs_slower_than_the_target_are_always_interpolated(factor: int) -> None:
    for theta, length in ((1e4, 4096), (5e5, 8192)):
        own = default_inv_freq(theta, 128)
        slow = own < 2 * torch.pi / (length * factor)
        choice = dprope_vector(own, length, length * factor).choice
        assert slow.any()
        assert all(choice[index] == "linear" for index in slow.nonzero().flatten().tolist())


def test_slow_pairs_are_stretched_where_wide_bins_hide_them() -> None:
    own = default_inv_freq(1e7, 32)
    slow = own < 2 * torch.pi / 2048
    blind = dprope_vector(own, 512, 2048)
    assert blind.choice[-1] == "keep"
    for rule in ("free", "monotone", "continuous"):
        seeing = dprope_vector(own, 512, 2048, rule=rule, stretch_slow=True)
        torch.testing.assert_close(seeing.inv_freq[slow], own[slow] / 4)
        assert seeing.total == pytest.approx(disturbance_of(seeing.inv_freq, own, 512, 2048), abs=1e-12)
    for factor in (2, 4):
        plain = dprope_vector(LLAMA2, 4096, 4096 * factor)
        assert plain.choice == dprope_vector(LLAMA2, 4096, 4096 * factor, stretch_slow=True).choice


def test_one_cut_is_nearly_as_good_as_free_choice() -> None:
    for factor, cut, total in ((2, 30, 8.9), (4, 28, 23.9)):
        found = dprope_vector(LLAMA2, 4096, 4096 * factor, rule="monotone")
        assert found.choice == ("keep",) * cut + ("linear",) * (64 - cut)
        assert 1000 * found.total == pytest.approx(total, abs=0.05)


def test_divisors_between_do_not_fall_and_disturb_no_more_than_a_cut() -> None:
    own = default_inv_freq(5e5, 32)
    cut = dprope_vector(own, 1024, 4096, rule="monotone")
    between = dprope_vector(own, 1024, 4096, rule="continuous")
    divisors = own / between.inv_freq
    assert bool((divisors.diff() >= -1e-12).all())
    assert float(divisors.min()) >= 1
    assert float(divisors.max()) <= 4 + 1e-9
    assert between.total <= cut.total + 1e-12
    assert between.total == pytest.approx(disturbance_of(between.inv_freq, own, 1024, 4096), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_choices_along_the_pairs_are_the_cheapest(seed: int) -> None:
    costs = torch.rand(3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    paths = torch.cartesian_prod(*[torch.arange(3)] * 5)
    rising = paths[(paths.diff(dim=-1) >= 0).all(-1)]
    wanted = min(float(costs.gather(0, path[None]).sum()) for path in rising)
    found = rising_choice(costs)
    assert bool((found.diff() >= 0).all())
    assert float(costs.gather(0, found[None]).sum()) == pytest.approx(wanted)
    least, which = costs[1:].min(0)
    cuts = [float(costs[0, :cut].sum() + least[cut:].sum()) for cut in range(6)]
    chosen = cut_choice(costs)
    assert float(costs.gather(0, chosen[None]).sum()) == pytest.approx(min(cuts))
    assert bool(((chosen == 0) | (chosen == which + 1)).all())


def test_a_number_of_dimensions_takes_those_that_gain_most() -> None:
    found = dprope_vector(LLAMA2, 4096, 8192, num_interpolated_dims=80)
    gain = found.disturbance["keep"] - found.disturbance["linear"]
    changed = torch.tensor([name == "linear" for name in found.choice])
    assert int(changed.sum()) == 40
    assert gain[changed].min() >= gain[~changed].max()
    assert dprope_vector(LLAMA2, 4096, 8192, num_interpolated_dims=0).choice == ("keep",) * 64
    assert [interpolated_dims(128, factor) for factor in (1.5, 2, 2 * 2**0.5, 4, 16)] == [80, 80, 72, 64, 64]
    assert all(interpolated_dims(dim, factor) % 2 == 0 for dim in (2, 6, 14, 90) for factor in (2, 3, 4))


def test_the_released_program_decides_otherwise() -> None:
    paper = dprope_vector(LLAMA2, 4096, 8192, threshold=0)
    code = dprope_vector(LLAMA2, 4096, 8192, variant="code")
    assert code.choice.count("linear") == 47
    assert code.choice != paper.choice
    assert dprope_vector(LLAMA2, 4096, 16384, variant="code").choice.count("linear") == 42


def test_the_lever_starts_from_effective_frequencies() -> None:
    config = config_of("llama")
    config.rope_parameters = {
        "rope_type": "llama3",
        "rope_theta": 10_000.0,
        "factor": 2.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": WINDOW // 2,
    }
    rope = get_rope(config)
    spec = plan_rope(config, "dprope", 4 * WINDOW, compose=True)
    ratio = rope.inv_freq / spec.inv_freq
    assert set(ratio.round(decimals=9).tolist()) == {1.0, 4.0}
    assert not torch.allclose(rope.inv_freq, default_inv_freq(10_000, 16))


def test_the_exported_factors_are_one_and_the_factor() -> None:
    config = config_of("llama")
    spec = plan_rope(config, "dprope", 4 * WINDOW)
    parameters = rope_parameters_of(spec)
    factors = parameters["long_factor"]
    assert isinstance(factors, list)
    assert parameters["rope_type"] == "longrope"
    assert parameters["attention_factor"] == 1
    assert {round(factor, 9) for factor in factors} == {1.0, 4.0}


def test_settings_reach_the_choice() -> None:
    rope = replace(get_rope(config_of("llama")), inv_freq=LLAMA2, original_length=4096, target_length=4096)
    assert DPRoPE(factor=2, num_interpolated_dims=80).choose(rope).choice.count("linear") == 40
    assert DPRoPE(factor=2, rule="monotone").choose(rope).choice.count("keep") == 30
    several = DPRoPE(factor=2, candidates=("keep", "linear", "yarn", "llama3"), threshold=0).choose(rope)
    assert several.total <= DPRoPE(factor=2, threshold=0).choose(rope).total
    assert set(several.choice) - {"keep", "linear"}
    assert DPRoPE(factor=2, attention_factor=1.1).stretch(rope).attention_factor == 1.1
    assert DPRoPE(factor=2, weighting="relative", threshold=0).choose(rope).total != several.total
    assert DPRoPE(factor=2, epsilon=1e-8, threshold=0).choose(rope).total > several.total


def test_too_many_bins_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="at most an eighth, 64"):
        dprope_vector(default_inv_freq(10_000, 16), 512, 1024, bins=360)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"bins": 1}, "bins"),
        ({"epsilon": 0}, "epsilon"),
        ({"num_interpolated_dims": 7}, "even"),
        ({"num_interpolated_dims": -2}, "not negative"),
        ({"num_interpolated_dims": 8, "threshold": 0.1}, "exclude each other"),
        ({"candidates": ["keep"]}, "two or more"),
        ({"candidates": ["keep", "keep"]}, "different"),
        ({"candidates": ["keep", "clex"]}, "candidates"),
        ({"variant": "official"}, "variant"),
        ({"rule": "best"}, "rule"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, object], word: str) -> None:
    with pytest.raises(RecipeError, match=word) as caught:
        build_lever("dprope", {"factor": 2, **settings})
    assert "\n" not in str(caught.value)


def test_what_only_the_vector_knows_is_refused_there() -> None:
    own = default_inv_freq(10_000, 16)
    with pytest.raises(LeverNotApplicable, match="from 0 to 16"):
        dprope_vector(own, 64, 128, num_interpolated_dims=18)
    with pytest.raises(LeverNotApplicable, match="not above the window"):
        dprope_vector(own, 64, 64)
    with pytest.raises(LeverNotApplicable, match="vectors of 8 frequencies"):
        dprope_vector(own, 64, 128, candidates={"keep": own, "short": own[:4]})
    with pytest.raises(LeverNotApplicable, match="variant code"):
        dprope_vector(own, 64, 128, variant="code", rule="monotone")
    alone = dprope_vector(own, 64, 128, candidates={"keep": own})
    assert alone.choice == ("keep",) * 8


@pytest.mark.timing
def test_a_million_tokens_take_seconds() -> None:
    import time

    start = time.perf_counter()
    dprope_vector(default_inv_freq(5e5, 128), 131_072, 1 << 20)
    assert time.perf_counter() - start < 60
