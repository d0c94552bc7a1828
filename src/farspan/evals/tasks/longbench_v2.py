"""LongBench v2: 503 questions with four choices on documents of 8 thousand to 2 million words.

Source: arXiv 2412.15204.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from farspan.evals.documents.base import (
    CONTEXT,
    BenchmarkError,
    Dataset,
    DocumentBenchmark,
    Options,
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
from farspan.evals.retrieval import Ends, Retrieved, best_chunks, chunks, piece_ends
from farspan.evals.schema import LongSample
from farspan.evals.sources import DataFile, iter_json_array, resolve_file

FILE = DataFile(
    "zai-org/LongBench-v2",
    "data.json",
    "2b48e494f2c7a2f0af81aae178e05c7e1dde0fe9",
    sha256="15d61c22d92c96900b3c4948b6aeea218d3214b676a65df48e7b8555604c7fe2",
    size=465_000_000,
    strict=False,
)
LETTERS = "ABCD"
THINKING_TOKENS = 1024
_FORM = 'End with the sentence "The correct answer is (X)", with the letter of the answer for X.'


class LongBenchV2Options(Options):
    """Switches of the retrieval variant.

    chunks : how many chunks of the document are read
    chunk_tokens : tokens of a chunk
    chunk_tokenizer : folder or name of the tokenizer that measures chunks; empty counts words, ideographs and marks
    """

    chunks: int = Field(default=8, ge=1)
    chunk_tokens: int = Field(default=512, ge=1)
    chunk_tokenizer: str = ""


class LongBenchV2(DocumentBenchmark):
    """One set; `cot` asks for reasoning first, `no_context` leaves the document out, `rag` shows parts of it.

    The parts are those that published rows bring with them (`retrieved_context`), which the public file lacks; else
    chunks found by words in common with question and choices.
    """

    name: ClassVar[str] = "longbench_v2"
    title: ClassVar[str] = "LongBench v2"
    truncation: ClassVar[str] = "longbench_v2"
    temperature: ClassVar[float] = 0.1
    datasets: ClassVar[Mapping[str, Dataset]] = {
        "plain": Dataset("plain", FILE, "multiple_choice", "en", "choice", 128),
        "cot": Dataset("cot", FILE, "multiple_choice", "en", "choice", THINKING_TOKENS),
        "no_context": Dataset("no_context", FILE, "multiple_choice", "en", "choice", 128),
        "rag": Dataset("rag", FILE, "multiple_choice", "en", "choice", 128),
    }
    default_datasets: ClassVar[tuple[str, ...]] = ("plain",)

    options_model: ClassVar[type[Options]] = LongBenchV2Options
    options: LongBenchV2Options

    def rows(self, dataset: Dataset, data_dir: str | Path | None) -> Iterator[Mapping[str, object]]:
        return iter_json_array(resolve_file(dataset.file, data_dir))

    def samples(self, dataset: Dataset, rows: Iterator[Mapping[str, object]]) -> Iterator[LongSample]:
        for index, row in enumerate(rows):
            shown, more = self._shown(dataset, row)
            yield sample_of(
                self.name,
                dataset,
                str(row.get("_id") or f"{dataset.name}-{index}"),
                context=shown,
                question=text_field(row, "question"),
                answers=[text_field(row, "answer")],
                choices=[text_field(row, f"choice_{letter}", "") for letter in LETTERS],
                length=len(text_field(row, "context").split()),
                length_level=text_field(row, "length", ""),
                metadata={name: text_field(row, name, "") for name in ("domain", "sub_domain", "difficulty")} | more,
            )

    def _shown(self, dataset: Dataset, row: Mapping[str, object]) -> tuple[str, dict[str, object]]:
        """What of the document a question comes with, and how it was found."""
        if dataset.name == "no_context":
            return "", {}
        context = text_field(row, "context")
        if dataset.name != "rag" or not context:
            return context, {}
        given = row.get("retrieved_context")
        if isinstance(given, list):
            found, source = _published_chunks(given, self.options.chunks), "published"
        else:
            query = " ".join([text_field(row, "question"), *(text_field(row, f"choice_{x}", "") for x in LETTERS)])
            parts = chunks(context, self.options.chunk_tokens, self._ends)
            found, source = best_chunks(query, parts, self.options.chunks), "bm25"
        text = "\n\n".join(f"Part {number}: {part}" for number, part in enumerate(found.texts, 1))
        return text, {"retrieval": source, "chunks_read": len(found.texts), "chunks_in_all": found.total}

    @cached_property
    def _ends(self) -> Ends:
        if not self.options.chunk_tokenizer:
            return piece_ends
        from farspan.evals.documents.asking import load_tokenizer

        tokenizer = load_tokenizer(self.options.chunk_tokenizer)
        if not tokenizer.is_fast:
            raise BenchmarkError(
                f"{self.options.chunk_tokenizer} does not tell where its tokens end; leave chunk_tokenizer out"
            )

        def ends(text: str) -> list[int]:
            found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            return [int(stop) for _, stop in found["offset_mapping"]]

        return ends

    def prompt(self, sample: LongSample, reading: Reading) -> Prompt:
        asked = _asked(sample)
        if sample.task == "cot":
            return Prompt(f"{_document()}\n\n{asked}\n\nThink about it step by step, and do not give the answer yet.")
        if sample.task == "rag":
            parts = "Read these parts of a longer text, found for the question, and answer it."
            return Prompt(f"{parts}\n\n<text>\n{CONTEXT}\n</text>\n\n{asked}\n\n{_FORM}")
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
        size = f"{self.options.chunks} chunks of {self.options.chunk_tokens} tokens"
        labels = {"bm25": f"{size}, by words in common (BM25)", "published": f"{self.options.chunks} published chunks"}
        for source, part in grouped(scored, "retrieval").items():
            table.rows.append(_row("rag", labels[source], part))
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


def _published_chunks(given: Sequence[object], k: int) -> Retrieved:
    """The first `k` chunks of a row, best first as published, in the document's order.

    Raises
    ------
    BenchmarkError : chunks of another form.
    """
    try:
        best = [(int(part["c_idx"]), str(part["content"])) for part in given[:k]]  # type: ignore[index]
    except (KeyError, TypeError, ValueError) as error:
        raise BenchmarkError("retrieved_context is no list of objects with c_idx and content") from error
    best.sort()
    return Retrieved(tuple(text for _, text in best), tuple(index for index, _ in best), len(given))


def _document() -> str:
    return f"Read the text between the marks and answer the question on it.\n\n<text>\n{CONTEXT}\n</text>"


def _asked(sample: LongSample) -> str:
    choices = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, sample.choices or (), strict=False))
    return f"Question: {sample.question}\nChoices:\n{choices}"
