"""LongBench v2 by retrieval: parts of the document, found by words or brought by the row, in the document's order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from farspan.evals.documents import BenchmarkError, benchmark
from farspan.evals.documents.asking import Fitter
from farspan.evals.documents.run import run_documents
from farspan.evals.schema import LongSample
from tests.evals.documents.stand_ins import ScriptedVoice, gold, v2_rows, write_v2

FILLER = "The harbour of that town is old and nothing of note happens in it on most days. "


def rag(row: Mapping[str, object], **options: object) -> LongSample:
    made = benchmark("longbench_v2", **options)
    (sample,) = made.samples(made.datasets["rag"], iter([row]))
    return sample


def test_the_part_with_the_answer_is_read_and_most_is_not() -> None:
    row = {**v2_rows()[0], "context": FILLER * 60 + "It is Ida who sails the ferry at night. " + FILLER * 60}
    sample = rag(row, chunks=2, chunk_tokens=20)
    assert "Ida who sails" in sample.text
    assert len(sample.text) < 400
    assert sample.metadata["retrieval"] == "bm25"
    assert sample.metadata["chunks_read"] == 2
    assert int(str(sample.metadata["chunks_in_all"])) > 90
    assert sample.metadata["length"] == len(str(row["context"]).split())


def test_chunks_of_the_row_are_the_best_ones_in_the_order_of_the_text() -> None:
    given = [{"c_idx": index, "content": f"chunk {index}"} for index in (7, 2, 9, 1)]
    sample = rag({**v2_rows()[0], "retrieved_context": given}, chunks=3)
    assert sample.text == "Part 1: chunk 2\n\nPart 2: chunk 7\n\nPart 3: chunk 9"
    assert (sample.metadata["retrieval"], sample.metadata["chunks_in_all"]) == ("published", 4)
    with pytest.raises(BenchmarkError, match="c_idx"):
        rag({**v2_rows()[0], "retrieved_context": ["text"]})


def test_chunks_can_be_measured_with_a_tokenizer() -> None:
    row = {**v2_rows()[0], "context": FILLER * 20}
    by_model = rag(row, chunks=1, chunk_tokens=16, chunk_tokenizer="reference").text.removeprefix("Part 1: ")
    assert by_model in FILLER * 20
    assert 4 < len(by_model) < 200
    with pytest.raises(BenchmarkError, match="chunks"):
        benchmark("longbench_v2", chunks=0)


def test_the_table_says_what_was_read(tmp_path: Path) -> None:
    write_v2(tmp_path)
    made, voice = benchmark("longbench_v2", chunks=2, chunk_tokens=8), ScriptedVoice(gold)
    found = run_documents(Fitter(made, "fixed"), voice, made.chosen(["rag"]), data_dir=tmp_path)
    assert found.table.value("rag", "2 chunks of 8 tokens, by words in common (BM25)") == 100.0
    assert all("Part 1: " in asked.user for asked in voice.heard)
    assert all(asked.user.count("<text>") == 1 for asked in voice.heard)
