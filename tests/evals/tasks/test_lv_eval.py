"""LV-Eval: levels out of archives, keywords that gate, both readings of the metric, and the curve over levels."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.evals.documents import BenchmarkError
from farspan.evals.documents.base import CONTEXT
from farspan.evals.metrics.keyword_f1 import keyword_f1, keyword_f1_zh
from farspan.evals.metrics.token_f1 import qa_f1, qa_f1_zh
from farspan.evals.sources import DataFileError
from farspan.evals.tasks.lv_eval import LEVELS, SETS, LVEval, effective_level, score_file, set_of
from tests.evals.tasks.document_rows import TEXT, ZH_TEXT, write_zip

WORDS = st.lists(st.sampled_from(["mill", "river", "Ada", "winter", "the", "of", "and", "burned"]), max_size=8).map(
    " ".join
)


def folder(tmp_path: Path) -> Path:
    for name, made in SETS.items():
        for level in LEVELS[:2]:
            zh = made.language == "zh"
            row = {
                "input": "谁离开了山村？" if zh else "Who built the mill again?",
                "context": ZH_TEXT if zh else TEXT,
                "answers": ["林小雨", "无"] if zh else ["Ada Winter", "nobody"],
                "answer_keywords": "林小雨" if zh else "Ada Winter",
                "confusing_facts": ["x", "y"] if made.confusing else None,
                "length": 16000,
                "all_classes": None,
            }
            write_zip(tmp_path / "Infinigence__LVEval" / f"{name}.zip", f"{name}/{name}_{level}.jsonl", [row] * 2)
    return tmp_path


def test_answers_are_perfect_at_every_level_and_the_curve_is_flat(tmp_path: Path) -> None:
    bench, data = LVEval(), folder(tmp_path)
    scored = []
    for dataset in bench.chosen(["16k", "32k"]):
        for sample in bench.load(dataset, data):
            prompt = bench.prompt(sample, "official")
            assert prompt.user.count(CONTEXT) == 1
            assert sample.question in prompt.user
            scored.append(bench.scored(sample, sample.answers[0], "official"))
    assert len(scored) == 2 * 2 * len(SETS)
    table = bench.table(scored, "official")
    assert table.value("level", "16k") == table.value("level", "32k") == pytest.approx(100.0)
    assert table.value("cmrc_mixup", "32k") == 100.0
    assert any("32k" in note for note in table.notes)


def test_only_the_first_answer_counts_and_lacking_keywords_are_told(tmp_path: Path) -> None:
    bench, data = LVEval(), folder(tmp_path)
    (sample, _) = bench.load(bench.datasets["loogle_CR_mixup_16k"], data)
    assert bench.scored(sample, "nobody", "official").score == 0.0
    bare = sample.model_copy(update={"answer_keywords": None})
    table = bench.table([bench.scored(bare, "Ada Winter", "official")], "official")
    assert any("no keywords" in note for note in table.notes)


@given(WORDS, WORDS, WORDS)
def test_the_gate_only_ever_lowers_a_score(prediction: str, reference: str, keywords: str) -> None:
    gated = keyword_f1(prediction, reference, keywords)
    assert gated in (0.0, qa_f1(prediction, reference))
    assert keyword_f1(prediction, reference, None) == qa_f1(prediction, reference)
    assert keyword_f1_zh(prediction, reference, keywords) <= qa_f1_zh(prediction, reference)


def test_a_first_sentence_scores_by_words_but_not_by_keywords() -> None:
    said = "The mill by the river burned down in 1871."
    reference = "The mill burned down and Ada Winter built it."
    assert qa_f1(said, reference) > 0.3
    assert keyword_f1(said, reference, "Ada Winter") == 0.0
    assert keyword_f1("Ada Winter", reference, "Ada Winter", "paper") > keyword_f1("Ada", "Ben", "Ada Winter", "paper")


def test_names_say_set_and_level() -> None:
    assert set_of("loogle_MIR_mixup_256k") == "loogle_MIR_mixup"
    for wrong in ("cmrc_mixup", "cmrc_mixup_8k", "something_16k"):
        with pytest.raises(BenchmarkError, match=wrong):
            set_of(wrong)
    assert score_file("cmrc_mixup_16k", [], [], []) == {
        "score": None, "metric": "qa_f1_zh_score_with_gold_ans", "per_sample": []
    }  # fmt: skip
    assert len(LVEval().chosen(["cmrc_mixup"])) == len(LEVELS)


def test_the_longest_level_that_holds() -> None:
    assert effective_level({"16k": 40.0, "32k": 36.0, "64k": 20.0, "128k": 39.0}) == "32k"
    assert effective_level({"16k": None}) is None


def test_an_archive_without_the_level_is_named(tmp_path: Path) -> None:
    bench = LVEval()
    write_zip(tmp_path / "cmrc_mixup.zip", "cmrc_mixup_16k.jsonl", [])
    with pytest.raises(DataFileError, match="cmrc_mixup_64k"):
        list(bench.load(bench.datasets["cmrc_mixup_64k"], tmp_path))
