"""Frames drawn from a seed: a haystack of coloured shapes with digits, and plates that say something.

A plate has a white edge and a number of two digits on one colour; shapes have neither edge nor number, so a plate is
recognised by its pixels alone. Each frame depends on its index and the seed only. What is asked is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from farspan.errors import FarspanError
from farspan.evals.generate.rng import derive_seed

Frame = NDArray[np.uint8]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (200, 30, 40),
    "green": (30, 130, 60),
    "blue": (30, 70, 200),
    "orange": (230, 120, 20),
    "purple": (130, 50, 160),
    "brown": (110, 70, 40),
    "black": (20, 20, 20),
    "pink": (220, 90, 150),
}
WHITE = (255, 255, 255)
SYNTHETIC = "synthetic"
SCENE = 60
"""Frames that share background and shapes; the shapes move."""

SMALLEST = 20
_DIGITS = (
    *("111101101101111", "010110010010111", "111001111100111", "111001111001111", "101101111001001"),
    *("111100111001111", "111100111101111", "111001010010010", "111101111101111", "111101111001111"),
)
_GLYPHS = np.array([[int(bit) for bit in digit] for digit in _DIGITS], dtype=bool).reshape(10, 5, 3)


class FrameError(FarspanError):
    """Frames that cannot be drawn or read."""


class Plate(BaseModel):
    """A plate: its colour, and a number from 10 to 99."""

    model_config = ConfigDict(frozen=True)

    colour: str
    number: int = Field(ge=10, le=99)


def haystack_frame(seed: int, index: int, height: int, width: int) -> Frame:
    """Frame `index` of the endless video of a seed: uint8 [height, width, 3]."""
    scene = np.random.default_rng([seed, index // SCENE])
    background = scene.integers(120, 200, 3)
    frame = np.empty((height, width, 3), dtype=np.uint8)
    frame[:] = background
    rows, columns = np.ogrid[:height, :width]
    colours = list(COLOURS.values())
    for _ in range(3):
        colour = colours[scene.integers(len(colours))]
        kind = int(scene.integers(3))
        radius = max(3, int(scene.uniform(0.1, 0.25) * min(height, width)))
        speed, start = scene.uniform(-1, 1, 2) / SCENE, scene.uniform(0, 1, 2)
        digit = int(scene.integers(10))
        y, x = (start + speed * (index % SCENE)) % 1.0 * (height, width)
        above, beside = np.abs(rows - y), np.abs(columns - x)
        if kind == 0:
            inside = above**2 + beside**2 <= radius**2
        elif kind == 1:
            inside = (above <= radius) & (beside <= radius)
        else:
            inside = above + beside <= radius
        frame[inside] = colour
        _draw_digits(frame, [digit], int(y) - radius // 2, int(x) - radius // 3, max(1, radius // 5), tuple(background))
    return frame


def plate_frame(plate: Plate, seed: int, height: int, width: int) -> Frame:
    """A haystack-like frame with a plate in its middle: uint8 [height, width, 3]."""
    _check_size(height, width)
    if plate.colour not in COLOURS:
        raise FrameError(f"no plate is '{plate.colour}'; choose one of: {', '.join(COLOURS)}")
    frame = haystack_frame(derive_seed("plate", seed), plate.number, height, width)
    top, left, bottom, right, scale = _plate_box(height, width)
    frame[top:bottom, left:right] = WHITE
    frame[top + 1 : bottom - 1, left + 1 : right - 1] = COLOURS[plate.colour]
    y, x = (top + bottom - 5 * scale) // 2, (left + right - 7 * scale) // 2
    _draw_digits(frame, [plate.number // 10, plate.number % 10], y, x, scale, WHITE)
    return frame


def read_plate(frame: Frame) -> Plate | None:
    """The plate of a frame, from its pixels; None if it has none."""
    height, width = frame.shape[:2]
    top, left, bottom, right, scale = _plate_box(height, width)
    edges = (
        frame[top, left:right],
        frame[bottom - 1, left:right],
        frame[top:bottom, left],
        frame[top:bottom, right - 1],
    )
    if not all((edge == WHITE).all() for edge in edges):
        return None
    inside = tuple(int(value) for value in frame[top + 1, left + 1])
    colour = next((name for name, value in COLOURS.items() if value == inside), None)
    y, x = (top + bottom - 5 * scale) // 2, (left + right - 7 * scale) // 2
    digits = []
    for place in range(2):
        start = x + 4 * scale * place
        cell = (frame[y : y + 5 * scale : scale, start : start + 3 * scale : scale] == WHITE).all(-1)
        digits.append(next((digit for digit in range(10) if np.array_equal(cell, _GLYPHS[digit])), None))
    if colour is None or digits[0] is None or digits[1] is None or digits[0] == 0:
        return None
    return Plate(colour=colour, number=10 * digits[0] + digits[1])


@lru_cache(maxsize=4)
def haystack(source: str, seed: int, height: int, width: int) -> Callable[[int], Frame]:
    """Frames of a haystack by index.

    Parameters
    ----------
    source : `synthetic`, or a `.npy` file of uint8 [frames, height, width, 3], which is read piece by piece
    seed : of the synthetic one
    height, width : pixels; a file must have them

    Raises
    ------
    FrameError : the file cannot be read or has another shape; a frame beyond its end is asked for.
    """
    _check_size(height, width)
    if source == SYNTHETIC:
        return lambda index: haystack_frame(seed, index, height, width)
    try:
        stored = np.load(Path(source).expanduser(), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FrameError(f"cannot read frames from {source}: {error}; give 'synthetic' or a .npy file") from error
    if stored.dtype != np.uint8 or stored.shape[1:] != (height, width, 3):
        raise FrameError(
            f"{source} holds {stored.dtype} {list(stored.shape)}; frames must be uint8 [frames, {height}, {width}, 3]"
        )

    def frame(index: int) -> Frame:
        if index >= len(stored):
            raise FrameError(f"{source} has {len(stored)} frames, frame {index + 1} is asked for; use fewer")
        return np.array(stored[index])

    return frame


def _check_size(height: int, width: int) -> None:
    if min(height, width) < SMALLEST:
        raise FrameError(f"frames of {height} x {width} pixels hold no plate; use at least {SMALLEST} x {SMALLEST}")


def _plate_box(height: int, width: int) -> tuple[int, int, int, int, int]:
    """Top, left, bottom and right of a plate, and pixels for each dot of a digit."""
    plate_height, plate_width = max(9, height // 2), max(11, 2 * width // 3)
    top, left = (height - plate_height) // 2, (width - plate_width) // 2
    scale = max(1, min((plate_height - 4) // 5, (plate_width - 4) // 7))
    return top, left, top + plate_height, left + plate_width, scale


def _draw_digits(frame: Frame, digits: list[int], top: int, left: int, scale: int, colour: tuple[int, ...]) -> None:
    """Digits of 5 x 3 dots, side by side; what lies outside the frame is cut."""
    height, width = frame.shape[:2]
    for place, digit in enumerate(digits):
        dots = np.kron(_GLYPHS[digit], np.ones((scale, scale), dtype=bool))
        y, x = max(0, top), max(0, left + 4 * scale * place)
        dots = dots[y - top :, x - left - 4 * scale * place :][: max(0, height - y), : max(0, width - x)]
        frame[y : y + dots.shape[0], x : x + dots.shape[1]][dots] = colour
