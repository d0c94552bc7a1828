"""Numbers as a person reads them: tokens, seconds, bytes, ratios, scores and their intervals, each with its unit.

Only wording lives here; nothing is rounded before it reaches this module and nothing that comes out is computed with.
A number that is not known reads as an en dash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from farspan.report.record import Censoring, Effective

MISSING = "\N{EN DASH}"
SPACE = "\N{NO-BREAK SPACE}"
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def count(value: float | None) -> str:
    """A whole number with thousands separators: `4,310`."""
    return MISSING if value is None else f"{value:,.0f}"


def length(value: float) -> str:
    """A length as it stands on an axis; multiples of 512 from 1,024 on are written in units of 1,024: `512`, `1.5k`."""
    if value >= 1024 and value % 512 == 0:
        return _trim(value / 1024, 1) + "k"
    return count(value)


def significant(value: float, digits: int = 3) -> str:
    """A number to so many significant digits, never in exponent form: `0.0823`, `8.81`, `412`, `12,300`."""
    if value == 0:
        return "0"
    decimals = digits - 1 - _exponent(value)
    return f"{round(value, decimals):,.{max(0, decimals)}f}"


def quantity(value: float) -> str:
    """A number of any size to three digits, `6.28`, `54,410`, `0.0753`; beyond seven places in exponent form, `∞`."""
    if math.isinf(value):
        return "\N{INFINITY}"
    return significant(value) if value == 0 or 1e-4 <= abs(value) < 1e7 else f"{value:.3g}"


def _exponent(value: float) -> int:
    return int(f"{abs(value):.2e}".split("e")[1])


def _trim(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def seconds(value: float | None) -> str:
    """A duration in the unit that suits it: `820 µs`, `82.3 ms`, `2.41 s`, `2 min 41 s`, `1 h 6 min`."""
    if value is None:
        return MISSING
    if value >= 3600:
        minutes = round(value / 60)
        return f"{minutes // 60}{SPACE}h {minutes % 60}{SPACE}min"
    if value >= 99.5:
        whole = round(value)
        return f"{whole // 60}{SPACE}min {whole % 60}{SPACE}s" if whole % 60 else f"{whole // 60}{SPACE}min"
    scale, unit = seconds_unit(value)
    return f"{significant(value / scale)}{SPACE}{unit}"


def seconds_unit(largest: float) -> tuple[float, str]:
    """The unit for durations up to `largest`: its size in seconds and its sign."""
    if largest == 0 or largest >= 1:
        return 1.0, "s"
    return (1e-3, "ms") if largest >= 1e-3 else (1e-6, "µs")


def size(value: float | None) -> str:
    """Memory in binary units: `412 MiB`, `1.21 GiB`."""
    if value is None:
        return MISSING
    scale, unit = size_unit(value)
    return f"{significant(value / scale)}{SPACE}{unit}"


def size_unit(largest: float) -> tuple[float, str]:
    """The binary unit for sizes up to `largest`: its size in bytes and its sign."""
    step = 0
    while largest >= 1000 and step < len(_BINARY) - 1:
        largest /= 1024
        step += 1
    return 1024.0**step, _BINARY[step]


def ratio(value: float | None) -> str:
    """After divided by before: `×8.81`, `×0.97`, `×12.4`, `×137`."""
    if value is None:
        return MISSING
    return f"×{value:,.0f}" if value >= 99.5 else f"×{value:.1f}" if value >= 9.95 else f"×{value:.2f}"


def percent(value: float | None, decimals: int = 0) -> str:
    """A score in [0, 1] in percent: `96 %`."""
    return MISSING if value is None else f"{value * 100:.{decimals}f}{SPACE}%"


def parameters(value: int | None) -> str:
    """A number of weights: `4.3 M`, `7.62 B`."""
    if value is None:
        return MISSING
    for scale, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{significant(value / scale)}{SPACE}{unit}"
    return count(value)


def between(lo: str, hi: str) -> str:
    """An interval from its two ends in words: `452–530`, and `3,800 to >4,096` where an end carries a sign."""
    if lo == hi:
        return lo
    return f"{lo} to {hi}" if any(end[0] in "<>" for end in (lo, hi)) else f"{lo}\N{EN DASH}{hi}"


def ratio_interval(lo: float | None, hi: float | None) -> str:
    """The interval of a ratio: `×1.55–2.31`; empty where an end is not known."""
    return "" if lo is None or hi is None else "×" + between(ratio(lo)[1:], ratio(hi)[1:])


def tick(value: float, unit: str) -> str:
    """A round number on an axis with its unit: `2.5 GiB`, `500 ms`, `0 s`."""
    return f"{_trim(value, 4)}{SPACE}{unit}"


def interval(lo: float | None, hi: float | None, word: Callable[[float], str]) -> str:
    """An interval whose ends are worded by `word`; empty where an end is not known."""
    return "" if lo is None or hi is None else between(word(lo), word(hi))


def effective(value: float | None, censoring: Censoring, shortest: int | None) -> str:
    """An effective length: `4,310`, `<256` where the shortest length already fails, `>4,096` where none does."""
    if value is None:
        return MISSING
    if censoring == "left":
        return f"<{count(shortest)}" if shortest else "0"
    return f">{count(value)}" if censoring == "right" else count(value)


def effective_interval(lo: float | None, hi: float | None, shortest: int | None, longest: int | None) -> str:
    """The interval of an effective length; ends at or beyond the lengths tested say so."""
    if lo is None or hi is None:
        return ""

    def end(value: float) -> str:
        if shortest is not None and value < shortest:
            return f"<{count(shortest)}"
        return f">{count(longest)}" if longest is not None and value >= longest else count(value)

    return between(end(lo), end(hi))


def tested_range(measured: Effective, lengths: Sequence[int]) -> tuple[int | None, int | None]:
    """Shortest and longest length behind an effective length."""
    tested = sorted(measured.n_per_length) or sorted(lengths)
    return (tested[0], tested[-1]) if tested else (None, None)


def samples(numbers: Iterable[int], each: str = "") -> str:
    """How many samples stand behind numbers shown together: `n = 40 per length`, `n = 8–40 per length`."""
    known = sorted({number for number in numbers if number > 0})
    if not known:
        return "n = 0"
    text = str(known[0]) if len(known) == 1 else f"{known[0]}\N{EN DASH}{known[-1]}"
    return f"n{SPACE}={SPACE}{text}" + (f" {each}" if each else "")
