"""Predictions that were made elsewhere: scored as the published code does, trouble counted, nothing crashes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.evals.documents import BenchmarkError, Scored, benchmark
from farspan.evals.documents.published import published_scores
from farspan.evals.documents.score import score_files
from farspan.evals.sources import DataFileError
from farspan.evals.tasks.longbench import aggregate
from tests.evals.documents.stand_ins import ANSWERS, CLASSES, write_predictions

GOLDEN = Path(__file__).parents[2] / "golden" / "longbench.json"


def row(pred: str, answers: list[str], length: int = 100, classes: list[str] | None = None) -> dict[str, object]:
    return {"pred": pred, "answers": answers, "all_classes": classes, "length": length}


def test_whole_files_reproduce_the_published_aggregate(tmp_path: Path) -> None:
    cases = [case for case in json.loads(GOLDEN.read_text())["cases"] if case.get("function") == "score_dataset"]
    files = {
        case["input"]["dataset"]: [
            row(pred, answers, classes=case["input"]["all_classes"])
            for pred, answers in zip(case["input"]["predictions"], case["input"]["answers"], strict=True)
        ]
        for case in cases
    }
    found = score_files(benchmark("longbench"), write_predictions(tmp_path / "pred", files))
    for case in cases:
        assert found.table.value("dataset", case["input"]["dataset"]) == pytest.approx(case["expected"], abs=1e-12)


def test_averages_of_published_rows() -> None:
    published = published_scores("longbench")
    assert published is not None
    longbench = benchmark("longbench")
    checked = 0
    for model, groups in published.scores.items():
        scored = []
        for name, value in groups.get("dataset", {}).items():
            ((sample, _),) = longbench.predictions(longbench.datasets[name], iter([row("", ["x"])]))
            scored.append(Scored(sample, "", {"score": value / 100}))
        if len(scored) < 21:
            continue
        table = aggregate(scored)
        assert table.value("overall", "EN") == pytest.approx(groups["overall"]["EN"], abs=0.11), model
        assert table.value("overall", "ZH") == pytest.approx(groups["overall"]["ZH"], abs=0.11), model
        checked += 1
    assert checked == 5


def test_empty_buckets_are_none(tmp_path: Path) -> None:
    folder = write_predictions(tmp_path, {"qasper_e": [row("x", ["x"], 3999), row("y", ["x"], 8000)]})
    table = score_files(benchmark("longbench"), folder).table
    assert [table.value("qasper_e", level) for level in ("0-4k", "4-8k", "8k+")] == [100.0, None, 0.0]


def test_second_version_from_one_file(tmp_path: Path) -> None:
    rows = [
        {"_id": str(index), "difficulty": "easy", "length": "short", "answer": "A", "question": "?", "response": text}
        for index, text in enumerate(["The correct answer is (A)", "the correct answer is: (a)", "", "The correct"])
    ]
    file = write_predictions(tmp_path, {"model": rows}) / "model.jsonl"
    official = score_files(benchmark("longbench_v2"), file, dataset="plain")
    assert official.table.value("overall", "overall") == 25.0
    fixed = score_files(benchmark("longbench_v2"), file, "fixed", dataset="plain")
    assert fixed.table.value("overall", "overall") == 50.0
    assert fixed.record()["problems"] == {"empty": 1}


ODD = {
    "empty": ["", "   ", "\n\n\n"],
    "huge": ["word " * 30_000, "好" * 30_000],
    "control_characters": ["\x00\x07 text", "a\ufffdb", "\ud800 half of a pair"],
    "wrong_script": ["это ответ на другом языке, он длинный"],
    "half_json": ['{"answer": "Ida', '[{"a": 1}, ', "[[[[[" * 50],
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("metric", ANSWERS)
def test_odd_predictions_are_scored_without_a_crash_and_counted(kind: str, metric: str) -> None:
    longbench = benchmark("longbench")
    dataset = next(one for one in longbench.datasets.values() if one.metric == metric)
    for text in ODD[kind]:
        rows = iter([row(text, [ANSWERS[metric]], classes=CLASSES)])
        ((sample, prediction),) = longbench.predictions(dataset, rows)
        one = longbench.scored(sample, prediction, "official")
        assert 0 <= one.score <= 0.5
        if kind != "wrong_script" or dataset.language != "code":
            assert kind in one.problems


@settings(deadline=None, max_examples=60)
@given(text=st.text(max_size=300), metric=st.sampled_from(sorted(ANSWERS)))
def test_any_text_has_a_score(text: str, metric: str) -> None:
    longbench = benchmark("longbench")
    dataset = next(one for one in longbench.datasets.values() if one.metric == metric)
    ((sample, prediction),) = longbench.predictions(dataset, iter([row(text, [ANSWERS[metric]], classes=CLASSES)]))
    one = longbench.scored(sample, prediction, "official")
    assert 0 <= one.score <= 1
    assert not any(problem.startswith("metric_error") for problem in one.problems)


def test_a_metric_that_fails_is_counted() -> None:
    longbench = benchmark("longbench")
    rows = iter([row("Paragraph 3", ["no number"]), row("x", [])])
    dataset = longbench.datasets["passage_retrieval_en"]
    first, second = (
        longbench.scored(sample, text, "official") for sample, text in longbench.predictions(dataset, rows)
    )
    assert first.score == second.score == 0
    assert first.problems == second.problems == ("metric_error: ValueError",)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("", DataFileError, "empty"),
        ("{not json\n", DataFileError, "line 1 is no JSON"),
        ("[1, 2]", DataFileError, "no object"),
        ('{"pred": "half', DataFileError, "no JSON"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: str, error: type[Exception], message: str) -> None:
    (tmp_path / "trec.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(error, match=message):
        score_files(benchmark("longbench"), tmp_path)


def test_names_are_close_or_listed(tmp_path: Path) -> None:
    (tmp_path / "hotpot.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(BenchmarkError, match="named by sets"):
        score_files(benchmark("longbench"), tmp_path)
    with pytest.raises(BenchmarkError, match="did you mean hotpotqa"):
        score_files(benchmark("longbench"), tmp_path / "hotpot.jsonl")
    with pytest.raises(BenchmarkError, match="did you mean longbench"):
        benchmark("longbnch")
    with pytest.raises(BenchmarkError, match="no file or folder"):
        score_files(benchmark("longbench"), tmp_path / "nowhere")


def test_scores_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = [row(text, ["Ida Brandt"]) for text in ("Ida", "Brandt Ida", "no", "Ida Brandt sails")]
    folder = write_predictions(tmp_path / "a", {"qasper": rows})
    random.Random(0).shuffle(rows)
    other = write_predictions(tmp_path / "b", {"qasper": rows})
    tables = [score_files(benchmark("longbench"), place).table.value("overall", "EN") for place in (folder, other)]
    assert tables[0] == tables[1]
