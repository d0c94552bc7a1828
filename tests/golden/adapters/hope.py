"""Positions of multimodal sequences, the coordinate of each channel, and the rotation by both."""

from __future__ import annotations

from typing import Any

from tests.golden.compare import assert_close

# The reference values are float32.
FLOAT32 = 1e-5


def mrope_positions(case: dict[str, Any]) -> None:
    import torch

    from farspan.positions import mrope_positions as positions_of

    given, expected = case["input"], case["expected"]
    mask = given.get("attention_mask")
    positions, deltas = positions_of(
        torch.tensor(given["input_ids"]),
        None if mask is None else torch.tensor(mask),
        given.get("image_grid_thw") or None,
        given.get("video_grid_thw") or None,
        spatial_merge_size=given["spatial_merge_size"],
        image_token_id=given["image_token_id"],
        video_token_id=given["video_token_id"],
        layout=given["layout"],
        temporal_scale=given.get("temporal_scale", 1.0),
    )
    found = {"position_ids": positions, "rope_deltas": deltas.flatten()}
    # Layouts without strides are whole numbers in the reference.
    assert_close(_floats({key: value.tolist() for key, value in found.items()}), _floats(_values(expected)), FLOAT32)


def channel_routing(case: dict[str, Any]) -> None:
    from farspan.positions import channel_routing as routing

    given = case["input"]
    assert_close(routing(given["layout"], given["mrope_section"], given["head_dim"]), case["expected"])


def rotate(case: dict[str, Any]) -> None:
    import torch
    from torch import nn

    from farspan.positions import HopeRotary
    from farspan.positions import channel_routing as routing
    from farspan.positions.rope import default_inv_freq

    given = case["input"]
    head_dim = given["head_dim"]
    axes = routing(given["layout"], given["mrope_section"], head_dim)[: head_dim // 2]
    rotary = HopeRotary(default_inv_freq(given["rope_theta"], head_dim).float(), axes, nn.Identity())
    queries = torch.tensor(given["q"], dtype=torch.float32)
    cos, sin = rotary(queries, torch.tensor(given["position_ids"])[:, None])
    first, second = queries.chunk(2, dim=-1)
    rotated = queries * cos[0] + torch.cat((-second, first), dim=-1) * sin[0]
    assert_close(rotated, case["expected"], FLOAT32, 1e-6)


def _values(expected: dict[str, Any]) -> dict[str, Any]:
    return {key: expected[key] for key in ("position_ids", "rope_deltas")}


def _floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _floats(item) for key, item in value.items()}
    return [_floats(item) for item in value] if isinstance(value, list) else float(value)


ADAPTERS = {
    "mrope_positions": mrope_positions,
    "channel_routing": channel_routing,
    "rotate": rotate,
}
