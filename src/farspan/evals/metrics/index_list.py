"""Numbers of wrong items read out of an answer, and how well they match: the score of LongIns.

The published reading takes every run of digits in every pair of brackets on one line. It punishes a model that quotes
an item as "[3]" on its way; the lenient reading takes the last list alone, over lines and with ranges.

Source: arXiv 2406.17588, section 3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Literal

from farspan.evals.metrics.token_f1 import f1_set

_BRACKETED = re.compile(r"\[(.*?)\]")
_ANY_LIST = re.compile(r"[\[［【]([^\[\]［］【】]*)[\]］】]", re.DOTALL)
_RANGE = re.compile(r"(\d+)\s*(?:-|–|to|至|到)\s*(\d+)")
_LARGEST_RANGE = 10_000


def parse_index_list(response: str, mode: Literal["official", "lenient"] = "official") -> list[int]:
    """The item numbers an answer names, sorted.

    mode : `official` as published; `lenient` takes the last list that holds a number or nothing, and reads "2-4" as
        three items
    """
    if mode == "official":
        return sorted({int(digits) for span in _BRACKETED.findall(response) for digits in re.findall(r"\d+", span)})
    lists = [span for span in _ANY_LIST.findall(response) if not span.strip() or re.search(r"\d", span)]
    if not lists:
        return []
    found: set[int] = set()
    for first, last in _RANGE.findall(lists[-1]):
        if 0 <= int(last) - int(first) <= _LARGEST_RANGE:
            found |= set(range(int(first), int(last) + 1))
    return sorted(found | {int(digits) for digits in re.findall(r"\d+", lists[-1])})


def longins_f1(
    response: str, error: Collection[int], mode: Literal["official", "lenient"] = "official"
) -> dict[str, object]:
    """How well the named items match the wrong ones.

    Returns
    -------
    `predicted` (sorted numbers), `f1`, `precision` and `recall`; all 0 where either side is empty.
    """
    predicted, wrong = parse_index_list(response, mode), set(error)
    hits = len(wrong & set(predicted))
    return {
        "predicted": predicted,
        "f1": f1_set(predicted, wrong),
        "precision": hits / len(predicted) if predicted else 0.0,
        "recall": hits / len(wrong) if wrong else 0.0,
    }


def num_errors(num_questions: int, rate: float = 0.1) -> int:
    """Wrong items among so many: the share rounded, at least one."""
    return max(1, math.floor(rate * num_questions + 0.5))


def q_density(num_questions: int, num_tokens: int) -> float:
    """Questions per 100 tokens."""
    return 100.0 * num_questions / num_tokens


def all_wrong_f1(num_questions: int, errors: int) -> float:
    """F1 of naming every item: the floor that a curve must be read against."""
    return 2 * errors / (num_questions + errors)
