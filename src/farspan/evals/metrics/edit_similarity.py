"""How alike two lines are by the edits between them."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import Literal

from rapidfuzz.distance import Indel


def edit_similarity(a: str, b: str, backend: Literal["difflib", "indel"] = "difflib") -> float:
    """Similarity in [0, 1] of two strings.

    Parameters
    ----------
    a, b : not symmetric with `difflib`
    backend : `difflib` matches blocks as published code-completion scores do, in whole percent, equal strings 1 and an
        empty one 0; characters that are frequent in a long `b` are ignored, which can make very similar lines 0.
        `indel` counts insertions and deletions, is symmetric and fast

    Source: arXiv 2308.14508, section 3.3.
    """
    if backend == "indel":
        return Indel.normalized_similarity(a, b)
    if a == b:
        return 1.0
    if not a or not b:
        return 0.0
    return round(100 * SequenceMatcher(None, a, b).ratio()) / 100
