"""Positions of text, images and videos in one sequence, as pure functions: where tokens stand, which pair reads it.

A vision-language model with multimodal rotary positions gives each token three coordinates (time, height, width) and
each rotary pair one of them. Four layouts are built here; installing one in a model is a lever's business.

Source: arXiv 2505.20444 (`hope`), 2502.05173 (`videorope`), 2409.12191 (`mrope`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from farspan.errors import FarspanError, LeverNotApplicable

Layout = Literal["hope", "videorope", "mrope", "vanilla"]
Axis = Literal["t", "h", "w", "nope"]
AXES: tuple[Axis, ...] = ("t", "h", "w")
LAYOUTS: tuple[Layout, ...] = ("hope", "videorope", "mrope", "vanilla")

PADDING_POSITION = 1.0
TEXT, IMAGE, VIDEO = 0, 1, 2


class MultimodalInputError(FarspanError):
    """Vision tokens of a sequence that do not fit the grids given with it."""


@dataclass(frozen=True)
class VisionBlock:
    """One image or video inside a row: `length` = frames x rows x columns tokens, counted after spatial merging.

    `start` counts the row's real tokens, padding left out.
    """

    row: int
    start: int
    frames: int
    rows: int
    columns: int
    video: bool

    @property
    def length(self) -> int:
        """Tokens of the block."""
        return self.frames * self.rows * self.columns


def channel_routing(layout: Layout, mrope_section: Sequence[int], head_dim: int) -> list[Axis]:
    """The coordinate each channel of a head turns by; `nope` for a channel at rest.

    Parameters
    ----------
    layout : `mrope` gives consecutive pairs to time, height and width; `hope` and `videorope` interleave height and
        width over the fast pairs and leave the slow ones still, or to time; `vanilla` has one coordinate
    mrope_section : pairs of time, height and width
    head_dim : channels of a head; channels i and i + head_dim / 2 are a pair

    Returns
    -------
    One axis a channel, `head_dim` of them.

    Raises
    ------
    LeverNotApplicable : the sections do not add up to the pairs of a head.

    Source: arXiv 2505.20444, section 4.1.
    """
    pairs = _pair_axes(layout, mrope_section, head_dim)
    return pairs + pairs


def _pair_axes(layout: Layout, mrope_section: Sequence[int], head_dim: int) -> list[Axis]:
    if layout not in LAYOUTS:
        raise LeverNotApplicable(f"layout '{layout}' is not known; choose one of: {', '.join(LAYOUTS)}")
    if len(mrope_section) != 3 or min(mrope_section) < 0 or 2 * sum(mrope_section) != head_dim:
        raise LeverNotApplicable(
            f"sections {list(mrope_section)} do not fit a head of {head_dim} channels; "
            f"give pairs of time, height and width that add up to {head_dim // 2}"
        )
    counts = list(mrope_section)
    pairs: list[Axis] = []
    if layout == "vanilla":
        pairs += ["t"] * (head_dim // 2)
    elif layout == "mrope":
        for axis, count in zip(AXES, counts, strict=True):
            pairs += [axis] * count
    else:
        pairs += ["h" if pair % 2 == 0 else "w" for pair in range(counts[1] + counts[2])]
        pairs += ["nope" if layout == "hope" else "t"] * counts[0]
    return pairs


def vision_blocks(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    image_grid_thw: torch.Tensor | Sequence[Sequence[int]] | None = None,
    video_grid_thw: torch.Tensor | Sequence[Sequence[int]] | None = None,
    *,
    spatial_merge_size: int,
    image_token_id: int,
    video_token_id: int,
) -> list[VisionBlock]:
    """The images and videos of a batch, row by row and from left to right.

    Parameters
    ----------
    input_ids : Tensor [batch, length]
    attention_mask : Tensor [batch, length], 0 at padding; None where there is none
    image_grid_thw, video_grid_thw : [blocks, 3], patches in time, height and width before spatial merging, in order
    spatial_merge_size : patches that are merged into one token along height and along width

    Raises
    ------
    MultimodalInputError : vision tokens and grids do not match.
    """
    grids = {IMAGE: _grids(image_grid_thw), VIDEO: _grids(video_grid_thw)}
    used = {IMAGE: 0, VIDEO: 0}
    blocks = []
    for row, ids in enumerate(_real_tokens(input_ids, attention_mask)):
        kinds = torch.zeros_like(ids, dtype=torch.int8)
        kinds[ids == image_token_id] = IMAGE
        kinds[ids == video_token_id] = VIDEO
        values, lengths = torch.unique_consecutive(kinds, return_counts=True)
        at = 0
        for kind, length in zip(values.tolist(), lengths.tolist(), strict=True):
            end = at + length
            while kind != TEXT and at < end:
                if used[kind] == len(grids[kind]):
                    raise MultimodalInputError(_mismatch(kind, row, len(grids[kind])))
                frames, height, width = grids[kind][used[kind]]
                used[kind] += 1
                block = VisionBlock(
                    row, at, frames, height // spatial_merge_size, width // spatial_merge_size, kind == VIDEO
                )
                if block.length < 1 or at + block.length > end:
                    raise MultimodalInputError(
                        f"row {row} has {end - at} consecutive {_kind_name(kind)} tokens where the grid "
                        f"{[frames, height, width]} needs {block.length}; give each its own tokens and grid"
                    )
                blocks.append(block)
                at += block.length
            at = end
    for kind, count in used.items():
        if count != len(grids[kind]):
            raise MultimodalInputError(
                f"{len(grids[kind])} {_kind_name(kind)} grids are given, the tokens hold {count}; give one grid each"
            )
    return blocks


def mrope_positions(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    image_grid_thw: torch.Tensor | Sequence[Sequence[int]] | None = None,
    video_grid_thw: torch.Tensor | Sequence[Sequence[int]] | None = None,
    *,
    spatial_merge_size: int,
    image_token_id: int,
    video_token_id: int,
    layout: Layout = "hope",
    temporal_scale: float | Sequence[float] = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates of every token, and how far decoding is ahead of the number of tokens.

    Text moves along the diagonal. In `hope` and `videorope` a video goes on along it, frame f standing `scale * f`
    behind the first one with its middle on the diagonal, and text follows one after the last frame. In `mrope` frames
    are squares that all begin where the video does, and text follows one after the largest coordinate.

    Parameters
    ----------
    input_ids, attention_mask, grids, token ids : see `vision_blocks`
    layout : see `channel_routing`
    temporal_scale : distance of two frames, one for all or one a block in the order of `vision_blocks`

    Returns
    -------
    (positions float32 [3, batch, length] with 1 at padding; deltas float32 [batch, 1], next position minus `length`)

    Raises
    ------
    MultimodalInputError : vision tokens and grids do not match.
    LeverNotApplicable : an unknown layout, a scale that is not positive, or scales that are not one a block.

    Source: arXiv 2505.20444, sections 4.1 and 4.2.
    """
    if layout not in LAYOUTS:
        raise LeverNotApplicable(f"layout '{layout}' is not known; choose one of: {', '.join(LAYOUTS)}")
    blocks = vision_blocks(
        input_ids,
        attention_mask,
        image_grid_thw,
        video_grid_thw,
        spatial_merge_size=spatial_merge_size,
        image_token_id=image_token_id,
        video_token_id=video_token_id,
    )
    scales = _scales(temporal_scale, len(blocks))
    batch, length = input_ids.shape
    device = input_ids.device
    positions = torch.full((3, batch, length), PADDING_POSITION, dtype=torch.float32, device=device)
    deltas = torch.zeros(batch, 1, dtype=torch.float32, device=device)
    for row, ids in enumerate(_real_tokens(input_ids, attention_mask)):
        mine = [(block, scale) for block, scale in zip(blocks, scales, strict=True) if block.row == row]
        found, following = _row_positions(len(ids), [] if layout == "vanilla" else mine, layout, device)
        if attention_mask is None:
            positions[:, row] = found
        else:
            positions[:, row, attention_mask[row].bool()] = found
        deltas[row] = following - length
    return positions, deltas


def draw_scales(count: int, scales: Sequence[float], generator: torch.Generator) -> list[float]:
    """One of the given temporal scales for each of `count` blocks, all equally likely."""
    drawn = torch.randint(len(scales), (count,), generator=generator, device=generator.device)
    return [float(scales[index]) for index in drawn.tolist()]


def fitting_scale(frames: int, trained_index: float, scales: Sequence[float]) -> float:
    """The largest stride at which a video stays within the temporal index seen in training, kept within `scales`.

    Parameters
    ----------
    frames : of the video
    trained_index : largest distance of first and last frame in training, strides included
    scales : strides used in training
    """
    wanted = trained_index / max(1, frames - 1)
    return min(max(wanted, min(scales)), max(scales))


def _row_positions(
    length: int, blocks: list[tuple[VisionBlock, float]], layout: Layout, device: torch.device
) -> tuple[torch.Tensor, float]:
    """Coordinates [3, length] of one row without padding, and the position that follows."""
    parts = []
    at, position = 0, 0.0
    for block, scale in blocks:
        parts.append(_text(block.start - at, position, device))
        position += block.start - at
        coordinates, position = _square(block, scale, position, layout, device)
        parts.append(coordinates)
        at = block.start + block.length
    parts.append(_text(length - at, position, device))
    return torch.cat(parts, dim=1), position + length - at


def _text(length: int, start: float, device: torch.device) -> torch.Tensor:
    return (torch.arange(length, dtype=torch.float32, device=device) + start).expand(3, -1)


def _square(
    block: VisionBlock, scale: float, start: float, layout: Layout, device: torch.device
) -> tuple[torch.Tensor, float]:
    """Coordinates [3, block.length] of one image or video, and the position that follows it."""
    frame, row, column = (
        torch.arange(size, dtype=torch.float32, device=device) for size in (block.frames, block.rows, block.columns)
    )
    time = frame * scale
    if layout == "mrope":
        # Models with these positions were trained on whole indices.
        time = time.trunc()
        origin = torch.full_like(time, start)
        following = start + 1 + max(float(time[-1]), block.rows - 1, block.columns - 1)
    else:
        origin = start + time
        row = row - (block.rows - 1) // 2
        column = column - (block.columns - 1) // 2
        following = start + scale * (block.frames - 1) + 1
    shape = (block.frames, block.rows, block.columns)
    coordinates = (
        (start + time)[:, None, None].expand(shape),
        (origin[:, None, None] + row[:, None]).expand(shape),
        (origin[:, None, None] + column).expand(shape),
    )
    return torch.stack([axis.reshape(-1) for axis in coordinates]), following


def _real_tokens(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> list[torch.Tensor]:
    if attention_mask is None:
        return list(input_ids)
    if attention_mask.shape != input_ids.shape:
        raise MultimodalInputError(
            f"the attention mask is {list(attention_mask.shape)}, the tokens are {list(input_ids.shape)}; both are "
            "[batch, length]"
        )
    return [ids[mask.bool()] for ids, mask in zip(input_ids, attention_mask, strict=True)]


def _grids(grids: torch.Tensor | Sequence[Sequence[int]] | None) -> list[tuple[int, int, int]]:
    if grids is None:
        return []
    rows = grids.tolist() if isinstance(grids, torch.Tensor) else grids
    return [(int(frames), int(height), int(width)) for frames, height, width in rows]


def _scales(given: float | Sequence[float], count: int) -> list[float]:
    scales = [float(given)] * count if isinstance(given, int | float) else [float(scale) for scale in given]
    if isinstance(given, int | float) and not given > 0:
        scales = [float(given)]
    wrong = next((scale for scale in scales if not 0 < scale < float("inf")), None)
    if wrong is not None:
        raise LeverNotApplicable(f"temporal scale {wrong} is given; it must be above 0, such as 0.75 or 1.5")
    if len(scales) != count:
        raise LeverNotApplicable(
            f"{len(scales)} temporal scales are given for {count} images and videos; give one number, or one a block"
        )
    return scales


def _kind_name(kind: int) -> str:
    return "video" if kind == VIDEO else "image"


def _mismatch(kind: int, row: int, count: int) -> str:
    name = _kind_name(kind)
    return f"row {row} holds more {name} tokens than its {name} grids ({count} in the batch) cover; give one grid each"
