"""Own levels: one's own questions at several lengths, out of a file that `farspan levels` wrote.

Scored as LV-Eval scores, by keywords first and words in common then; no figure of it is published anywhere.

Source: arXiv 2402.05136, sections 3 and 4.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import ValidationError

from farspan.evals.documents.base import (
    CONTEXT,
    BenchmarkError,
    Dataset,
    DocumentBenchmark,
    Prompt,
    Reading,
    Row,
    Scored,
    Table,
    grouped,
    mean_row,
)
from farspan.evals.metrics.keyword_f1 import keyword_f1, keyword_f1_zh
from farspan.evals.metrics.token_f1 import qa_f1, qa_f1_zh
from farspan.evals.schema import LongSample
from farspan.evals.sources import DATA_VARIABLE, DataFile, MissingDataError, iter_jsonl, resolve_file

FILE_NAME = "levels.jsonl"
TOKENS = 64
EFFECTIVE_SHARE = 0.85
TENTHS = 10


class OwnLevels(DocumentBenchmark):
    """One set, whose levels are those of the file."""

    name: ClassVar[str] = "own_levels"
    title: ClassVar[str] = "Own levels"
    truncation: ClassVar[str] = "lveval"
    datasets: ClassVar[Mapping[str, Dataset]] = {
        "all": Dataset("all", DataFile("own", FILE_NAME), "own", "en", "keyword_f1", TOKENS)
    }

    def rows(self, dataset: Dataset, data_dir: str | Path | None) -> Iterator[Mapping[str, object]]:
        folder = data_dir or os.environ.get(DATA_VARIABLE)
        try:
            path = resolve_file(dataset.file, folder) if folder else None
        except MissingDataError:
            path = None
        if path is None:
            raise BenchmarkError(
                f"own_levels reads {FILE_NAME} in the folder of --data-dir; write it with farspan levels QUESTIONS "
                f"--distractors TEXTS --levels 1k,2k --out DIR/{FILE_NAME}"
            )
        return iter_jsonl(path)

    def samples(self, dataset: Dataset, rows: Iterator[Mapping[str, object]]) -> Iterator[LongSample]:
        for number, row in enumerate(rows, 1):
            try:
                sample = LongSample.model_validate(row)
            except ValidationError as error:
                raise BenchmarkError(f"{FILE_NAME}, row {number} was not written by farspan levels") from error
            metadata = {"length_level": sample.task, **sample.metadata, "task": dataset.name}
            yield sample.model_copy(
                update={
                    "benchmark": self.name,
                    "task": dataset.name,
                    "metadata": metadata,
                    "max_new_tokens": sample.max_new_tokens or TOKENS,
                }
            )

    def prompt(self, sample: LongSample, reading: Reading) -> Prompt:
        if sample.language == "zh":
            task = "请根据下面的文章回答问题。只写答案，不要写理由和依据。"
            return Prompt(f"{task}\n\n文章：{CONTEXT}\n\n{task}\n\n问题：{sample.question}\n回答：")
        task = "Answer the question from the passages. Write the answer and nothing else, neither reasons nor evidence."
        return Prompt(f"{task}\n\nPassages: {CONTEXT}\n\n{task}\n\nQuestion: {sample.question}\nAnswer:")

    def figures(self, sample: LongSample, prediction: str, reading: Reading) -> dict[str, float]:
        """The best over the answers, by keywords and without them."""
        zh = sample.language == "zh"
        gated, plain = (keyword_f1_zh, qa_f1_zh) if zh else (keyword_f1, qa_f1)
        return {
            "score": max(gated(prediction, answer, sample.answer_keywords) for answer in sample.answers),
            "plain": max(plain(prediction, answer) for answer in sample.answers),
        }

    def table(self, scored: Sequence[Scored], reading: Reading) -> Table:
        """Percent by level, shortest first, by depth where a fact walks through a text, and the level that holds."""
        levels = grouped(sorted(scored, key=_length), "length_level")
        table = Table([mean_row("level", name, part) for name, part in levels.items()])
        table.rows += [
            Row("level, words in common alone", name, mean_row("", "", _plain(part)).value, len(part))
            for name, part in levels.items()
        ]
        by_depth: dict[int, list[Scored]] = {}
        for one in scored:
            if one.sample.depth is not None:
                by_depth.setdefault(min(int(one.sample.depth // TENTHS), TENTHS - 1), []).append(one)
        for tenth, part in sorted(by_depth.items()):
            table.rows.append(mean_row("depth", f"{tenth * TENTHS} to {(tenth + 1) * TENTHS} %", part))
        values = [(name, table.value("level", name) or 0.0) for name in levels]
        held = None
        for name, value in values:
            if not values[0][1] or value < EFFECTIVE_SHARE * values[0][1]:
                break
            held = name
        if held is not None and len(values) > 1:
            table.notes.append(
                f"longest level with at least {EFFECTIVE_SHARE:.0%} of the score at {values[0][0]}: {held}"
            )
        return table


def _length(one: Scored) -> int:
    return int(str(one.sample.metadata.get("length") or 0))


def _plain(scored: Sequence[Scored]) -> list[Scored]:
    return [Scored(one.sample, one.prediction, {"score": one.figures.get("plain", 0.0)}) for one in scored]
