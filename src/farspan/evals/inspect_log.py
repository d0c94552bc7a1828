"""An evaluation as Inspect logs, one a task, so that `inspect view` opens what was asked and answered."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalLog,
    EvalMetric,
    EvalPlan,
    EvalResults,
    EvalSample,
    EvalScore,
    EvalSpec,
    EvalStats,
    write_eval_log,
)
from inspect_ai.model import ModelOutput, ModelUsage
from inspect_ai.scorer import Score

from farspan.evals.evaluation import Evaluation, TaskResult


def write_inspect_log(evaluation: Evaluation, folder: Path, label: str) -> list[Path]:
    """Write one `.eval` file a task; earlier files of the same label are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for task in evaluation.tasks:
        path = folder / f"{label}-{task.name}.eval"
        path.unlink(missing_ok=True)
        write_eval_log(_log(evaluation, task, label), str(path))
        paths.append(path)
    return paths


def _log(evaluation: Evaluation, task: TaskResult, label: str) -> EvalLog:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    model = f"farspan/{evaluation.model}"
    samples = [
        EvalSample(
            id=f"{answer.id}/{answer.length}",
            epoch=1,
            input=f"{answer.preview} […] {answer.question}",
            target=list(answer.expected),
            output=ModelOutput.from_content(model, answer.output),
            scores={"score": Score(value=answer.score, answer=answer.output)},
            metadata={"length": answer.length, "depth": answer.depth, "task": task.name, "cluster": answer.cluster},
            model_usage={
                model: ModelUsage(
                    input_tokens=answer.input_tokens,
                    output_tokens=answer.output_tokens,
                    total_tokens=answer.input_tokens + answer.output_tokens,
                )
            },
        )
        for answer in task.answers
    ]
    metrics = {str(cell.length): EvalMetric(name=str(cell.length), value=cell.mean) for cell in task.by_length()}
    metrics["effective_length"] = EvalMetric(name="effective_length", value=task.effective.value)
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=now,
            task=f"farspan/{task.name}",
            dataset=EvalDataset(name=task.name, samples=len(samples)),
            model=model,
            config=EvalConfig(),
            metadata={"recipe": evaluation.recipe, "seed": evaluation.seed, "run": label},
        ),
        plan=EvalPlan(),
        results=EvalResults(
            total_samples=len(samples),
            completed_samples=len(samples),
            scores=[EvalScore(name="score", scorer="score", metrics=metrics)],
        ),
        stats=EvalStats(started_at=now, completed_at=now),
        samples=samples,
    )
