"""The picture of `attention.py`: scores by the share of cells that is read, and speed by the error of the output.

Drawn as plain SVG, so that the documentation shows it without a script. Series differ in colour and in shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 980, 430
PANEL, TOP, PLOT = 370, 56, 300
INK, MUTED, GRID = "#171a1e", "#59616c", "#e8eaed"
# hues that keep their distance for colour-blind readers too; shapes repeat what they say
STYLES = (
    ("#0a5dc2", "circle"),
    ("#5aa9e6", "square"),
    ("#b3541e", "triangle"),
    ("#0b8457", "diamond"),
    ("#8e4ec6", "circle"),
    ("#c2185b", "square"),
    ("#a07d00", "triangle"),
    ("#717985", "diamond"),
    ("#3d4550", "circle"),
    ("#9aa2ad", "square"),
)
Point = tuple[float, float]


def picture(cells: Mapping[str, Mapping[str, object]]) -> str:
    """The SVG of a record's cells; a panel whose cells are missing stays empty."""
    scores, plain = _scores(cells)
    longest, speed = _speed(cells)
    names = list(dict.fromkeys([*scores, *speed]))
    style = {name: STYLES[index % len(STYLES)] for index, name in enumerate(names)}
    lowest = min([y for points in scores.values() for _, y in points] + [plain or 0.0])
    floor, ceiling = math.floor(lowest * 10) / 10, math.ceil((plain or 1.0) * 10 + 0.01) / 10
    errors = [x for points in speed.values() for x, _ in points if x > 0]
    ratios = [y for points in speed.values() for _, y in points]
    left = _Panel(
        60,
        (0.0, 1.0),
        (floor, max(ceiling, floor + 0.1)),
        "Core score beyond the native window",
        "share of cells read",
        "dense",
        plain,
    )
    low, high = (min(errors), max(errors)) if errors else (0.01, 1.0)
    right = _Panel(
        60 + PANEL + 80,
        (math.log10(low) - 0.05, math.log10(high) + 0.05),
        (0.0, max(ratios, default=1.0) * 1.08),
        f"Attention alone, {longest} tokens: times faster than dense",
        "relative error of the output (logarithmic)",
        "dense",
        1.0,
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12">',
        "<title>Attention levers: score by share of cells read, and speed by error</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *left.frame([0.0, 0.25, 0.5, 0.75, 1.0], lambda x: f"{x:.0%}", lambda y: f"{y:.2f}"),
        *right.frame(
            [math.log10(x) for x in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)],
            lambda x: f"{10**x:.3g}",
            lambda y: f"{y:.1f}",
        ),
    ]
    for name in names:
        parts += left.line(scores.get(name, []), *style[name])
        logged = [(math.log10(x), y) for x, y in speed.get(name, []) if x > 0]
        parts += right.line(logged, *style[name])
    parts += _legend(names, style)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _scores(cells: Mapping[str, Mapping[str, object]]) -> tuple[dict[str, list[Point]], float | None]:
    """Points (density, core score) by series from the sweep, and the score without a lever."""
    sweep = [(key.split(" ")[2], cell) for key, cell in cells.items() if key.startswith("scores ") and "core" in cell]
    if not sweep:
        return {}, None
    few = sweep[0][0]
    found: dict[str, list[Point]] = {}
    plain = None
    for n, cell in sweep:
        if n != few:
            continue
        if cell["series"] == "dense":
            plain = _number(cell["core"])
        else:
            found.setdefault(str(cell["series"]), []).append((_number(cell["density"]), _number(cell["core"])))
    return found, plain


def _speed(cells: Mapping[str, Mapping[str, object]]) -> tuple[str, dict[str, list[Point]]]:
    """The longest length, and points (relative error, times faster) by series there."""
    rows = [(int(key.split(" ")[1]), cell) for key, cell in cells.items() if key.startswith("attention ")]
    rows = [(length, cell) for length, cell in rows if "relative_error" in cell]
    longest = max((length for length, _ in rows), default=0)
    found: dict[str, list[Point]] = {}
    for length, cell in rows:
        if length == longest:
            point = (_number(cell["relative_error"]), _number(cell["times_faster_than_dense"]))
            found.setdefault(str(cell["series"]), []).append(point)
    return f"{longest:,}", found


def _number(value: object) -> float:
    assert isinstance(value, (int, float))
    return float(value)


class _Panel:
    """One plot: where it stands, and how values become places."""

    def __init__(
        self, left: int, xs: Point, ys: Point, title: str, below: str, guide: str, guide_at: float | None
    ) -> None:
        self.left, self.xs, self.ys = left, xs, ys
        self.title, self.below, self.guide, self.guide_at = title, below, guide, guide_at

    def place(self, point: Point) -> Point:
        """Pixels of a point."""
        x = (point[0] - self.xs[0]) / (self.xs[1] - self.xs[0])
        y = (point[1] - self.ys[0]) / (self.ys[1] - self.ys[0])
        return self.left + x * PANEL, TOP + PLOT * (1 - y)

    def frame(self, ticks: Sequence[float], across: object, up: object) -> list[str]:
        """Grid, axes, labels."""
        assert callable(across)
        assert callable(up)
        parts = [f'<text x="{self.left}" y="{TOP - 22}" fill="{INK}" font-weight="600">{escape(self.title)}</text>']
        for step in range(6):
            value = self.ys[0] + (self.ys[1] - self.ys[0]) * step / 5
            _, y = self.place((self.xs[0], value))
            parts.append(f'<path d="M{self.left} {y:.1f}h{PANEL}" stroke="{GRID}"/>')
            parts.append(
                f'<text x="{self.left - 8}" y="{y + 4:.1f}" fill="{MUTED}" text-anchor="end">{up(value)}</text>'
            )
        for value in ticks:
            if self.xs[0] <= value <= self.xs[1]:
                x, y = self.place((value, self.ys[0]))
                parts.append(
                    f'<text x="{x:.1f}" y="{y + 18:.1f}" fill="{MUTED}" text-anchor="middle">{across(value)}</text>'
                )
        middle = self.left + PANEL / 2
        parts.append(
            f'<text x="{middle}" y="{TOP + PLOT + 38}" fill="{MUTED}" text-anchor="middle">{escape(self.below)}</text>'
        )
        if self.guide_at is not None and self.ys[0] <= self.guide_at <= self.ys[1]:
            _, y = self.place((self.xs[0], self.guide_at))
            parts.append(f'<path d="M{self.left} {y:.1f}h{PANEL}" stroke="{INK}" stroke-dasharray="4 3"/>')
            parts.append(f'<text x="{self.left + 4}" y="{y - 5:.1f}" fill="{INK}">{escape(self.guide)}</text>')
        return parts

    def line(self, points: Sequence[Point], colour: str, shape: str) -> list[str]:
        """Points of a series, joined."""
        places = [self.place(point) for point in sorted(points)]
        parts = [_marker(x, y, colour, shape) for x, y in places]
        if len(places) > 1:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            parts.insert(0, f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.5" opacity="0.6"/>')
        return parts


def _marker(x: float, y: float, colour: str, shape: str) -> str:
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>'
    corners = {
        "square": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        "triangle": ((0, -5), (5, 4), (-5, 4)),
        "diamond": ((0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)),
    }[shape]
    path = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{path}" fill="{colour}"/>'


def _legend(names: Sequence[str], style: Mapping[str, tuple[str, str]]) -> list[str]:
    parts = []
    x = 60.0
    for name in names:
        parts.append(_marker(x, HEIGHT - 14, *style[name]))
        parts.append(f'<text x="{x + 9}" y="{HEIGHT - 10}" fill="{INK}">{escape(name)}</text>')
        x += 22 + 7 * len(name)
    return parts
