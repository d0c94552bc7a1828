"""A file of scores that a long search has paid for, so that it can go on after an interruption.

One JSON line an evaluation, behind a first line that says what was searched. The search itself is a function of its
seed: run again with the journal, it takes the same steps and pays only for what is new.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from farspan.errors import FarspanError


class ScoreJournal:
    """Scores by vector, kept in a file as they come.

    Parameters
    ----------
    path : the file, made if missing; None keeps the scores in memory alone
    search : what decides the steps of the search; a journal of another search is refused

    Raises
    ------
    FarspanError : the file cannot be used, or belongs to another search.
    """

    def __init__(self, path: Path | None, search: Mapping[str, object]) -> None:
        self.path = path
        self.scores: dict[tuple[float, ...], float] = {}
        if path is None:
            return
        head = json.dumps({"search": search}, sort_keys=True)
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            lines = text.split("\n")
            # What follows the last line end was cut off while it was written.
            whole = lines[:-1]
            if whole and whole[0] != head:
                raise FarspanError(
                    f"journal {path} belongs to another search (its first line says which); name another file, or "
                    "search with the same model, texts and settings"
                )
            for line in whole[1:]:
                self._read(line)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not whole or lines[-1]:
                path.write_text("".join(line + "\n" for line in whole or [head]), encoding="utf-8")
        except OSError as error:
            raise FarspanError(f"cannot use journal {path}: {error.strerror or error}") from error

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
            score = entry["score"]
            self.scores[tuple(map(float, entry["vector"]))] = math.inf if score is None else float(score)
        except (ValueError, TypeError, KeyError) as error:
            raise FarspanError(f"journal {self.path} holds a line that is no score: {line[:60]!r}") from error

    def get(self, vector: tuple[float, ...]) -> float | None:
        """The score of a vector, if it was paid for."""
        return self.scores.get(vector)

    def add(self, vector: tuple[float, ...], score: float) -> None:
        """Keep a score; it is in the file when this returns."""
        self.scores[vector] = score
        if self.path is None:
            return
        entry = {"vector": vector, "score": score if math.isfinite(score) else None}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise FarspanError(f"cannot write journal {self.path}: {error.strerror or error}") from error
