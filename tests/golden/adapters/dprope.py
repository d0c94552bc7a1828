"""The choice of interpolated pairs by distributions of rotary angles."""

from __future__ import annotations

import warnings
from typing import Any

from tests.golden.compare import assert_close

RTOL = 1e-6


def dprope_select(case: dict[str, Any]) -> None:
    given = case["input"]
    check = _released if given["variant"] == "official_code" else _paper
    with warnings.catch_warnings():
        # Small cases have more bins than is wise.
        warnings.simplefilter("ignore", UserWarning)
        check(given, case["expected"])


def _released(given: dict[str, Any], expected: dict[str, Any]) -> None:
    from farspan.positions import dprope_vector, rope_frequencies

    # The reference starts from float32 frequencies, as transformers computes them.
    inv_freq, _ = rope_frequencies(
        {"rope_type": "default", "rope_theta": given["rope_theta"]}, given["head_dim"], given["original_max_position"]
    )
    found = dprope_vector(
        inv_freq,
        given["original_max_position"],
        given["target_max_position"],
        candidates={"keep": inv_freq, "linear": inv_freq / given["scaling_factor"]},
        bins=given["intervals"],
        variant="code",
    )
    factors = [float(given["scaling_factor"]) if name == "linear" else 1.0 for name in found.choice]
    assert_close({"scaling_factors": factors, "inv_freq": found.inv_freq}, expected, rtol=RTOL)


def _paper(given: dict[str, Any], expected: dict[str, Any]) -> None:
    from farspan.positions import dprope_vector
    from farspan.positions.rope import default_inv_freq

    chosen = {"num_interpolated_dims": given["num_interpolated_dims"]}
    if given["num_interpolated_dims"] is None:
        chosen = {"threshold": given["threshold"]}
    found = dprope_vector(
        default_inv_freq(given["rope_theta"], given["head_dim"]),
        given["original_max_position"],
        given["target_max_position"],
        bins=given["intervals"],
        epsilon=given["epsilon"],
        **chosen,
    )
    computed = {
        "disturbance_extrapolation": found.disturbance["keep"],
        "disturbance_interpolation": found.disturbance["linear"],
        "interpolate": [name == "linear" for name in found.choice],
        "inv_freq": found.inv_freq,
        "total_disturbance": found.total,
    }
    # The reference is printed with eight significant digits; what is of the order of 1e-17 is 0 there.
    assert_close(computed, expected, rtol=RTOL, atol=1e-12)


ADAPTERS = {"dprope_select": dprope_select}
