"""LongBench Pro: sets out of one array, every metric perfect on the answers, averages over runs and labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from farspan.evals.documents import BenchmarkError, benchmark
from farspan.evals.documents.base import CONTEXT
from farspan.evals.sources import DataFileError
from farspan.evals.tasks.longbench_pro import SECONDARY_TASKS, SUMMARY, LongBenchPro, aggregate, summary_score
from tests.evals.tasks.document_rows import TEXT


def row(number: int, secondary: str, *, length: str = "8k", language: str = "English") -> dict[str, object]:
    made = SECONDARY_TASKS[secondary]
    return {
        "id": f"q{number}",
        "context": TEXT,
        "language": language,
        "token_length": length,
        "primary_task": made.primary,
        "secondary_task": secondary,
        "contextual_requirement": made.requirement,
        "question_nonthinking": "Which? Write [Answer] and one item a line.",
        "question_thinking": "Think, then write [Answer] and one item a line.",
        "answer": ["Doc 1", "Doc 2", "Doc 3"],
        "difficulty": "Easy",
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [row(i, name) for i, name in enumerate(SECONDARY_TASKS)]
    rows += [row(90, "T3.2 Single-Hop Fact QA", length="16k", language="Chinese")]
    (tmp_path / "longbench_pro.json").write_text(json.dumps(rows), encoding="utf-8")
    return tmp_path


def test_sets_are_cut_out_of_one_array(data: Path) -> None:
    bench = benchmark("longbench_pro", checked=False)
    sizes = {dataset.name: len(list(bench.load(dataset, data))) for dataset in bench.chosen(["8k", "16k"])}
    assert sizes == {"8k-en": 25, "8k-zh": 0, "16k-en": 0, "16k-zh": 1}
    assert len(SECONDARY_TASKS) == 25
    with pytest.raises(DataFileError, match="sha256"):
        list(LongBenchPro().load(bench.datasets["8k-en"], data))
    with pytest.raises(BenchmarkError, match="no set '9k'"):
        bench.chosen(["9k"])


def test_the_answers_are_perfect_and_the_question_says_how_to_answer(data: Path) -> None:
    bench = benchmark("longbench_pro", checked=False, thinking=True)
    scored = []
    for sample in bench.load(bench.datasets["8k-en"], data):
        prompt = bench.prompt(sample, "official").user
        assert prompt.startswith(CONTEXT)
        assert prompt.endswith(sample.question)
        assert sample.question.startswith("Think")
        tag = "" if SECONDARY_TASKS[str(sample.metadata["secondary_task"])].metric == SUMMARY else "[Answer]\n"
        said = sample.answers[0] if not tag else tag + "\n".join(sample.answers)
        scored += [bench.scored(sample, said, "official", run=run) for run in (1, 2)]
    table = bench.table(scored, "official")
    assert table.value("overall", "mean") == pytest.approx(100.0)
    assert table.value("runs", "pass@2") == pytest.approx(100.0)
    assert table.value("contextual_requirement", "Full") == pytest.approx(100.0)
    assert any("summary_rouge_only" in note for note in table.notes)


def test_the_fixed_reading_drops_markers_and_keeps_the_official_score_beside(data: Path) -> None:
    bench = benchmark("longbench_pro", checked=False)
    sample = next(s for s in bench.load(bench.datasets["8k-en"], data) if "T5.1" in str(s.metadata["secondary_task"]))
    figures = bench.figures(sample, "[Answer]\n1. Doc 1\n\n2. Doc 2\n3. Doc 3", "fixed")
    assert (figures["score"], figures["official"]) == (1.0, 0.0)


def test_vectors_count_for_half_of_a_summary() -> None:
    def embed(texts: list[str]) -> np.ndarray:
        return np.array([[1.0, 0.0] if "mill" in text else [0.0, 1.0] for text in texts])

    same = summary_score(["the mill burned"], "The mill burned", zh=False, embed=embed)
    assert same.score == pytest.approx(1.0)
    assert summary_score(["the mill burned"], "a river flowed", zh=False, embed=embed).score == 0.0
    assert not summary_score(["x"], "", zh=False, embed=embed).success
    with pytest.raises(BenchmarkError, match=r"sentence-transformers|embedder"):
        benchmark("longbench_pro", embedder="no/such-model")


def test_averages_take_runs_before_questions() -> None:
    base = {"token_length": "8k", "contextual_requirement": "Full", "difficulty": "Easy", "language": "English"}
    rows = [
        {**base, "id": name, "primary_task": "T3. x", "bon_idx": run, "metric": value}
        for name, values in {"a": (1.0, 0.0), "b": (0.5, 0.5)}.items()
        for run, value in enumerate(values, 1)
    ]
    found = aggregate(rows, 2)
    assert found["average_overall_metric"] == 0.5
    assert (found["BoN-1"], found["BoN-2"], found["pass@1"], found["inconsistent"]) == (0.75, 0.75, 0.5, 0)
    assert aggregate(rows[:3], 2)["inconsistent"] == 1
    assert aggregate([], 1)["average_overall_metric"] is None


def test_predictions_made_elsewhere_are_read() -> None:
    bench = benchmark("longbench_pro", checked=False)
    made = {**row(1, "T3.2 Single-Hop Fact QA"), "prediction": "[Answer]\nDoc 1"}
    ((sample, said),) = bench.predictions(bench.datasets["8k-en"], iter([made]))
    assert bench.scored(sample, said, "official").score == 1.0
