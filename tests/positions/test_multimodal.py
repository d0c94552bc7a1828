"""Positions of multimodal sequences: against a plain walk over the tokens, transformers and the theory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from farspan.errors import LeverNotApplicable
from farspan.positions import HopeRotary, channel_routing, fitting_scale, mrope_positions, vision_blocks
from farspan.positions.multimodal import LAYOUTS, Axis, Layout, MultimodalInputError, draw_scales
from farspan.positions.rope import default_inv_freq
from tests.vision_models import IMAGE, KINDS, VIDEO, block, inputs_of, vision_model

TOKENS = {"spatial_merge_size": 2, "image_token_id": IMAGE, "video_token_id": VIDEO}
Grid = tuple[int, int, int]


def positions_of(
    row: list[int], images: list[Grid], videos: list[Grid], layout: Layout, scale: float | list[float] = 1.0
) -> tuple[torch.Tensor, float]:
    positions, deltas = mrope_positions(
        torch.tensor([row]), None, images, videos, **TOKENS, layout=layout, temporal_scale=scale
    )
    return positions[:, 0], float(deltas)


def walked(row: list[int], images: list[Grid], videos: list[Grid], layout: Layout, scale: float) -> list[list[float]]:
    """One token after the other, as the rules are told."""
    grids = {IMAGE: iter(images), VIDEO: iter(videos)}
    found: list[list[float]] = []
    at = 0
    while at < len(row):
        if found and layout == "mrope":
            start = max(max(token) for token in found) + 1
        else:
            start = max(token[0] for token in found) + 1 if found else 0.0
        if row[at] not in grids or layout == "vanilla":
            found.append([start] * 3)
            at += 1
            continue
        frames, height, width = next(grids[row[at]])
        height, width = height // 2, width // 2
        for frame in range(frames):
            for y in range(height):
                for x in range(width):
                    if layout == "mrope":
                        found.append([start + int(scale * frame), start + y, start + x])
                    else:
                        time = start + scale * frame
                        found.append([time, time + y - (height - 1) // 2, time + x - (width - 1) // 2])
                    at += 1
    return found


sizes = st.sampled_from([2, 4, 6, 10])
grids = st.tuples(st.integers(1, 5), sizes, sizes)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.integers(1, 4), st.tuples(st.just(IMAGE), sizes, sizes), grids), min_size=1, max_size=6),
    st.sampled_from(LAYOUTS),
    st.sampled_from([0.5, 0.75, 1.0, 1.25, 1.5, 2.0]),
)
def test_positions_are_those_of_a_walk_over_the_tokens(
    parts: list[int | tuple[int, int, int]], layout: Layout, scale: float
) -> None:
    row: list[int] = [1]
    images: list[Grid] = []
    videos: list[Grid] = []
    for part in parts:
        if isinstance(part, int):
            row += [2] * part
        elif part[0] == IMAGE:
            images.append((1, part[1], part[2]))
            row += block(IMAGE, images[-1])
        else:
            videos.append(part)
            row += block(VIDEO, part)
    positions, delta = positions_of(row, images, videos, layout, scale)
    expected = walked(row, images, videos, layout, scale)
    torch.testing.assert_close(positions, torch.tensor(expected).T, rtol=0, atol=1e-5)
    last = max(max(token) if layout == "mrope" else token[0] for token in expected)
    assert delta == pytest.approx(last + 1 - len(row))


@pytest.mark.parametrize("layout", ["hope", "videorope", "vanilla"])
def test_a_video_of_single_tokens_is_text(layout: Layout) -> None:
    positions, delta = positions_of([1, *block(VIDEO, (4, 2, 2)), 2], [], [(4, 2, 2)], layout)
    assert torch.equal(positions, torch.arange(8.0).expand(3, -1))
    assert delta == 0


def test_half_strides_are_kept_and_text_follows_time() -> None:
    # 10 rows stand above and below the diagonal: the largest coordinate is not where text goes on.
    positions, delta = positions_of([*block(VIDEO, (3, 2, 20)), 5], [], [(3, 2, 20)], "hope", 0.5)
    assert positions[0, [1, 11, 21]].tolist() == [1.0, 1.5, 2.0]
    assert positions[2, :11].tolist() == [0, *[float(x) for x in range(-3, 7)]]
    assert positions[:, -1].tolist() == [4.0] * 3
    assert delta == 5.0 - 33
    assert positions.dtype == torch.float32


def test_mrope_is_that_of_transformers_where_the_square_outlasts_the_video() -> None:
    for kind in KINDS:
        model = vision_model(kind)
        row = [1, 2, *block(IMAGE, (1, 4, 6)), 3, *block(VIDEO, (2, 8, 8)), 4, 5]
        inputs = inputs_of([row, row[2:]], [(1, 4, 6)] * 2, [(2, 8, 8)] * 2)
        names = ("image_grid_thw", "video_grid_thw", "attention_mask")
        stock, deltas = model.model.get_rope_index(
            inputs["input_ids"], inputs["mm_token_type_ids"], **{name: inputs[name] for name in names}
        )
        rate = getattr(model.config.vision_config, "tokens_per_second", 1)
        ours, our_deltas = mrope_positions(
            inputs["input_ids"],
            inputs["attention_mask"],
            inputs["image_grid_thw"],
            inputs["video_grid_thw"],
            **TOKENS,
            layout="mrope",
            temporal_scale=[1.0, float(rate)] * 2,
        )
        real = inputs["attention_mask"].bool()
        assert torch.equal(ours[:, real], stock[:, real].float())
        # transformers counts without padding.
        padding = len(real[0]) - real.sum(-1, keepdim=True)
        assert torch.equal(our_deltas + padding, deltas.float())


def test_mrope_goes_on_after_the_whole_video() -> None:
    positions, delta = positions_of([1, 2, *block(VIDEO, (3, 4, 4)), 5, 6], [], [(3, 4, 4)], "mrope")
    assert positions[:, -1].tolist() == [8.0] * 3
    assert delta == -9


def test_padding_keeps_one_and_rows_do_not_know_each_other() -> None:
    long, short = [1, 2, 3, *block(VIDEO, (3, 4, 4)), 4], [*block(VIDEO, (2, 4, 2)), 4, 5]
    inputs = inputs_of([long, short], [], [(3, 4, 4), (2, 4, 2)])
    both, deltas = mrope_positions(
        inputs["input_ids"], inputs["attention_mask"], None, inputs["video_grid_thw"], **TOKENS, temporal_scale=0.75
    )
    for row, ids, grid in ((0, long, (3, 4, 4)), (1, short, (2, 4, 2))):
        alone, delta = positions_of(ids, [], [grid], "hope", 0.75)
        assert torch.equal(both[:, row, -len(ids) :], alone)
        assert bool((both[:, row, : -len(ids)] == 1).all())
        assert float(deltas[row]) == delta + len(ids) - len(long)


def test_adjacent_videos_are_told_apart_and_may_have_strides_of_their_own() -> None:
    row = [1, *[VIDEO] * (2 + 3), 2]
    positions, _ = positions_of(row, [], [(2, 2, 2), (3, 2, 2)], "hope", [0.5, 2.0])
    assert positions[0].tolist() == [0, 1, 1.5, 2.5, 4.5, 6.5, 7.5]
    blocks = vision_blocks(torch.tensor([row]), None, None, [(2, 2, 2), (3, 2, 2)], **TOKENS)
    assert [(block.start, block.length, block.video) for block in blocks] == [(1, 2, True), (3, 3, True)]


def test_three_thousand_frames_are_placed_exactly() -> None:
    grid = (3001, 18, 32)
    positions, delta = positions_of([1, *block(VIDEO, grid), 2], [], [grid], "hope", 0.75)
    assert positions.shape == (3, 3001 * 144 + 4)
    assert positions[0, 2::144].tolist()[:3001] == [2 + 0.75 * frame for frame in range(3001)]
    assert delta == 2 + 0.75 * 3000 + 1 + 2 - positions.shape[1]


@pytest.mark.parametrize(
    ("row", "videos", "scale", "line"),
    [
        ([1, *[VIDEO] * 3], [(2, 4, 4)], 1.0, "3 consecutive video tokens where the grid"),
        ([1, *[VIDEO] * 8, VIDEO], [(2, 4, 4)], 1.0, "holds more video tokens"),
        ([1, 2], [(2, 4, 4)], 1.0, "the tokens hold 0"),
        ([1, VIDEO], [(1, 2, 2)], 0.0, "must be above 0"),
        ([1, VIDEO], [(1, 2, 2)], [-1.0], "must be above 0"),
        ([1, VIDEO], [(1, 2, 2)], [1.0, 1.0], "2 temporal scales are given for 1"),
    ],
)
def test_what_does_not_fit_is_one_line(
    row: list[int], videos: list[Grid], scale: float | list[float], line: str
) -> None:
    with pytest.raises((MultimodalInputError, LeverNotApplicable), match=line) as caught:
        positions_of(row, [], videos, "hope", scale)
    assert "\n" not in str(caught.value)


def test_masks_and_layouts_that_are_not_known_are_refused() -> None:
    ids = torch.tensor([[1, 2]])
    with pytest.raises(MultimodalInputError, match="the attention mask is"):
        mrope_positions(ids, torch.ones(1, 3), **TOKENS)
    with pytest.raises(LeverNotApplicable, match="choose one of: hope"):
        mrope_positions(ids, **TOKENS, layout="spiral")  # type: ignore[arg-type]
    with pytest.raises(LeverNotApplicable, match="choose one of: hope"):
        channel_routing("spiral", [2, 3, 3], 16)  # type: ignore[arg-type]
    for sections in ([2, 3], [2, 3, 4], [9, 0, -1]):
        with pytest.raises(LeverNotApplicable, match="do not fit a head of 16 channels"):
            channel_routing("hope", sections, 16)


def test_routing_interleaves_space_and_leaves_the_slowest_to_rest_or_time() -> None:
    assert "".join(axis[0] for axis in channel_routing("hope", [3, 2, 3], 16)[:8]) == "hwhwhnnn"
    assert channel_routing("videorope", [2, 3, 3], 16)[6:8] == ["t", "t"]
    assert channel_routing("vanilla", [2, 3, 3], 16) == ["t"] * 16


def similarity(layout: Layout, sections: list[int], distances: torch.Tensor, head_dim: int = 128) -> torch.Tensor:
    """Expected preference for a like key: the sum of cosines over all pairs, for distances [3, count]."""
    axes: list[Axis] = channel_routing(layout, sections, head_dim)[: head_dim // 2]
    rotary = HopeRotary(default_inv_freq(1e6, head_dim).float(), axes, nn.Identity())
    cos, _ = rotary(torch.zeros(1), distances[:, None])
    return cos[0, :, : head_dim // 2].sum(-1)


def test_pairs_at_rest_never_prefer_an_unlike_key() -> None:
    generator = torch.Generator().manual_seed(0)
    distances = torch.rand(3, 10_000, generator=generator) * torch.tensor([[6e5], [100.0], [100.0]])
    distances[1:] += distances[0]
    resting, turning = (similarity(layout, [16, 24, 24], distances) for layout in ("hope", "videorope"))
    assert bool((resting >= turning - 1e-4).all())
    assert float((resting - turning).max()) > 1
    assert float(turning.min()) < float(resting.min())
    # With half of the pairs at rest the sum of the others cannot outweigh them.
    assert float(similarity("hope", [32, 16, 16], distances).min()) >= 0


def test_scales_are_drawn_from_the_set_and_fitted_to_what_was_trained() -> None:
    scales = (0.5, 0.75, 1.0, 1.25, 1.5)
    draw = draw_scales(2000, scales, torch.Generator().manual_seed(3))
    assert draw == draw_scales(2000, scales, torch.Generator().manual_seed(3))
    assert {scale: draw.count(scale) > 300 for scale in scales} == dict.fromkeys(scales, True)
    assert fitting_scale(2, 127, scales) == 1.5
    assert fitting_scale(128, 127, scales) == 1.0
    assert fitting_scale(3000, 127, scales) == 0.5
    assert fitting_scale(1, 127, scales) == 1.5
