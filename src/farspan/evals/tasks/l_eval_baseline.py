"""Answers that L-Eval's judge compares with: those of a file in the published form, or of an earlier run here.

Questions such as "summarise the document" stand on many documents, so an answer is found by question and reference.
"""

from __future__ import annotations

from pathlib import Path

from farspan.evals.documents.base import BenchmarkError, text_field
from farspan.evals.schema import LongSample
from farspan.evals.sources import iter_jsonl

PREDICTION_MARK = "_pred"
RUN_FILE = "predictions.jsonl"


def baseline_file(place: str) -> Path:
    """The file of a baseline: itself, or the predictions of a run's folder.

    Raises
    ------
    BenchmarkError : there is none.
    """
    path = Path(place)
    for found in (path, path / RUN_FILE, path / "l_eval" / RUN_FILE):
        if found.is_file():
            return found
    raise BenchmarkError(f"no baseline at {place}: neither a file of answers nor the folder of a run with {RUN_FILE}")


class Baseline:
    """The answers of a baseline.

    Parameters
    ----------
    place : see `baseline_file`; empty for none

    Raises
    ------
    BenchmarkError : no file, or rows without an answer.
    """

    def __init__(self, place: str) -> None:
        self._by_reference: dict[tuple[str, str], str] = {}
        self._by_question: dict[str, str | None] = {}
        self._by_id: dict[tuple[str, str], str] = {}
        if not place:
            return
        path = baseline_file(place)
        for number, row in enumerate(iter_jsonl(path)):
            key = next((name for name in row if PREDICTION_MARK in name), None)
            if "prediction" in row and "id" in row:
                self._by_id[text_field(row, "dataset"), text_field(row, "id")] = text_field(row, "prediction")
            elif key is not None:
                self._add(text_field(row, "query"), row.get("gt"), text_field(row, key, ""))
            elif number:
                # the first row of a run's file is its settings
                raise BenchmarkError(f"{path}, row {number} has no key with '{PREDICTION_MARK}'")

    def _add(self, question: str, reference: object, answer: str) -> None:
        if reference is not None:
            self._by_reference[question, str(reference)] = answer
        known = self._by_question.get(question, answer)
        # two answers to one question on two documents: which is meant cannot be told from the question alone
        self._by_question[question] = answer if known == answer else None

    def of(self, sample: LongSample) -> str | None:
        """The baseline's answer to a question, None where it has none."""
        if (sample.task, sample.id) in self._by_id:
            return self._by_id[sample.task, sample.id]
        found = self._by_reference.get((sample.question, sample.answers[0]))
        return self._by_question.get(sample.question) if found is None else found
