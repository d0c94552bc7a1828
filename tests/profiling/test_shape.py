"""Curves recover what was planted; cliffs are found where they were published and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.profiling import detect_cliffs, fit_complexity
from farspan.profiling.shape import ShapeError

# Seconds to first token and per token of two models on one card. Source: arXiv 2507.12442, public tables.
QWEN_PREFILL = [(1024, 0.0143), (8192, 0.0909), (24576, 0.409), (32768, 1.304)]
QWEN_TOKEN = [(1024, 0.0130), (8192, 0.0124), (24576, 0.0123), (32768, 0.0415)]
MAMBA_PREFILL = [(1024, 0.0266), (8192, 0.187), (24576, 0.567), (32768, 0.757)]
MAMBA_TOKEN = [(1024, 0.0141), (8192, 0.0144), (24576, 0.0137), (32768, 0.0147)]

coefficient = st.one_of(st.just(0.0), st.floats(1e-3, 1.0))


@given(coefficient, coefficient, coefficient)
def test_planted_curves_are_recovered(constant: float, linear: float, quadratic: float) -> None:
    lengths = [256, 512, 1024, 2048, 4096, 8192]
    planted = (constant, linear / 1e3, quadratic / 1e6)
    costs = [planted[0] + planted[1] * length + planted[2] * length**2 for length in lengths]
    if min(costs) <= 0:
        return
    fitted = fit_complexity(list(zip(lengths, costs, strict=True)))
    for length, cost in zip(lengths, costs, strict=True):
        assert fitted.at(length) == pytest.approx(cost, rel=1e-5)
    for value, expected in zip(fitted, planted, strict=True):
        assert value == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_no_term_is_ever_negative() -> None:
    assert min(fit_complexity([(1, 3.0), (2, 2.0), (3, 2.5), (4, 1.0)])) >= 0


@pytest.mark.parametrize("points", [[], [(1, 1.0), (2, 1.0)], [(1, 1.0), (1, 1.1), (2, 2.0)]])
def test_too_few_lengths_are_refused(points: list[tuple[int, float]]) -> None:
    with pytest.raises(ShapeError, match="three"):
        fit_complexity(points)


def test_costs_must_be_positive() -> None:
    with pytest.raises(ShapeError, match="positive"):
        fit_complexity([(1, 1.0), (2, 0.0), (3, 2.0)])


def test_the_published_cliff_is_found_and_no_other() -> None:
    (prefill,) = detect_cliffs(QWEN_PREFILL[::-1])
    assert (prefill.start, prefill.stop) == (24576, 32768)
    assert prefill.growth == pytest.approx(3.188, abs=1e-3)
    assert prefill.expected == pytest.approx(16 / 9)
    (token,) = detect_cliffs(QWEN_TOKEN, power=1.0)
    assert (token.start, token.stop) == (24576, 32768)
    assert detect_cliffs(MAMBA_PREFILL) == []
    assert detect_cliffs(MAMBA_TOKEN, power=1.0) == []


@given(st.floats(0, 1), st.floats(0, 1), st.floats(1e-3, 1))
def test_no_polynomial_is_a_cliff(constant: float, linear: float, quadratic: float) -> None:
    lengths = [64, 100, 1000, 1500, 9000]
    assert detect_cliffs([(n, constant + linear * n + quadratic * n * n) for n in lengths]) == []
