"""Answers that are a number, a class, a letter or a line of code, matched by LongBench's rules.

The rules are matched to the letter where published scores depend on it; each docstring says where one is odd.

Source: arXiv 2308.14508, section 3.3; arXiv 2412.15204.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from farspan.evals.metrics.edit_similarity import edit_similarity

_NUMBER = re.compile(r"\d+")
_CHOICE = (re.compile(r"The correct answer is \(([A-D])\)"), re.compile(r"The correct answer is ([A-D])"))
_LENIENT = re.compile(r"(?:correct\s+)?answer\s*(?:is|:)?\s*:?\s*\(?([A-D])\b\)?", re.IGNORECASE)
_NO_CODE = ("`", "#", "//")


def count_score(prediction: str, answer: str) -> float:
    """Share of the numbers in a prediction that are the answer, as texts: "07" is not "7"."""
    numbers = _NUMBER.findall(prediction)
    return numbers.count(answer) / len(numbers) if numbers else 0.0


def retrieval_score(prediction: str, answer: str, label: str = "Paragraph ") -> float:
    """Share of the numbers in a prediction that are the one behind `label` in the answer.

    Raises
    ------
    ValueError : the answer holds no such number.
    """
    found = re.search(re.escape(label) + r"(\d+)", answer)
    if found is None:
        raise ValueError(f"the reference {answer!r} names no number behind {label!r}")
    return count_score(prediction, found.group(1))


def retrieval_zh_score(prediction: str, answer: str) -> float:
    """`retrieval_score` for Chinese."""
    return retrieval_score(prediction, answer, "段落")


def classification_score(prediction: str, answer: str, classes: Sequence[str]) -> float:
    """One over the number of classes a prediction names if the answer is among them.

    Named classes that are a proper part of the answer's name are taken out, but the one behind each that is taken out
    is passed over, as it is where a list is shortened while it is walked.
    """
    named = [name for name in classes if name in prediction]
    place = 0
    while place < len(named):
        if named[place] != answer and named[place] in answer:
            del named[place]
        place += 1
    return 1.0 / len(named) if answer in named else 0.0


def code_line(prediction: str) -> str:
    """The first line that is neither a comment nor a fence, line breaks at the beginning aside; "" if there is none."""
    lines = prediction.lstrip("\n").split("\n")
    return next((line for line in lines if not any(mark in line for mark in _NO_CODE)), "")


def code_sim_score(prediction: str, answer: str) -> float:
    """Edit similarity of a prediction's first line of code to the answer, in steps of a percent."""
    return edit_similarity(code_line(prediction), answer)


def first_line(prediction: str) -> str:
    """The first line, line breaks at the beginning aside: what is scored of few-shot answers."""
    return prediction.lstrip("\n").split("\n")[0]


def extract_choice_v2(response: str) -> str | None:
    """The letter of "The correct answer is (B)", case and punctuation as asked for; None for anything else."""
    text = response.replace("*", "")
    return next((found.group(1) for pattern in _CHOICE if (found := pattern.search(text))), None)


def extract_choice(response: str) -> str | None:
    """The letter of an answer in the asked form, or in a form near it, such as "the correct answer is: (b)"."""
    strict = extract_choice_v2(response)
    if strict is not None:
        return strict
    found = _LENIENT.findall(response.replace("*", ""))
    if found:
        return str(found[-1]).upper()
    alone = re.fullmatch(r"\s*\(?([A-D])[).]?\s*", response)
    return alone.group(1) if alone else None
