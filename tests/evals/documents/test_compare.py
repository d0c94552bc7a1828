"""Two runs compared answer by answer: constant gains are seen, equal runs are not told apart."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from farspan.evals.documents import BenchmarkError, Scored, benchmark, sample_of
from farspan.evals.documents.asking import Fitter
from farspan.evals.documents.compare import compared, kept_run
from farspan.evals.documents.run import run_documents
from farspan.evals.documents.score import score_files
from tests.evals.documents.stand_ins import ScriptedVoice, gold, write_longbench, write_predictions


def scored(values: list[float], per_document: int = 1) -> list[Scored]:
    dataset = benchmark("cnnsum").datasets["L-IE"]
    return [
        Scored(
            sample_of("cnnsum", dataset, f"L-{i}", context=f"text {i // per_document}", question="", answers=["x"]),
            "",
            {"score": value},
        )
        for i, value in enumerate(values)
    ]


def test_a_constant_gain_is_clear_and_equal_models_are_not() -> None:
    rng = random.Random(0)
    before = [rng.random() * 0.5 for _ in range(60)]
    (gain,) = compared(scored([value + 0.02 for value in before]), scored(before))
    assert gain.clear
    assert gain.mean == pytest.approx(2.0)
    assert gain.lo == pytest.approx(2.0)
    (same,) = compared(scored(before), scored(before))
    assert not same.clear
    assert "does not exclude 0" in str(same)
    (noise,) = compared(scored([value + rng.gauss(0, 0.1) for value in before]), scored(before))
    assert noise.lo < 0 < noise.hi


def test_questions_on_one_document_are_one_draw() -> None:
    rng = random.Random(1)
    after = [value for _ in range(12) for value in [rng.choice([-0.3, 0.4])] * 5]
    (alone,), (together,) = (compared(scored(after, n), scored([0.0] * 60, n)) for n in (1, 5))
    assert together.documents == 12
    assert together.hi - together.lo > 1.5 * (alone.hi - alone.lo)
    (single,) = compared(scored([0.5, 0.6], 2), scored([0.5, 0.5], 2))
    assert not single.clear
    assert "no interval" in str(single)


def test_runs_without_a_common_answer_are_refused() -> None:
    with pytest.raises(BenchmarkError, match="no answer to the same question"):
        compared(scored([1.0]), [])


def test_an_earlier_run_is_read_and_compared(tmp_path: Path) -> None:
    write_longbench(tmp_path)
    made, fitter = benchmark("longbench"), Fitter(benchmark("longbench"), "fixed")
    datasets = made.chosen(["qasper", "hotpotqa"])
    before = ScriptedVoice(lambda asked: "no")
    run_documents(fitter, before, datasets, data_dir=tmp_path, out=tmp_path / "old" / "longbench", limit=2)
    after = run_documents(fitter, ScriptedVoice(gold), datasets, data_dir=tmp_path)
    old = kept_run(made, "fixed", datasets, tmp_path / "old", data_dir=tmp_path)
    found = compared(after.scored, old.scored)
    assert [(one.name, one.mean, one.n) for one in found] == [
        ("qasper", 100.0, 2),
        ("hotpotqa", 100.0, 2),
        ("all sets", 100.0, 4),
    ]
    with pytest.raises(BenchmarkError, match="no folder of a run of loogle"):
        kept_run(benchmark("loogle"), "fixed", [], tmp_path / "old" / "longbench")
    with pytest.raises(BenchmarkError, match="no folder of a run"):
        kept_run(made, "fixed", datasets, tmp_path / "nowhere")


def test_rows_without_ids_are_questions_of_their_own(tmp_path: Path) -> None:
    rows = [{"pred": text, "answer": "山村的故事"} for text in ("山村的故事", "别的", "山村的故事")]
    found = score_files(benchmark("cnnsum"), write_predictions(tmp_path, {"L-IE": rows}))
    assert len({one.sample.id for one in found.scored}) == 3
    row = next(row for row in found.table.rows if (row.group, row.name) == ("L", "IE"))
    assert row.stderr is not None
    assert row.stderr > 0
