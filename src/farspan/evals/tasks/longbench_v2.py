"""LongBench v2: 503 questions with four choices on documents of 8 thousand to 2 million words.

Source: arXiv 2412.15204.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from farspan.evals.documents.base import (
    CONTEXT,
    Dataset,
    DocumentBenchmark,
    Prompt,
    Reading,
    Row,
    Scored,
    Table,
    grouped,
    mean_percent,
    sample_of,
    text_field,
)
from farspan.evals.metrics.short_answers import extract_choice, extract_choice_v2
from farspan.evals.schema import LongSample
from farspan.evals.sources import DataFile, iter_json_array, resolve_file

FILE = DataFile("zai-org/LongBench-v2", "data.json", size=465_000_000)
LETTERS = "ABCD"
THINKING_TOKENS = 1024
_FORM = 'End with the sentence "The correct answer is (X)", with the letter of the answer for X.'


class LongBenchV2(DocumentBenchmark):
    """One set; `cot` asks for reasoning first, `no_context` leaves the document out."""

    name: ClassVar[str] = "longbench_v2"
    title: ClassVar[str] = "LongBench v2"
    truncation: ClassVar[str] = "longbench_v2"
    temperature: ClassVar[float] = 0.1
    datasets: ClassVar[Mapping[str, Dataset]] = {
        "plain": Dataset("plain", FILE, "multiple_choice", "en", "choice", 128),
        "cot": Dataset("cot", FILE, "multiple_choice", "en", "choice", THINKING_TOKENS),
        "no_context": Dataset("no_context", FILE, "multiple_choice", "en", "choice", 128),
    }
    default_datasets: ClassVar[tuple[str, ...]] = ("plain",)

    def rows(self, dataset: Dataset, data_dir: str | Path | None) -> Iterator[Mapping[str, object]]:
        return iter_json_array(resolve_file(dataset.file, data_dir))

    def samples(self, dataset: Dataset, rows: Iterator[Mapping[str, object]]) -> Iterator[LongSample]:
        for index, row in enumerate(rows):
            context = text_field(row, "context")
            yield sample_of(
                self.name,
                dataset,
                str(row.get("_id") or f"{dataset.name}-{index}"),
                context="" if dataset.name == "no_context" else context,
                question=text_field(row, "question"),
                answers=[text_field(row, "answer")],
                choices=[text_field(row, f"choice_{letter}", "") for letter in LETTERS],
                length=len(context.split()),
                length_level=text_field(row, "length", ""),
                metadata={name: text_field(row, name, "") for name in ("domain", "sub_domain", "difficulty")},
            )

    def prompt(self, sample: LongSample, reading: Reading) -> Prompt:
        asked = _asked(sample)
        if sample.task == "cot":
            return Prompt(f"{_document()}\n\n{asked}\n\nThink about it step by step, and do not give the answer yet.")
        if sample.task == "no_context":
            return Prompt(f"Answer from what you know; the document is left out.\n\n{asked}\n\n{_FORM}")
        return Prompt(f"{_document()}\n\n{asked}\n\n{_FORM}")

    def official_limit(self, window: int) -> int:
        """120,000 tokens for models of 128k, a like share of other windows."""
        return window * 15 // 16

    def followed_by(self, sample: LongSample, prediction: str, reading: Reading) -> Prompt | None:
        if sample.task != "cot":
            return None
        left_out = "The document is left out here; it was read for the reasoning below."
        return Prompt(f"{left_out}\n\n{_asked(sample)}\n\nReasoning:\n{prediction}\n\n{_FORM}")

    def joined(self, sample: LongSample, first: str, second: str) -> str:
        return second

    def figures(self, sample: LongSample, prediction: str, reading: Reading) -> dict[str, float]:
        strict, lenient = extract_choice_v2(prediction), extract_choice(prediction)
        answered = strict if reading == "official" else lenient
        return {
            "score": float(answered == sample.answers[0]),
            "strict": float(strict == sample.answers[0]),
            "answered": float(answered is not None),
        }

    def table(self, scored: Sequence[Scored], reading: Reading) -> Table:
        """Accuracy to one decimal, overall, by difficulty, by length and by domain."""
        table = Table([_row("overall", "overall", scored)])
        for key in ("difficulty", "length_level", "domain"):
            table.rows += [_row(key, name, part) for name, part in sorted(grouped(scored, key).items())]
        unreadable = sum(not one.figures.get("answered", 0.0) for one in scored)
        if unreadable:
            table.notes.append(f"{unreadable} of {len(scored)} answers name no choice and count as wrong")
        return table

    def predictions(self, dataset: Dataset, rows: Iterator[Mapping[str, object]]) -> Iterator[tuple[LongSample, str]]:
        """Rows of the questions with `response` added, as the published script writes them."""
        for sample, row in ((next(self.samples(dataset, iter([{"context": "", **row}]))), row) for row in rows):
            yield sample, text_field(row, "response", "")


def _row(group: str, name: str, scored: Sequence[Scored]) -> Row:
    mean = mean_percent(scored)
    return Row(group, name, None if mean is None else round(mean, 1), len(scored))


def _document() -> str:
    return f"Read the text between the marks and answer the question on it.\n\n<text>\n{CONTEXT}\n</text>"


def _asked(sample: LongSample) -> str:
    choices = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, sample.choices or (), strict=False))
    return f"Question: {sample.question}\nChoices:\n{choices}"
