"""Answers that no model made: a document's beginning or end, or the answer that belongs to the next question.

They say what a metric gives for nothing. A model that does not clearly beat the last of them has read nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from farspan.evals.asking import Heard
from farspan.evals.documents.asking import Asked
from farspan.evals.documents.base import BenchmarkError, DocumentBenchmark

PREFIX = "baseline:"
NEXT = "next-reference"
_CUT = re.compile(r"(lead|last)-(\d+)")


class BaselineVoice:
    """Answers as a baseline does.

    Parameters
    ----------
    name : `lead-N`, the first N characters of the document; `last-N`, the last ones; `next-reference`, the first answer
        of the next question of the set that has another document, which is the level of chance

    Raises
    ------
    BenchmarkError : another name.
    """

    temperature = 0.0

    def __init__(self, name: str, benchmark: DocumentBenchmark, data_dir: str | Path | None = None) -> None:
        found = _CUT.fullmatch(name)
        if name != NEXT and (found is None or int(found[2]) < 1):
            raise BenchmarkError(f"unknown baseline '{name}'; there are lead-N and last-N, as in lead-400, and {NEXT}")
        self.side = found[1] if found else ""
        self.characters = int(found[2]) if found else 0
        self.benchmark = benchmark
        self.data_dir = data_dir
        self._answers: dict[str, dict[str, str]] = {}

    def ask(self, batch: Sequence[Asked]) -> list[Heard]:
        """One answer a prompt."""
        return [Heard(text=self._answer(asked)) for asked in batch]

    def _answer(self, asked: Asked) -> str:
        text = asked.sample.text
        if self.side == "lead":
            return text[: self.characters]
        if self.side == "last":
            return text[-self.characters :]
        task = asked.sample.task
        if task not in self._answers:
            self._answers[task] = self._next_answers(task)
        return self._answers[task][asked.sample.id]

    def _next_answers(self, task: str) -> dict[str, str]:
        """For each question of a set the first answer on the next other document, the first one behind the last."""
        rows = [
            (sample.id, sample.shared_context_key or sample.id, sample.answers[0])
            for sample in self.benchmark.load(self.benchmark.datasets[task], self.data_dir)
        ]
        if len({key for _, key, _ in rows}) < 2:
            raise BenchmarkError(f"{task} has a single document; {NEXT} needs two")
        found: dict[str, str] = {}
        for place, (name, key, _) in enumerate(rows):
            later = (rows[(place + step) % len(rows)] for step in range(1, len(rows)))
            found[name] = next(answer for _, other, answer in later if other != key)
        return found
