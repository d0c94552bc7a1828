"""Document benchmarks under Inspect: a scripted model, official averages, documents out of the log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from inspect_ai import eval as inspect_eval
from inspect_ai.log import EvalLog
from inspect_ai.model import ModelOutput, ModelUsage, get_model

from farspan.evals.documents import BenchmarkError
from farspan.evals.documents.inspect_task import document_inspect_task
from farspan.evals.sources import MissingDataError
from farspan.evals.truncate import TruncationError
from tests.evals.documents.stand_ins import EN, write_longbench, write_v2


def reply(text: str) -> ModelOutput:
    output = ModelOutput.from_content("mockllm/model", text)
    # without a usage of its own the scripted model counts with a vocabulary from the network
    output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    return output


def run(tmp_path: Path, name: str, outputs: list[str], **settings: object) -> EvalLog:
    model = get_model("mockllm/model", custom_outputs=[reply(text) for text in outputs])
    task = document_inspect_task(name, data_dir=str(tmp_path), **settings)  # type: ignore[arg-type]
    (log,) = inspect_eval(task, model=model, log_dir=str(tmp_path / "logs"), display="none", max_samples=1)
    assert log.status == "success", log.error
    return log


def metrics(log: EvalLog) -> dict[str, float]:
    assert log.results is not None
    return {name: float(metric.value) for score in log.results.scores for name, metric in score.metrics.items()}


def test_averages_are_the_published_ones_and_trouble_is_counted(tmp_path: Path) -> None:
    write_longbench(tmp_path)
    log = run(tmp_path, "longbench", ["Ida Brandt", "", "Ida"], datasets="hotpotqa", official=True)
    found = metrics(log)
    assert found["mean"] == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert found["dataset hotpotqa"] == 55.56
    assert found["answers empty"] == 1
    assert found["length 4-8k"] == 0


def test_documents_are_asked_and_not_logged(tmp_path: Path) -> None:
    write_longbench(tmp_path, text=EN * 30)
    log = run(tmp_path, "longbench", ["Ida Brandt"], datasets="qasper", limit_per_set=1)
    assert log.samples is not None
    (sample,) = log.samples
    assert sample.model_dump_json().count(EN.strip()) < 20
    assert f"{len(EN * 30):,}"[:1] in sample.messages[0].text
    assert "sha256" in sample.messages[0].text
    assert sample.metadata["prediction"] == "Ida Brandt"


def test_reasoning_is_followed_by_a_question_for_the_choice(tmp_path: Path) -> None:
    write_v2(tmp_path)
    outputs = ["I think of Ida.", "The correct answer is (A)"] * 3
    log = run(tmp_path, "longbench_v2", outputs, datasets="cot")
    assert metrics(log)["overall overall"] == 66.7
    assert log.samples is not None
    assert log.samples[0].metadata["answers"] == ["I think of Ida.", "The correct answer is (A)"]


def test_missing_files_say_what_to_download(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"data\.zip.*zai-org/LongBench.*--data-dir"):
        document_inspect_task("longbench", data_dir=str(tmp_path))


def test_what_does_not_fit_is_not_asked_and_not_scored(tmp_path: Path) -> None:
    write_longbench(tmp_path, text=EN * 60)
    settings = {"datasets": "qasper", "window": 400, "tokenizer": "reference"}
    log = run(tmp_path, "longbench", [], truncate=False, **settings)
    assert log.samples is not None
    assert all(sample.metadata["skipped"] and not sample.scores for sample in log.samples)
    cut = run(tmp_path, "longbench", ["Ida Brandt"] * 3, **settings)
    assert cut.samples is not None
    assert all(sample.metadata["cut"]["truncated"] for sample in cut.samples)
    assert metrics(cut)["dataset qasper"] == 100.0


def test_a_window_needs_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="needs a tokenizer"):
        document_inspect_task("longbench", data_dir=str(tmp_path), window=100)


def test_several_answers_a_question_are_all_in_the_log(tmp_path: Path) -> None:
    write_longbench(tmp_path)
    log = run(tmp_path, "longbench", ["Ida Brandt", "nobody"], datasets="qasper", limit_per_set=1, runs=2)
    assert log.samples is not None
    assert sorted(sample.metadata["prediction"] for sample in log.samples) == ["Ida Brandt", "nobody"]


def test_the_registry_names_every_benchmark_and_loads_no_model_library() -> None:
    code = (
        "import sys, farspan._registry as r; from farspan.evals.tasks import DOCUMENTS; "
        "assert set(r.documents) == set(DOCUMENTS); assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_judge_scores_beside_the_rules_and_its_failures_are_counted(tmp_path: Path) -> None:
    rows = [
        {"id": i, "context": f"Ada built mill {i}.", "question": "Who?", "answer": "Ada", "type": "computation"}
        for i in range(3)
    ]
    (tmp_path / "longdep_qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    judge = get_model("mockllm/model", custom_outputs=[reply("True"), reply("perhaps"), reply("False")], memoize=False)

    def judged(official: bool) -> tuple[dict[str, float], int | None]:
        task = document_inspect_task(
            "loogle", data_dir=str(tmp_path), datasets="longdep_qa", judge=True, official=official
        )
        (log,) = inspect_eval(
            task,
            model=get_model("mockllm/model", custom_outputs=[reply("Ada")] * 3, memoize=False),
            model_roles={"judge": judge},
            log_dir=str(tmp_path / "logs"),
            display="none",
            max_samples=1,
        )
        assert log.status == "success", log.error
        assert log.results is not None
        (score,) = [score for score in log.results.scores if score.name == "document_judge"]
        return {name: float(metric.value) for name, metric in score.metrics.items()}, score.unscored_samples

    found, unscored = judged(official=False)
    assert (found["mean"], found["judge_unreadable"], unscored) == (pytest.approx(1 / 3), 1, 0)
    judge = get_model("mockllm/model", custom_outputs=[reply("True"), reply("perhaps"), reply("False")], memoize=False)
    found, unscored = judged(official=True)
    assert (found["mean"], unscored) == (0.5, 1)


def test_what_cannot_be_judged_or_answered_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="none of these sets is for a judge"):
        document_inspect_task("loogle", data_dir=str(tmp_path), datasets="shortdep_cloze", judge=True)
    with pytest.raises(TruncationError, match="window= under Inspect"):
        document_inspect_task(
            "longbench", data_dir=str(tmp_path), datasets="gov_report", window=512, tokenizer="reference"
        )
