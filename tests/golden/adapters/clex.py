"""CLEX's frequencies, training positions, scales at inference and logarithmic scale."""

from __future__ import annotations

from typing import Any

from tests.golden.compare import assert_close

# The reference integrates in float32.
FLOW = 2e-5


def clex_frequencies(case: dict[str, Any]) -> None:
    import torch

    from farspan.positions import ClexDynamics

    given = case["input"]
    flow = ClexDynamics(
        given["head_dim"],
        given["rope_theta"],
        given["param_factor"],
        given["act"],
        given.get("time_embedding_theta"),
    )
    flow.load_state_dict({name: torch.tensor(given[name]) for name in ("ode_up_proj", "ode_down_proj")})
    assert_close(flow.frequencies(given["t"], given.get("time_dt", 0.05)), case["expected"], rtol=FLOW)


def clex_train_positions(case: dict[str, Any]) -> None:
    import torch

    from farspan.positions.clex import clex_positions_of

    given = case["input"]
    sample = torch.tensor(given["sorted_sample"])
    positions = clex_positions_of(sample, given["seq_len"], given["original_max_position"], given["t"])
    assert_close(positions, case["expected"], rtol=1e-6)


def clex_inference_t(case: dict[str, Any]) -> None:
    from farspan.positions import clex_inference_t as compute

    given = case["input"]
    lengths = given["seq_len"] if isinstance(given["seq_len"], list) else [given["seq_len"]]
    scales = [int(compute(length, given["original_max_position"], given["max_factor"])) for length in lengths]
    assert_close(scales if isinstance(given["seq_len"], list) else scales[0], case["expected"])


def clex_log_scale_official(case: dict[str, Any]) -> None:
    from farspan.positions import clex_log_scale

    given = case["input"]
    # The official code also flattens attention below the window; Farspan does not, unless told to.
    factors = [clex_log_scale(length, given["original_max_position"], least=0.0) for length in given["kv_len"]]
    assert_close(factors, case["expected"], rtol=1e-6)


ADAPTERS = {
    "clex_frequencies": clex_frequencies,
    "clex_train_positions": clex_train_positions,
    "clex_inference_t": clex_inference_t,
    "clex_log_scale_official": clex_log_scale_official,
}
