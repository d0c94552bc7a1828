"""Numbers in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.report import Effective, units

NBSP = "\u00a0"


def plain(text: str) -> str:
    return text.replace(NBSP, " ")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "–"),
        (0.0, "0 s"),
        (0.00082, "820 µs"),
        (0.0823, "82.3 ms"),
        (0.9996, "1,000 ms"),
        (2.41, "2.41 s"),
        (98.6, "98.6 s"),
        (119.7, "2 min"),
        (161.3, "2 min 41 s"),
        (3960, "1 h 6 min"),
    ],
)
def test_seconds(seconds: float | None, words: str) -> None:
    assert plain(units.seconds(seconds)) == words


@pytest.mark.parametrize(
    ("size", "words"),
    [(None, "–"), (0, "0 B"), (512, "512 B"), (1 << 20, "1.00 MiB"), (412 << 20, "412 MiB"), (1300 << 20, "1.27 GiB")],
)
def test_size(size: int | None, words: str) -> None:
    assert plain(units.size(size)) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "–"), (0.974, "×0.97"), (8.814, "×8.81"), (9.96, "×10.0"), (12.44, "×12.4"), (137, "×137")],
)
def test_ratio(value: float | None, words: str) -> None:
    assert units.ratio(value) == words


@pytest.mark.parametrize(
    ("value", "words"), [(256, "256"), (1000, "1,000"), (1024, "1k"), (1536, "1.5k"), (4096, "4k"), (131072, "128k")]
)
def test_length(value: int, words: str) -> None:
    assert units.length(value) == words


def test_effective_length_shows_its_censoring() -> None:
    assert units.effective(4096, "right", 256) == ">4,096"
    assert units.effective(0, "left", 256) == "<256"
    assert units.effective(541.4, "none", 256) == "541"
    assert units.effective(None, "none", 256) == "–"


def test_interval_ends_beyond_the_lengths_tested_say_so() -> None:
    assert units.effective_interval(452.2, 530.0, 256, 4096) == "452–530"
    assert units.effective_interval(3800, 4096, 256, 4096) == "3,800 to >4,096"
    assert units.effective_interval(0, 300, 256, 4096) == "<256 to 300"
    assert units.effective_interval(0, 0, 256, 4096) == "<256"
    assert units.effective_interval(None, 4096, 256, 4096) == ""


def test_tested_range_comes_from_the_samples_else_from_the_run() -> None:
    known = Effective(value=300, threshold=0.75, n_per_length={512: 8, 256: 8})
    assert units.tested_range(known, [64, 128]) == (256, 512)
    assert units.tested_range(Effective(value=300, threshold=0.75), [64, 128]) == (64, 128)
    assert units.tested_range(Effective(value=300, threshold=0.75), []) == (None, None)


def test_samples() -> None:
    assert plain(units.samples([40, 40], "per length")) == "n = 40 per length"
    assert plain(units.samples([8, 40, 0], "per length")) == "n = 8–40 per length"
    assert plain(units.samples([], "per length")) == "n = 0"


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_significant_digits_keep_the_value(value: float) -> None:
    text = units.significant(value)
    assert float(text.replace(",", "")) == pytest.approx(value, rel=5.1e-3)
    assert "e" not in text
