"""What L-Eval reads out of a free answer to an exam question, rule by rule as its published scores were made.

Several rules are lenient in odd ways (a letter inside a word counts, an answer without any letter becomes "A"). They
are kept here for parity; `parsed_choice` says whether anything was really found, for scores that count the rest wrong.

Source: arXiv 2307.11088, section 4.1 and appendix B.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

CHOICES = "ABCD"
NO_ANSWER = "None"
DEFAULT_CHOICE = "A"
UNREADABLE = "<error>"
FACT_TAG = "[fact:"

_LEADING = re.compile(r"[A-D]+")
_MARKED = re.compile(r"([A-Z])(?=[\s.)])")
_FILLING = ("will be", "of the code", "is", "would be", "the value of", "the result of", "printed")
_TIGHTENED = (("] [", "]["), ("[ [", "[["), ("] ]", "]]"))

Verdict = Literal["m1", "m2", "tie", "error"]


def _letters(text: str) -> str:
    return "".join(sorted(set(text) & set(CHOICES)))


def extract_multi_choice(response: str) -> str:
    """The letters of an answer that may hold several, sorted; "None" for an empty one, "A" where nothing is found."""
    text = response.strip()
    if not text:
        return NO_ANSWER
    if text in CHOICES:
        return text
    leading = found.group() if (found := _LEADING.match(text)) else ""
    if len(leading) > 1:
        return _letters(leading)
    text = text.partition("Question")[0]
    marked = _letters(leading + "".join(_MARKED.findall(text)))
    if marked:
        return marked
    anywhere = _LEADING.search(text)
    return anywhere.group() if anywhere else DEFAULT_CHOICE


def extract_single_choice(response: str) -> str:
    """The one letter of an answer, the first A to D found anywhere; else as `extract_multi_choice`."""
    text = response.strip()
    if not text:
        return NO_ANSWER
    if text in CHOICES:
        return text
    found = next((char for char in text if char in CHOICES), None)
    return found if found is not None else extract_multi_choice(text)


def parsed_choice(response: str, *, several: bool = False) -> str:
    """The letters of an answer, "" where no letter stands alone: a strict reading that invents nothing.

    Letters count where no other letter touches them ("(C)", "A and B", "AB"), a run of letters only as a word of its
    own. One letter is wanted unless `several`; an answer that holds more is then not readable.
    """
    words = re.findall(r"(?<![A-Za-z])[A-D]{1,4}(?![A-Za-z'])", response)
    letters = _letters("".join(words))
    return letters if several or len(letters) == 1 else ""


def clean_choice_reference(reference: str) -> str:
    """The letters of a reference answer: those of its first word, "A" where it has none."""
    first = next(iter(reference.split()), "")
    return "".join(char for char in first if char in CHOICES) or DEFAULT_CHOICE


def extract_math_answer(response: str) -> str:
    """Digits of the number after "The answer is ", else of the last word with a digit before the first blank line.

    Everything behind a decimal point is dropped, and so are signs and fractions: "$1,250.50" is "1250".
    """
    told = re.search(r"The answer is (\S+)", response)
    if told:
        word = told.group(1)
    else:
        first = response.partition("\n\n")[0]
        word = next((word for word in reversed(first.split(" ")) if any(map(str.isdigit, word))), "")
    return "".join(char for char in word.partition(".")[0] if char.isdigit())


def clean_code_reference(reference: str) -> str:
    """A program's output without commas, single quotes, backslashes and ".0", brackets tightened."""
    text = re.sub(r"\s+", " ", reference)
    for mark in (",", "'", "\\", ".0"):
        text = text.replace(mark, "")
    for loose, tight in _TIGHTENED:
        text = text.replace(loose, tight)
    return text


def extract_code_output(response: str, reference: str) -> str:
    """The words of an answer that are compared with a program's output.

    These are three more than the reference has: the first ones after "the final output", or the last ones.
    """
    for words in _FILLING:
        response = response.replace(words, "")
    text = clean_code_reference(response)
    count = len(clean_code_reference(reference).split()) + 3
    _, told, after = text.rpartition("the final output")
    return " ".join(after.split(" ")[:count]) if told else " ".join(text.split(" ")[-count:])


def extract_true_false_pair(response: str) -> tuple[str, str]:
    """What an answer says of the document and of the real world, each "true", "false" or "<error>".

    The second stands behind "[fact:"; an answer without it is unreadable as a whole.
    """
    own, tag, fact = response.lower().partition(FACT_TAG)
    return (_true_or_false(own), _true_or_false(fact)) if tag else (UNREADABLE, UNREADABLE)


def _true_or_false(text: str) -> str:
    for word in text.split():
        if "true" in word:
            return "true"
        if "false" in word:
            return "false"
    return UNREADABLE


def pairwise_win_rate(verdicts: Sequence[Sequence[Verdict]]) -> dict[str, float]:
    """Share of judgements each side wins, ties counting half, failed judgements left out.

    verdicts : for each question, the winner in either order of the two answers

    Returns
    -------
    `{"m1": share, "m2": share}`, both 0 where nothing was judged.
    """
    flat = [verdict for pair in verdicts for verdict in pair if verdict != "error"]
    ties = flat.count("tie") / 2
    return {side: (flat.count(side) + ties) / len(flat) if flat else 0.0 for side in ("m1", "m2")}
