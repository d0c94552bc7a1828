"""Scores of questions on biographies: values and names in a reply, pairs of persons, citations, refusals.

Source: arXiv 2506.02921, section 3.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

DIGITS = re.compile(r"\d+")
QUESTION = "Question: "


class PairHit(NamedTuple):
    """Whether a reply names two persons whose ages differ as asked, and by how much those differ that it names."""

    hit: int
    pred_age_diff: int | None


class CitationHits(NamedTuple):
    """Whether a reply holds the values in order, and the numbers of their sources."""

    answer_hit: int
    citation_hit: int


def bio_hit(pred: str, ref: str | int | Sequence[str], *, official: bool = False) -> int:
    """1 if a reply holds the reference.

    A string counts as a part of the reply, whatever its case; an integer if it is the last run of digits; several
    strings if each is found behind the one before. `official` never lets a reference of 0 count.
    """
    if isinstance(ref, str):
        return int(ref.strip().lower() in pred.lower())
    if isinstance(ref, int):
        runs = DIGITS.findall(pred)
        return int(bool(runs) and int(runs[-1]) == ref and not (official and ref == 0))
    lowered, place = pred.lower(), 0
    for item in ref:
        wanted = item.strip().lower()
        found = lowered.find(wanted, place)
        if found < 0:
            return 0
        place = found + len(wanted)
    return 1


def cut_base_reply(pred: str, *, official: bool = False) -> str:
    """What a base model wrote before the next question.

    Where there is none, the official cut takes away the last character.
    """
    place = pred.find(QUESTION)
    return pred if place < 0 and not official else pred[:place]


def twodiff_hit(pred: str, people: Sequence[tuple[str, int]], diff: int) -> PairHit:
    """Whether a reply names exactly two distinct persons (as written) whose ages differ by `diff`.

    people : (full name, age) of everybody in the context
    """
    named = {name: age for name, age in people if name in pred}
    if len(named) != 2:
        return PairHit(0, None)
    one, other = named.values()
    return PairHit(int(abs(one - other) == diff), abs(one - other))


def citation_hits(pred: str, answer: str | Sequence[str], citation: Sequence[str]) -> CitationHits:
    """Whether the values, and whether the bracketed numbers, stand in a reply in order."""
    answers = [answer] if isinstance(answer, str) else list(answer)
    return CitationHits(bio_hit(pred, answers), bio_hit(pred, list(citation)))


def idk_score(intact_hit: int, refusal_hit: int) -> int:
    """A refusal counts only where the same question was answered right while the text still said it."""
    return int(bool(intact_hit) and bool(refusal_hit))
