"""Length targets and the arithmetic of units: how many fit, and where a depth lies.

Pure integer arithmetic on counts; knows nothing of text or tokenizers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from farspan.errors import FarspanError

IntArray = npt.NDArray[np.int64]
LengthUnit = Literal["tokens", "chars", "units"]

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKmM]?)\s*(tokens|token|chars|char|characters|units|unit)?\s*")
_UNITS: dict[str, LengthUnit] = {"t": "tokens", "c": "chars", "u": "units"}


class LengthTargetError(FarspanError):
    """A length that cannot be met; names the overhead and the smallest feasible length."""


class LengthTarget(BaseModel):
    """How long a sample shall be.

    Attributes
    ----------
    value : the length
    unit : "tokens", "chars", or "units" (a fixed number of haystack units, nothing is fitted)
    semantics : "total" bounds template + context + question + answer prefix + `reserve`; "context" the context alone
    reserve : tokens kept free for generation (0 where unit is "chars" or semantics is "context")
    tolerance : largest shortfall allowed; None allows less than one unit
    exact : meet the value exactly, by one-token fillers before the last unit
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: int = Field(gt=0)
    unit: LengthUnit = "tokens"
    semantics: Literal["total", "context"] = "total"
    reserve: int = Field(default=0, ge=0)
    tolerance: int | None = Field(default=None, ge=0)
    exact: bool = False

    @classmethod
    def parse(
        cls,
        text: str | int,
        *,
        k: int = 1024,
        semantics: Literal["total", "context"] = "total",
        reserve: int = 0,
        exact: bool = False,
    ) -> LengthTarget:
        """Read "4096", "128k", "1.2k", "1m", "54.4k chars", "200 units"; k is 1024 unless a family says 1000."""
        value, unit = parse_size(text, k=k)
        return cls(value=value, unit=unit, semantics=semantics, reserve=reserve, exact=exact)


def parse_size(text: str | int, *, k: int = 1024) -> tuple[int, LengthUnit]:
    """A length and its unit from text; the nearest whole one where decimals are given.

    Raises
    ------
    LengthTargetError : not a positive length.
    """
    match = _SIZE.fullmatch(str(text))
    value = 0
    if match:
        scale = {"": 1, "k": k, "m": k * k}[match.group(2).lower()]
        whole, _, decimals = match.group(1).partition(".")
        tenths = 10 ** len(decimals)
        value = (2 * int(whole + decimals) * scale + tenths) // (2 * tenths)
    if match is None or value <= 0:
        raise LengthTargetError(f"'{text}' is not a length; write a positive number such as 4096, 128k, 1.5k or 1m")
    return value, _UNITS[(match.group(3) or "t")[0]]


def prefix_sums(counts: Sequence[int] | IntArray) -> IntArray:
    """Sums of the first 0, 1, ..., n counts, int64 [n + 1]."""
    sums = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(np.asarray(counts, dtype=np.int64), out=sums[1:])
    return sums


def fit_units(unit_tokens: Sequence[int] | IntArray, budget: int) -> tuple[int, int]:
    """The longest prefix of units whose sum is within the budget.

    Returns
    -------
    (number of units, their tokens)
    """
    return fit_prefix(prefix_sums(unit_tokens), budget)


def fit_prefix(sums: IntArray, budget: int) -> tuple[int, int]:
    """`fit_units` on prefix sums that are there already."""
    count = max(int(np.searchsorted(sums, budget, side="right")) - 1, 0)
    return count, int(sums[count])


def insertion_index(unit_tokens: Sequence[int] | IntArray, depths: Sequence[float]) -> list[int]:
    """The unit boundary nearest to each depth (percent of the tokens); ties go to the smaller boundary.

    Boundary p lies before unit p; depth 0 is before everything, depth 100 after everything.
    """
    return boundary_at(prefix_sums(unit_tokens), depths)


def boundary_at(sums: IntArray, depths: Sequence[float]) -> list[int]:
    """`insertion_index` on prefix sums that are there already."""
    boundaries = []
    last = len(sums) - 1
    for depth in depths:
        if not 0 <= depth <= 100:
            raise LengthTargetError(f"depth {depth} is outside 0 to 100 percent")
        aim = depth / 100 * int(sums[-1])
        right = min(int(np.searchsorted(sums, aim, side="left")), last)
        left = max(right - 1, 0)
        nearest = left if abs(int(sums[left]) - aim) <= abs(int(sums[right]) - aim) else right
        boundaries.append(int(np.searchsorted(sums, sums[nearest], side="left")))
    return boundaries
