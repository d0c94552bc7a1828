"""Rotary frequencies, NTK-aware bases and longrope factors."""

from __future__ import annotations

from typing import Any

from tests.golden.compare import assert_close

# The reference values are float32 and printed with nine digits.
FLOAT32 = 1e-6


def rope_frequencies(case: dict[str, Any]) -> None:
    from farspan.positions import rope_frequencies as compute

    given = case["input"]
    inv_freq, attention_factor = compute(
        given["rope_parameters"], given["head_dim"], given["max_position_embeddings"], given.get("seq_len")
    )
    expected = case["expected"]
    assert_close(inv_freq, expected["inv_freq"], rtol=FLOAT32, atol=1e-30)
    assert_close(attention_factor, expected["attention_factor"], rtol=FLOAT32)


def ntk_aware(case: dict[str, Any]) -> None:
    from farspan.positions import ntk_aware as compute

    given = case["input"]
    theta, inv_freq = compute(given["rope_theta"], given["head_dim"], given["factor"])
    assert_close({"rope_theta": theta, "inv_freq": inv_freq}, case["expected"], rtol=FLOAT32)


def to_longrope_factors(case: dict[str, Any]) -> None:
    from farspan.positions import to_longrope_factors as compute

    given = case["input"]
    zero = {"zero_factor": given["zero_factor"]} if "zero_factor" in given else {}
    factors = compute(given["inv_freq"], given["rope_theta"], given["head_dim"], **zero)
    assert_close(factors, case["expected"], rtol=FLOAT32)


ADAPTERS = {
    "rope_frequencies": rope_frequencies,
    "ntk_aware": ntk_aware,
    "to_longrope_factors": to_longrope_factors,
}
