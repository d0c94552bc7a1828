"""E2-LLM's positions in training, their angles, and scales at inference."""

from __future__ import annotations

from typing import Any

from tests.golden.compare import assert_close

FLOAT32 = 1e-6


def e2_positions(case: dict[str, Any]) -> None:
    from farspan.positions import e2_positions as compute
    from farspan.positions.e2llm import e2_max_offset

    given = case["input"]
    length, scale = given["train_length"], given["scale"]
    computed = {
        "t_max": e2_max_offset(length, given["original_max_position"], scale),
        "positions": compute(length, scale, given["offset"], given["num_sink_tokens"]),
    }
    assert_close(computed, case["expected"], rtol=FLOAT32)


def e2_angles(case: dict[str, Any]) -> None:
    import torch

    from farspan.positions.rope import default_inv_freq

    given = case["input"]
    positions = torch.tensor(given["positions"], dtype=torch.float64)
    angles = positions[:, None] * default_inv_freq(given["rope_theta"], given["head_dim"])
    assert_close(angles, case["expected"], rtol=FLOAT32)


def e2_inference_scale(case: dict[str, Any]) -> None:
    from farspan.positions import e2_inference_scale as compute

    given = case["input"]
    whole = given.get("integer", True)
    lengths = given["seq_len"] if isinstance(given["seq_len"], list) else [given["seq_len"]]
    scales = [compute(length, given["original_max_position"], given.get("g_max"), whole) for length in lengths]
    computed = [int(scale) for scale in scales] if whole else scales
    assert_close(computed if isinstance(given["seq_len"], list) else computed[0], case["expected"], rtol=FLOAT32)


ADAPTERS = {
    "e2_positions": e2_positions,
    "e2_angles": e2_angles,
    "e2_inference_scale": e2_inference_scale,
}
