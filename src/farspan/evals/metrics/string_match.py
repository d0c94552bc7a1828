"""Substring recall as the RULER suite defines it: which of the references appear in a prediction, whatever the case.

Recall only: a prediction that lists everything scores 100, so callers report the length of the answers beside it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from farspan.errors import FarspanError

CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f]")


def postprocess_pred(prediction: str) -> str:
    """Strip a prediction, turn each control character into a newline, strip again."""
    return CONTROL_CHARACTERS.sub("\n", prediction.strip()).strip()


def match_share(prediction: str, references: Sequence[str]) -> float:
    """Share of the references, in [0, 1], that are case-insensitive substrings of the prediction."""
    lowered = prediction.lower()
    return sum(reference.lower() in lowered for reference in references) / len(references)


def match_any(prediction: str, references: Sequence[str]) -> float:
    """1.0 if any reference is a case-insensitive substring of the prediction, else 0.0."""
    lowered = prediction.lower()
    return float(any(reference.lower() in lowered for reference in references))


def string_match_all(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean over samples of the share of references found, in percent, two decimals.

    Raises
    ------
    FarspanError : no samples, unequal numbers of predictions and references, or a sample without references.

    Source: arXiv 2404.06654, section 3.
    """
    _check(predictions, references)
    total = sum(match_share(prediction, refs) for prediction, refs in zip(predictions, references, strict=True))
    return round(total / len(predictions) * 100, 2)


def string_match_part(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Share of samples in which any reference is found, in percent, two decimals; errors as `string_match_all`.

    Source: arXiv 2404.06654, section 3.
    """
    _check(predictions, references)
    total = sum(match_any(prediction, refs) for prediction, refs in zip(predictions, references, strict=True))
    return round(total / len(predictions) * 100, 2)


def _check(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if not predictions or len(predictions) != len(references):
        raise FarspanError(
            f"got {len(predictions)} predictions and {len(references)} lists of references; give equally many"
        )
    if any(not refs for refs in references):
        raise FarspanError("a sample has no references; leave it out")
