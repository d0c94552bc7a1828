"""CNNSum: both spellings of the files, both orders of the prompt, repetition that the official score misses."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.evals.documents import benchmark
from farspan.evals.documents.base import CONTEXT
from farspan.evals.metrics.rouge import rouge_lcs_zh
from farspan.evals.sources import DataFileError
from farspan.evals.tasks.cnnsum import CUE, CNNSum, abnormal_report, first_summary, rouge_zh_score
from tests.evals.tasks.document_rows import ZH_TEXT, write_jsonl

SUMMARY = "林小雨离开山村去城市，经历挫折，最后回到家乡办学。"


def rows() -> list[dict[str, object]]:
    return [{"context": ZH_TEXT + str(i), "summary": SUMMARY, "book": "b"} for i in range(3)]


@pytest.mark.parametrize("name", ["cnnsum_XXL_64k.jsonl", "cnnsum_2XL_64k.jsonl"])
def test_both_spellings_of_the_files_are_read(name: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / name, rows())
    bench = benchmark("cnnsum", checked=False)
    (first, *_) = bench.load(bench.datasets["2XL-IE"], tmp_path)
    assert (first.id, first.metadata["raw"], first.metadata["length_unit"]) == ("2XL-0", {"book": "b"}, "chars")
    with pytest.raises(DataFileError, match="sha256"):
        list(CNNSum().load(bench.datasets["2XL-IE"], tmp_path))


def test_both_orders_ask_once_and_end_with_the_cue(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "cnnsum_L_16k.jsonl", rows())
    bench = benchmark("cnnsum", checked=False)
    scored = []
    for dataset in bench.chosen(["L"]):
        for sample in bench.load(dataset, tmp_path):
            for reading in ("official", "fixed"):
                prompt = bench.prompt(sample, reading)
                assert prompt.user.count(CONTEXT) == 1
                assert prompt.user.endswith(CUE)
                assert prompt.chat == (reading == "fixed")
            scored.append(bench.scored(sample, SUMMARY if sample.metadata["order"] == "IE" else "", "official"))
    table = bench.table(scored, "official")
    assert table.value("L", "IE") == pytest.approx(99.9999995, abs=1e-4)
    assert table.value("L", "IB") == 0.0
    assert table.value("subset", "L, IE minus IB") == pytest.approx(100.0, abs=1e-4)
    assert table.value("subset", "L") == pytest.approx(50.0, abs=1e-4)


@given(st.text(alphabet="林小雨离开山村去城市，。.", max_size=40))
def test_scores_stay_below_1_and_repeating_never_costs(prediction: str) -> None:
    score = rouge_zh_score(prediction, SUMMARY)
    assert 0.0 <= score < 1.0


def test_repetition_costs_by_the_true_subsequence_alone() -> None:
    looped = SUMMARY * 8
    assert rouge_zh_score(looped, SUMMARY) >= rouge_zh_score(SUMMARY, SUMMARY) - 0.1
    assert rouge_lcs_zh(looped, SUMMARY) < 0.5 * rouge_lcs_zh(SUMMARY, SUMMARY)
    found = abnormal_report(looped)
    assert found["loop"] == 1.0
    assert abnormal_report("The novel tells of a captain who sails.")["other_language"] == 1.0
    assert abnormal_report("", ZH_TEXT)["empty"] == 1.0
    assert abnormal_report(ZH_TEXT[:60], ZH_TEXT)["copied"] == 1.0
    assert abnormal_report(SUMMARY[::-1], ZH_TEXT)["copied"] == 0.0


def test_an_empty_reference_fails_and_is_counted(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "cnnsum_L_16k.jsonl", [{"context": ZH_TEXT, "summary": ""}])
    bench = benchmark("cnnsum", checked=False)
    (sample,) = bench.load(bench.datasets["L-IE"], tmp_path)
    assert bench.scored(sample, SUMMARY, "fixed").problems == ("metric_error: ValueError",)


def test_the_fixed_reading_ends_where_another_summary_begins(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "cnnsum_L_16k.jsonl", rows())
    bench = benchmark("cnnsum", checked=False)
    sample = next(bench.load(bench.datasets["L-IE"], tmp_path))
    said = f"{CUE}{SUMMARY}\n\n下面是另一部小说的节选。他们走了很远的路。{CUE}别的摘要。"
    official, fixed = (bench.figures(sample, said, reading)["length"] for reading in ("official", "fixed"))
    assert fixed < official
    assert first_summary(f"{CUE}{SUMMARY}{CUE}x") == first_summary(SUMMARY) == SUMMARY
    assert first_summary(CUE) == first_summary("") == ""


def test_continuing_a_story_and_copying_it_are_told() -> None:
    assert abnormal_report("“走吧。”他说。“好。”")["dialogue"] == pytest.approx(4 / 12)
    assert abnormal_report(SUMMARY)["dialogue"] == 0.0


@pytest.mark.timing
def test_long_summaries_are_scored_quickly() -> None:
    long = "".join(f"第{i}章林小雨在第{i * 7 % 97}天离开山村。" for i in range(60))
    start = time.perf_counter()
    for _ in range(20):
        rouge_zh_score(long, long[::-1])
    assert time.perf_counter() - start < 2
