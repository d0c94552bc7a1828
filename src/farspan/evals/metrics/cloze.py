"""Entities filled into the masks of a text, read from an answer that is a mapping, and compared mask by mask.

Answers are data, never code: a Python literal or JSON, nothing else is read.

Source: arXiv 2311.04939, section 4.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping


def read_mapping(text: str) -> dict[str, str] | None:
    """The mapping an answer consists of, braces and what lies between; None if there is none to read."""
    start, end = text.find("{"), text.rfind("}")
    if not 0 <= start < end:
        return None
    body = text[start : end + 1]
    for read in (ast.literal_eval, json.loads):
        try:
            found = read(body)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, dict):
            return {str(key): str(value) for key, value in found.items()}
    return None


def _hits(
    reference: Mapping[str, str], hypothesis: str, same: Callable[[str, str], bool], *, whole: bool
) -> tuple[int, int]:
    # The published scores read an answer only if it is a mapping and nothing else.
    stripped = hypothesis.strip()
    alone = stripped.startswith("{") and stripped.endswith("}")
    filled = read_mapping(hypothesis) if alone or not whole else None
    hits = sum(same(entity, filled[mask]) for mask, entity in reference.items() if mask in filled) if filled else 0
    return hits, len(reference)


def cloze_exact_match(reference: Mapping[str, str], hypothesis: str, *, whole: bool = True) -> tuple[int, int]:
    """Masks filled with exactly the reference's text, case included, and all masks.

    whole : the answer must be the mapping alone; else a mapping inside other words is read too
    """
    return _hits(reference, hypothesis, lambda right, given: right == given, whole=whole)


def cloze_partial_match(reference: Mapping[str, str], hypothesis: str, *, whole: bool = True) -> tuple[int, int]:
    """Masks whose text shares a word with the reference's, and all masks."""
    return _hits(reference, hypothesis, lambda right, given: bool(set(right.split()) & set(given.split())), whole=whole)


def cloze_folded_match(reference: Mapping[str, str], hypothesis: str) -> tuple[int, int]:
    """Masks filled with the reference's text whatever its case and spacing, and all masks; other words may surround."""
    fold = str.casefold
    return _hits(
        reference,
        hypothesis,
        lambda right, given: fold(" ".join(right.split())) == fold(" ".join(given.split())),
        whole=False,
    )
