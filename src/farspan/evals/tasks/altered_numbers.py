"""Altering the number a question asks for, everywhere in a document, so that remembering is told from reading.

Whole numbers only: digits that are part of a longer number, a decimal or a group of thousands stay as they are.

Source: arXiv 2308.10882, section 4.
"""

from __future__ import annotations

from random import Random
from typing import Literal, TypedDict

from farspan.errors import FarspanError
from farspan.evals.metrics.presence import whole_number_pattern

YEARS = range(1000, 2101)
YEAR_WINDOW = 10
ANSWER_PLACES = ("start", "random", "end")


class AlteredRange(TypedDict):
    """The interval a replacement is drawn from, ends included; `digits` is None for years."""

    kind: Literal["year", "number"]
    lo: int
    hi: int
    digits: int | None


def altered_range(answer: str) -> AlteredRange:
    """Admissible replacements of a number: a year moves by at most ten, another number keeps its number of digits.

    Raises
    ------
    FarspanError : the answer is not a plain integer.
    """
    answer = answer.strip()
    if not answer.isascii() or not answer.isdigit():
        raise FarspanError(f"only answers that are plain integers can be altered, not '{answer}'")
    value, digits = int(answer), len(answer)
    if digits == 4 and value in YEARS:
        return {"kind": "year", "lo": value - YEAR_WINDOW, "hi": value + YEAR_WINDOW, "digits": None}
    return {"kind": "number", "lo": 0 if digits == 1 else 10 ** (digits - 1), "hi": 10**digits - 1, "digits": digits}


def replace_number(text: str, old: str, new: str) -> str:
    """Replace every occurrence of a whole number; "7" leaves "17", "3.7" and "7,000" alone."""
    return whole_number_pattern(old).sub(lambda _: new, text)


def alter_number(answer: str, document: str, rng: Random) -> tuple[str, str]:
    """Draw a different number for the answer and write it over every occurrence in the document.

    Returns the new number and the new document. Numbers that already stand in the document are not drawn.

    Raises
    ------
    FarspanError : the answer is not a plain integer, or every admissible number stands in the document already.
    """
    limits = altered_range(answer)
    answer = answer.strip()
    tried: set[int] = {int(answer)}
    while len(tried) <= limits["hi"] - limits["lo"]:
        value = rng.randint(limits["lo"], limits["hi"])
        if value not in tried and whole_number_pattern(str(value)).search(document) is None:
            return str(value), replace_number(document, answer, str(value))
        tried.add(value)
    raise FarspanError(f"every number that could replace {answer} stands in the document already; use another document")


def wikiqa_row_labels(row: int) -> dict[Literal["question", "answer"], str]:
    """Where question and answer stand in a row of the published sets, which come in blocks of six variants an item."""
    return {"question": "end" if row % 2 == 0 else "start", "answer": ANSWER_PLACES[row % 6 // 2]}
