"""The journal of a run: every answer as soon as it is there, so that a run that ends early goes on where it stopped.

A text file, one JSON object a line: what the run asks first, then answers in the order they came. A question whose
answer failed is open; so is one that is not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from farspan.errors import FarspanError
from farspan.evals.evaluation import Answer

JOURNAL_NAME = "answers.jsonl"


class JournalError(FarspanError):
    """A journal that cannot be read or written, or that belongs to another run."""


class Journal:
    """Answers by task, length and question.

    Parameters
    ----------
    path : the file; it is made with the first answer
    settings : what decides which questions are asked and how; a file with other settings is refused

    Raises
    ------
    JournalError : another run's file, or one that is damaged before its last line.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, object]) -> None:
        self.path = Path(path)
        self.settings = json.loads(json.dumps(settings, sort_keys=True, default=str))
        self._answers: dict[tuple[str, int, str], Answer] = {}
        if self.path.is_file():
            self._read()

    def __len__(self) -> int:
        return len(self._answers)

    def answer(self, task: str, length: int, question: str) -> Answer | None:
        """The answer to a question; None while it is open."""
        found = self._answers.get((task, length, question))
        return None if found is None or found.open else found

    def add(self, task: str, answer: Answer) -> None:
        """Keep an answer; it is on the disk when this returns."""
        self._answers[task, answer.length, answer.id] = answer
        lines = [] if self.path.is_file() else [json.dumps({"settings": self.settings})]
        lines.append(json.dumps({"task": task, "answer": answer.model_dump(mode="json")}, ensure_ascii=False))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8", newline="\n") as stream:
                stream.write("\n".join(lines) + "\n")
        except OSError as error:
            raise JournalError(f"cannot write {self.path}: {error.strerror or error}") from error

    def _read(self) -> None:
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise JournalError(f"cannot read {self.path}: {error.strerror or error}") from error
        whole = data[: data.rfind(b"\n") + 1]
        found: dict[str, object] = {}
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                row = json.loads(line)
                if number == 1:
                    found = dict(row["settings"])
                else:
                    answer = Answer.model_validate(row["answer"])
                    self._answers[str(row["task"]), answer.length, answer.id] = answer
            except (ValidationError, ValueError, KeyError, TypeError) as error:
                raise JournalError(f"{self.path}, line {number} is no answer; use another --out folder") from error
        if not whole:
            self.path.unlink()
            return
        self._same(found)
        if len(whole) < len(data):
            # The line a killed run was writing.
            with self.path.open("r+b") as stream:
                stream.truncate(len(whole))

    def _same(self, found: Mapping[str, object]) -> None:
        names = sorted({*found, *self.settings})
        other = [name for name in names if found.get(name) != self.settings.get(name)]
        if other:
            raise JournalError(
                f"{self.path} belongs to a run with {other[0]}={found.get(other[0])!r}, not "
                f"{self.settings.get(other[0])!r}; repeat its command to go on, or use another --out folder"
            )
