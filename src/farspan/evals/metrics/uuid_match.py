"""Scoring of replies whose answers are identifiers of the form 8-4-4-4-12.

The reply is searched for identifiers, so wrapping words, quotes and lists cost nothing; an identifier with one wrong
digit is never correct, but is counted apart, because "found and miscopied" and "not found" call for different cures.
Nothing here knows how the question was built.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, TypedDict

from rapidfuzz.distance import Levenshtein

from farspan.errors import FarspanError

UUID_PATTERN = re.compile(r"(?<![0-9a-f])[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(?![0-9a-f])")
UUID_LENGTH = 36
COPY_ERROR_DISTANCE = 2


class UuidMatch(TypedDict):
    """Every figure of one reply; `score` is the one asked for by `mode`."""

    score: float
    uuids: list[str]
    n_predicted: int
    accuracy: float
    precision: float
    all_correct: bool
    exact_order: bool
    last_uuid_match: bool
    prefix_match: bool
    no_answer: bool
    copy_errors: int


def extract_uuids(text: str) -> list[str]:
    """All identifiers of a text in order, lower case; one that is part of a longer run of hex digits is none."""
    return UUID_PATTERN.findall(text.lower())


def copy_errors(text: str, answers: Sequence[str]) -> int:
    """How many of the answers are missing from the text but stand there with one or two characters wrong."""
    shortest, longest = UUID_LENGTH - COPY_ERROR_DISTANCE, UUID_LENGTH + COPY_ERROR_DISTANCE
    runs = [run for run in re.findall(r"[0-9a-f-]+", text.lower()) if shortest <= len(run) <= longest]
    missing = {answer.lower() for answer in answers}.difference(runs)
    return sum(
        any(Levenshtein.distance(gold, run, score_cutoff=COPY_ERROR_DISTANCE) <= COPY_ERROR_DISTANCE for run in runs)
        for gold in missing
    )


def uuid_match(response: str, answers: Sequence[str], mode: Literal["last", "all"] = "last") -> UuidMatch:
    """Compare a reply with the identifiers it should hold.

    Parameters
    ----------
    response : the reply as generated
    answers : the right identifiers; for `last` the first one counts
    mode : `last` scores 1 if the last identifier of the reply is the answer, `all` the share of answers present

    Returns
    -------
    UuidMatch
        `accuracy` and `precision` count distinct identifiers without regard to order; `exact_order` compares the
        distinct identifiers in the order of the reply with the answers; `prefix_match` says whether the reply begins
        with the first answer, character for character; `no_answer` is a reply without any identifier.

    Raises
    ------
    FarspanError : no answers, or an unknown mode.

    Source: arXiv 2411.05000, section 4.
    """
    if mode not in ("last", "all"):
        raise FarspanError(f"mode is 'last' or 'all', not '{mode}'")
    if not answers:
        raise FarspanError("a reply can only be compared with at least one answer, got none")
    gold = list(dict.fromkeys(answer.lower() for answer in answers))
    uuids = extract_uuids(response)
    predicted = list(dict.fromkeys(uuids))
    hits = sum(answer in predicted for answer in gold)
    accuracy = hits / len(gold)
    last = bool(uuids) and uuids[-1] == gold[0]
    return UuidMatch(
        score=float(last) if mode == "last" else accuracy,
        uuids=uuids,
        n_predicted=len(predicted),
        accuracy=accuracy,
        precision=hits / len(predicted) if predicted else 0.0,
        all_correct=hits == len(gold),
        exact_order=predicted == gold,
        last_uuid_match=last,
        prefix_match=response[: len(answers[0])] == answers[0],
        no_answer=not uuids,
        copy_errors=copy_errors(response, gold),
    )
