"""A haystack of the user's own text: essays, books, code.

Text is cut into sentences (joined by a space) or into lines with their indented followers (joined by a newline), by
one regular expression; no language model of sentences is loaded. A corpus that ends starts over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from farspan.evals.generate.haystack.base import CorpusHaystack, HaystackError, fingerprint_of

_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])\s*")
_BLOCK_START = re.compile(r"\n(?=\S)")
_SPACE = re.compile(r"\s+")
_SUFFIXES = (".txt", ".md", ".jsonl")


class TextHaystack(CorpusHaystack):
    """Sentences or lines of text files.

    Parameters
    ----------
    path_or_files : a file, a folder (its .txt, .md and .jsonl files in order of name), or a list of files
    split : "sentences" or "lines"
    field : the field of jsonl rows that holds the text
    joiner : between units; None takes a space for sentences and a newline for lines

    Raises
    ------
    HaystackError : no readable text, or a row without the field.
    """

    def __init__(
        self,
        path_or_files: str | Path | Sequence[str | Path],
        *,
        split: Literal["sentences", "lines"] = "sentences",
        field: str = "text",
        joiner: str | None = None,
    ) -> None:
        pieces = [_read(path, field) for path in _paths(path_or_files)]
        self._corpus = [unit for piece in pieces for unit in split_text(piece, split)]
        if not self._corpus:
            raise HaystackError(f"no text found in {path_or_files}; give .txt, .md or .jsonl files with content")
        self.joiner = (" " if split == "sentences" else "\n") if joiner is None else joiner
        self.starts = len(self._corpus)
        self._fingerprint = fingerprint_of("text", split, self.joiner, *pieces)

    def chunk(self, number: int) -> list[str]:
        start = number * self.CHUNK % len(self._corpus)
        turned = self._corpus[start:] + self._corpus[:start] if start else self._corpus
        return (turned * (self.CHUNK // len(turned) + 1))[: self.CHUNK]

    @property
    def fingerprint(self) -> str:
        return self._fingerprint


def split_text(text: str, split: Literal["sentences", "lines"]) -> list[str]:
    """Units of a text; sentences have their inner whitespace collapsed, lines keep theirs."""
    if split == "sentences":
        start = 0
        found = []
        for match in _SENTENCE_END.finditer(text):
            found.append(text[start : match.end()])
            start = match.end()
        found.append(text[start:])
        return [unit for unit in (_SPACE.sub(" ", piece).strip() for piece in found) if unit]
    return [unit for unit in (piece.strip() for piece in _BLOCK_START.split(text)) if unit]


def _paths(given: str | Path | Sequence[str | Path]) -> list[Path]:
    if not isinstance(given, str | Path):
        return [Path(path) for path in given]
    path = Path(given)
    return sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES) if path.is_dir() else [path]


def _read(path: str | Path, field: str) -> str:
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HaystackError(f"cannot read text from {path}: {error}") from error
    if path.suffix != ".jsonl":
        return text
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                rows.append(str(json.loads(line)[field]))
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise HaystackError(f"{path}, line {number} has no field '{field}'; name it with field=") from error
    return "\n".join(rows)
