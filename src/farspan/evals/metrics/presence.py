"""Presence of a reference in an output: the plain substring rule, and two rules that decide better.

The plain rule rewards long outputs and short references ("7" is present in "17"); it is kept for published tables.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from farspan.errors import FarspanError

ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """Compatibility form of Unicode, case folded, without punctuation and English articles, single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    letters = "".join(" " if unicodedata.category(char)[0] in "PSZC" else char for char in folded)
    return " ".join(ARTICLES.sub(" ", letters).split())


def whole_number_pattern(number: str) -> re.Pattern[str]:
    """Matches a number that is no part of a longer run of digits, of a decimal, or of a group of thousands."""
    return re.compile(rf"(?<!\d)(?<!\d[.,]){re.escape(number)}(?!\d)(?![.,]\d)")


def presence(ref: str, output: str, mode: Literal["official", "token", "normalised"] = "official") -> int:
    """1 if the reference stands in the output, else 0.

    Parameters
    ----------
    ref : the reference; surrounding white space is ignored, an empty reference is always present
    output : the generated text
    mode : `official` is a case-sensitive substring; `token` asks for word boundaries and, for numbers, that they are
        no part of a longer number; `normalised` compares whole words without case, punctuation and articles

    Source: arXiv 2308.10882, section 4.
    """
    ref = ref.strip()
    if mode == "official":
        return int(ref in output)
    if mode == "token":
        if not ref:
            return 1
        if re.fullmatch(r"\d[\d.,]*", ref):
            return int(whole_number_pattern(ref).search(output) is not None)
        return int(re.search(rf"(?<!\w){re.escape(ref)}(?!\w)", output) is not None)
    if mode == "normalised":
        return int(f" {normalise(ref)} " in f" {normalise(output)} " or not normalise(ref))
    raise FarspanError(f"mode is 'official', 'token' or 'normalised', not '{mode}'")
