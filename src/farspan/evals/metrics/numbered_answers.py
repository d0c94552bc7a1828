"""Many numbered answers in one reply: taking them apart, matching each, and how the score falls with the number.

The published reading wants every answer on lines of its own below its mark, and takes the last number or letter it
finds. The fixed one reads the marks as people write them, and what an answer says it is.

Source: arXiv 2410.04199, sections 3 and 4.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import numpy as np

from farspan.errors import FarspanError

Mode = Literal["official", "fixed"]
LETTERS = "ABCDEFGHIJ"

HEAD = re.compile(r"^[ \t>*#_]*(?:answer|答案)[ _]?(\d+)[ \t*_]*[:.：]?[ \t]*\**", re.IGNORECASE | re.MULTILINE)
_OFFICIAL_ANSWER = re.compile(r":\n(.*?)(?=\n\n|\Z)", re.DOTALL)
_OFFICIAL_NUMBER = re.compile(r"\d*\.?\d+")
_NUMBER = re.compile(r"[-−]?\d+(?:\.\d+)?(?:/\d+)?|[-−]?\.\d+")
_THOUSANDS = re.compile(r"(?<=\d)[,  ](?=\d{3}(?!\d))")
_SAID = re.compile(r"(?:answer\s+is|答案是|答案为)\s*[:：]?\s*[*_(（\[]*([A-J])\b", re.IGNORECASE)
_IN_BRACKETS = re.compile(r"[(（\[]([A-J])[)）\]]")
_ALONE = re.compile(r"\s*[*_(（\[]*([A-J])[)）\].:*_]*\s*(?:\n|$)")


class NumberedAnswersError(FarspanError):
    """Scores that make no table of prompts by questions."""


def split_answers(response: str, start: int, k: int) -> list[str | None]:
    """Texts of the answers numbered `start` to `start` + `k` - 1; None for one that is not there.

    A mark stands at the start of a line, bold, quoted or not, and its text goes on to the next mark. Of several with
    the same number the first counts; their order does not matter.
    """
    found: dict[int, str] = {}
    for number, text in marked(response):
        found.setdefault(number, text)
    return [found.get(start + index) for index in range(k)]


def marked(response: str) -> list[tuple[int, str]]:
    """All marks of a reply with their texts, in its order."""
    heads = list(HEAD.finditer(response))
    ends = [head.start() for head in heads[1:]] + [len(response)]
    return [(int(head[1]), response[head.end() : end].strip()) for head, end in zip(heads, ends, strict=False)]


def split_answers_official(response: str) -> list[str]:
    """The published reading: what stands between a mark's line end and the next empty line, whatever its number."""
    return _OFFICIAL_ANSWER.findall("\n".join(response.split("Answer_")))


def numeric_match(pred: str, gold: str, mode: Mode = "official") -> bool:
    """Whether the last number of an answer is the gold one.

    mode : `official` compares the digits as strings, without signs, and reads commas away in the answer alone;
        `fixed` compares values, with thousands separators, decimals and fractions, and takes gold from behind `####`
    """
    if mode == "official":
        said, right = _OFFICIAL_NUMBER.findall(pred.replace(",", "")), _OFFICIAL_NUMBER.findall(gold)
        return bool(said and right) and said[-1] == right[-1]
    value = _value(gold.rpartition("####")[2])
    return value is not None and _value(pred) == value


def _value(text: str) -> Fraction | None:
    numbers = _NUMBER.findall(_THOUSANDS.sub("", text))
    if not numbers:
        return None
    try:
        return Fraction(numbers[-1].replace("−", "-"))
    except ZeroDivisionError:
        return None


def choice_match(pred: str, gold: str, n: int = 4, mode: Mode = "official") -> bool:
    """Whether an answer chooses the gold letter.

    n : number of choices
    mode : `official` takes the last capital letter A to D anywhere in the text; `fixed` what the answer says it is,
        else a letter in brackets where there is one alone, else one that is a line by itself
    """
    if mode == "official":
        letters = re.findall(r"[A-D]", pred)
        return bool(letters) and letters[-1] == gold
    return chosen_letter(pred, n) == gold.strip().upper()


def chosen_letter(text: str, n: int = 4) -> str | None:
    """The letter that an answer chooses, or None; see `choice_match`."""
    known = LETTERS[:n]
    for letters in (
        [letter.upper() for letter in _SAID.findall(text)][-1:],
        list(dict.fromkeys(_IN_BRACKETS.findall(text))),
        [match[1]] if (match := _ALONE.match(text)) else [],
    ):
        if len(letters) == 1 and letters[0] in known:
            return letters[0]
    return None


def aggregate(correct: Sequence[Sequence[float]], baseline: float | None = None) -> dict[str, object]:
    """A table of scores, prompts by questions, put together.

    Parameters
    ----------
    correct : [prompts, questions], each 0 to 1
    baseline : score of the same questions asked one at a time

    Returns
    -------
    `accuracy`, `by_index` (mean at each place), `slope_per_question` (least squares over places); with a baseline
    `delta_points` (percentage points) and `retention` (share of the baseline).

    Raises
    ------
    NumberedAnswersError : no scores, or prompts with unequal numbers of questions.
    """
    if not correct or not correct[0] or len({len(row) for row in correct}) > 1:
        raise NumberedAnswersError("scores must be a table: at least one prompt, all with as many questions")
    table = np.asarray(correct, dtype=np.float64)
    by_index = table.mean(0)
    places = np.arange(table.shape[1]) - (table.shape[1] - 1) / 2
    spread = float((places**2).sum())
    found: dict[str, object] = {
        "accuracy": float(table.mean()),
        "by_index": [float(value) for value in by_index],
        "slope_per_question": float((places * by_index).sum()) / spread if spread else 0.0,
    }
    if baseline is not None:
        found["delta_points"] = 100 * (float(table.mean()) - baseline)
        found["retention"] = float(table.mean()) / baseline if baseline else 0.0
    return found
