"""Frames: the same from the same seed, plates that can be read back, haystacks that hold none, files of frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from farspan.evals.tasks.video_frames import (
    COLOURS,
    SCENE,
    FrameError,
    Plate,
    haystack,
    haystack_frame,
    plate_frame,
    read_plate,
)

SIZES = [(20, 20), (28, 28), (28, 56), (56, 84), (252, 448)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_plates_are_read_back_from_their_pixels(height: int, width: int) -> None:
    for place, colour in enumerate(COLOURS):
        for number in (10 + place, 47 + place, 99 - place):
            plate = Plate(colour=colour, number=number)
            frame = plate_frame(plate, place, height, width)
            assert frame.shape == (height, width, 3)
            assert frame.dtype == np.uint8
            assert read_plate(frame) == plate


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_haystack_holds_no_plate_and_changes(height: int, width: int) -> None:
    frames = [haystack_frame(3, index, height, width) for index in range(0, 4 * SCENE, 7)]
    assert all(read_plate(frame) is None for frame in frames)
    assert len({frame.tobytes() for frame in frames}) > len(frames) // 2
    assert len({tuple(frame[height // 2, width // 2]) for frame in frames}) > 3


def test_equal_seeds_draw_equal_frames_in_any_order() -> None:
    forwards = [haystack_frame(5, index, 28, 28) for index in range(70)]
    backwards = [haystack_frame(5, index, 28, 28) for index in reversed(range(70))][::-1]
    assert all(np.array_equal(one, other) for one, other in zip(forwards, backwards, strict=True))
    assert not np.array_equal(forwards[0], haystack_frame(6, 0, 28, 28))
    plate = Plate(colour="red", number=12)
    assert np.array_equal(plate_frame(plate, 1, 28, 28), plate_frame(plate, 1, 28, 28))


def test_files_of_frames_are_haystacks(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 255, (5, 28, 56, 3), dtype=np.uint8)
    path = tmp_path / "frames.npy"
    np.save(path, stored)
    draw = haystack(str(path), 0, 28, 56)
    assert np.array_equal(draw(4), stored[4])
    with pytest.raises(FrameError, match="has 5 frames, frame 6 is asked for"):
        draw(5)
    with pytest.raises(FrameError, match=r"frames must be uint8 \[frames, 28, 28, 3\]"):
        haystack(str(path), 0, 28, 28)
    with pytest.raises(FrameError, match="cannot read frames"):
        haystack(str(tmp_path / "none.npy"), 0, 28, 28)
    (tmp_path / "text.npy").write_text("no frames")
    with pytest.raises(FrameError, match="cannot read frames"):
        haystack(str(tmp_path / "text.npy"), 0, 28, 28)


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(FrameError, match="use at least 20 x 20"):
        plate_frame(Plate(colour="red", number=12), 0, 16, 28)
    with pytest.raises(FrameError, match="no plate is 'mauve'"):
        plate_frame(Plate(colour="mauve", number=12), 0, 28, 28)
