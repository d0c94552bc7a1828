"""The parts of a document that look most like a question, in the document's order: retrieval as a baseline.

Words in common decide (BM25); nothing is learned, and no model is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from farspan.errors import FarspanError

Ends = Callable[[str], Sequence[int]]
"""Where each token of a text ends, in characters."""

_PIECE = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\W\u3400-\u9fff\uf900-\ufaff]+|[^\w\s]")
_TERM = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\W\u3400-\u9fff\uf900-\ufaff]+")


@dataclass(frozen=True)
class Retrieved:
    """The chosen chunks of a document.

    texts : in the document's order
    indices : their numbers among all chunks, from 0
    total : chunks of the document
    """

    texts: tuple[str, ...]
    indices: tuple[int, ...]
    total: int


def piece_ends(text: str) -> list[int]:
    """Where each word, ideograph or mark of a text ends: about a token each, whatever the model."""
    return [found.end() for found in _PIECE.finditer(text)]


def chunks(text: str, size: int, ends: Ends = piece_ends) -> list[str]:
    """A text in chunks of `size` tokens, nothing lost between them; the last one may be shorter.

    Raises
    ------
    FarspanError : a size below 1.
    """
    if size < 1:
        raise FarspanError(f"chunks of {size} tokens hold nothing; give 1 or more")
    stops = list(ends(text))
    cuts = [0, *stops[size - 1 : -1 : size], len(text)]
    return [text[start:stop] for start, stop in pairwise(cuts) if text[start:stop].strip()]


def terms(text: str) -> list[str]:
    """Lower-case words, ideographs one by one."""
    return _TERM.findall(text.lower())


def best_chunks(query: str, parts: Sequence[str], k: int) -> Retrieved:
    """The `k` chunks that score highest by BM25 for a query; of equal ones the earlier.

    A query without a word that is in the text gets the first chunks.

    Raises
    ------
    FarspanError : fewer than one chunk is wanted.
    """
    if k < 1:
        raise FarspanError(f"{k} chunks are nothing to read; give 1 or more")
    if not parts:
        return Retrieved((), (), 0)
    asked = sorted(set(terms(query)))
    scores = np.zeros(len(parts))
    words = [terms(part) for part in parts]
    known = {word for part in words for word in part}
    if wanted := [word for word in asked if word in known]:
        import bm25s

        retriever = bm25s.BM25()
        retriever.index(words, show_progress=False)
        scores = np.asarray(retriever.get_scores(wanted), dtype=np.float64)
    order = np.argsort(-scores, kind="stable")[:k]
    chosen = sorted(int(index) for index in order)
    return Retrieved(tuple(parts[index] for index in chosen), tuple(chosen), len(parts))
