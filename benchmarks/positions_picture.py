"""The picture of `positions.py`: what text costs along its positions, and scores beyond the window by factor; above as
the model is, below after the fine-tune.

Drawn as plain SVG, so that the documentation shows it without a script. Methods differ in colour, shape and dash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from attention_picture import GRID, INK, MUTED

WIDTH, HEIGHT = 1040, 830
PANEL, PLOT, LEFT, TOP, DOWN, ACROSS = 350, 290, 70, 60, 400, 440
HUES = ("#0a5dc2", "#b3541e", "#0b8457", "#8e4ec6", "#c2185b", "#a07d00", "#3d4550", "#3aa0d8")
SHAPES = ("circle", "square", "triangle", "diamond")
MOST_NATS = 2.0
Point = tuple[float, float]
Style = tuple[str, str, str]
Cells = Mapping[str, Mapping[str, object]]


def picture(cells: Cells) -> str:
    """The SVG of a record's cells; a panel whose cells are missing stays empty."""
    sides = [cell for cell in cells.values() if "method" in cell and "failed" not in cell]
    names = list(dict.fromkeys(str(cell["method"]) for cell in sides))
    styles: dict[str, Style] = {
        name: (
            HUES[index % len(HUES)],
            SHAPES[(index + index // len(HUES)) % len(SHAPES)],
            "" if index < len(HUES) else "5 3",
        )
        for index, name in enumerate(names)
    }
    factors = sorted({int(str(cell["factor"])) for cell in sides})
    shown = 4 if 4 in factors else max(factors, default=2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12">',
        "<title>Methods of stretching positions: loss by position, and scores by factor</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for row, trained in enumerate((False, True)):
        how = "after the fine-tune" if trained else "as it is"
        mine = [cell for cell in sides if cell["trained"] is trained]
        top = TOP + row * DOWN
        losses = {
            str(cell["method"]): excess(cell, cells.get(f"windows x{shown}", {}))
            for cell in mine
            if cell["factor"] == shown
        }
        left = Panel(LEFT, top, (6.0, math.log2(512 * shown)), (-0.5, MOST_NATS))
        parts += left.frame(
            f"Loss above reading in windows at {shown}x, {how}",
            "position, tokens; nats a token; dashed: the window",
            range(6, 10 + math.ceil(math.log2(shown))),
            lambda x: f"{2**x:.0f}",
        )
        parts.append(left.upright(9.0))
        right = Panel(LEFT + ACROSS, top, (0.8, math.log2(max([*factors, 4])) + 0.2), (0.0, 1.0))
        parts += right.frame(
            f"Score beyond the window, {how}",
            "target length over the window",
            [math.log2(factor) for factor in factors],
            lambda x: f"{2**x:.0f}x",
        )
        for name in names:
            parts += left.line(losses.get(name, []), styles[name])
            scores = [
                (math.log2(int(str(cell["factor"]))), number(cell["score"])) for cell in mine if cell["method"] == name
            ]
            parts += right.line(scores, styles[name])
    return "\n".join([*parts, *legend(styles), "</svg>"]) + "\n"


def excess(cell: Mapping[str, object], windows: Mapping[str, object]) -> list[Point]:
    """Loss over that of reading in windows, by the logarithm of the position."""
    mine, other = cell.get("loss_by_position"), windows.get("loss_by_position")
    if not isinstance(mine, dict) or not isinstance(other, dict):
        return []
    found = []
    for span, value in mine.items():
        start, end = map(int, span.split("-"))
        if span in other and start >= 64:
            found.append((math.log2((start + end) / 2), number(value) - number(other[span])))
    return found


def number(value: object) -> float:
    """A number of the record."""
    assert isinstance(value, (int, float))
    return float(value)


class Panel:
    """One plot: where it stands, and how values become places."""

    def __init__(self, left: int, top: int, xs: Point, ys: Point) -> None:
        self.left, self.top, self.xs, self.ys = left, top, xs, ys

    def place(self, point: Point) -> Point:
        """Pixels of a point; what is too high or too low stands at the edge."""
        x = (point[0] - self.xs[0]) / (self.xs[1] - self.xs[0])
        y = (min(max(point[1], self.ys[0]), self.ys[1]) - self.ys[0]) / (self.ys[1] - self.ys[0])
        return self.left + x * PANEL, self.top + PLOT * (1 - y)

    def frame(self, title: str, below: str, ticks: Sequence[float], across: Callable[[float], str]) -> list[str]:
        """Grid, axes, labels."""
        parts = [f'<text x="{self.left}" y="{self.top - 16}" fill="{INK}" font-weight="600">{escape(title)}</text>']
        for step in range(6):
            value = self.ys[0] + (self.ys[1] - self.ys[0]) * step / 5
            _, y = self.place((self.xs[0], value))
            parts.append(f'<path d="M{self.left} {y:.1f}h{PANEL}" stroke="{GRID}"/>')
            parts.append(
                f'<text x="{self.left - 8}" y="{y + 4:.1f}" fill="{MUTED}" text-anchor="end">{value:.1f}</text>'
            )
        for value in ticks:
            if self.xs[0] <= value <= self.xs[1]:
                x, _ = self.place((value, self.ys[0]))
                parts.append(
                    f'<text x="{x:.1f}" y="{self.top + PLOT + 18}" fill="{MUTED}" text-anchor="middle">'
                    f"{across(value)}</text>"
                )
        parts.append(
            f'<text x="{self.left + PANEL / 2}" y="{self.top + PLOT + 36}" fill="{MUTED}" text-anchor="middle">'
            f"{escape(below)}</text>"
        )
        return parts

    def upright(self, at: float) -> str:
        """A dashed line from top to bottom."""
        x, _ = self.place((at, self.ys[0]))
        return f'<path d="M{x:.1f} {self.top}v{PLOT}" stroke="{INK}" stroke-dasharray="4 3"/>'

    def line(self, points: Sequence[Point], style: Style) -> list[str]:
        """Points of a method, joined."""
        colour, shape, dash = style
        places = [self.place(point) for point in sorted(points)]
        parts = [marker(x, y, colour, shape) for x, y in places]
        if len(places) > 1:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            dashed = f' stroke-dasharray="{dash}"' if dash else ""
            parts.insert(0, f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dashed}/>')
        return parts


def marker(x: float, y: float, colour: str, shape: str) -> str:
    """One point."""
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6" fill="{colour}"/>'
    corners = {
        "square": ((-3.2, -3.2), (3.2, -3.2), (3.2, 3.2), (-3.2, 3.2)),
        "triangle": ((0, -4), (4, 3.2), (-4, 3.2)),
        "diamond": ((0, -4.4), (4.4, 0), (0, 4.4), (-4.4, 0)),
    }[shape]
    path = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{path}" fill="{colour}"/>'


def legend(styles: Mapping[str, Style]) -> list[str]:
    """Names beside the panels."""
    parts, x = [], LEFT + ACROSS + PANEL + 24
    for index, (name, (colour, shape, dash)) in enumerate(styles.items()):
        y = TOP + 8 + 22 * index
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(f'<path d="M{x} {y}h26" stroke="{colour}" stroke-width="1.5"{dashed}/>')
        parts.append(marker(x + 13, y, colour, shape))
        parts.append(f'<text x="{x + 34}" y="{y + 4}" fill="{INK}">{escape(name)}</text>')
    return parts
