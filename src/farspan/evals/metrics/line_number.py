"""Reading one number out of a reply: the first or the last run of digits.

The two rules disagree whenever the reply repeats a key that holds digits, so whoever reports a score names the rule.
"""

from __future__ import annotations

import re
from typing import Literal

from farspan.errors import FarspanError

DIGITS = re.compile(r"\d+")
NO_NUMBER = -1


def line_number(output: str, which: Literal["first", "last"] = "last") -> int:
    """The first or last run of (Unicode) digits as an integer, -1 if there is none.

    Source: arXiv 2308.10882, section 4 (first); the last run is the rule of the benchmark it took the task from.
    """
    if which not in ("first", "last"):
        raise FarspanError(f"which is 'first' or 'last', not '{which}'")
    runs = DIGITS.findall(output)
    if not runs:
        return NO_NUMBER
    return int(runs[0] if which == "first" else runs[-1])
