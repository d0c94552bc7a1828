"""What a tune run hands over: recipe, checkpoint, Inspect logs, record and report.

It turns what the tuner found into files; it measures nothing.
"""

from __future__ import annotations

import platform
import shutil
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import psutil
import torch
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from farspan import __version__
from farspan.errors import FarspanError
from farspan.evals.evaluation import TaskResult
from farspan.evals.inspect_log import write_inspect_log
from farspan.models import load
from farspan.profiling import Profile
from farspan.recipe import Recipe, lever_class
from farspan.report import build_report
from farspan.report.record import (
    AblationRow,
    Cell,
    Effective,
    LossPoint,
    Measurement,
    ModelInfo,
    ProfileRow,
    RunRecord,
    TaskMeasure,
    TrialRecord,
    WinnerInfo,
)
from farspan.tuning import judge
from farspan.tuning.folder import Measured, Trial
from farspan.tuning.outcome import Ablated, Outcome, in_words

PACKAGES = ("torch", "transformers", "tokenizers", "inspect-ai", "optuna", "numpy")
PERSPECTIVES = {
    "positions": "Architecture",
    "attention": "Architecture",
    "cache": "Architecture",
    "weights": "Training",
}
FIT_NOTE = (
    "The fine-tune read text of the standard library and the training split of the generated tasks; the samples that "
    "judge are from another split. It was trained on the form of the headline task, so read the other tasks beside it."
)


def deliver(
    outcome: Outcome,
    recipe: Recipe | None,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    *,
    name: str,
    command: str,
    native_length: int,
    target_length: int,
    seed: int,
    threshold: float,
    budget_seconds: float,
    seconds_used: float,
) -> RunRecord:
    """Write recipe, checkpoint, logs, `run.json`, tables and `report.html`; returns the record."""
    winner = None
    commands = [command]
    if recipe is not None and outcome.winner is not None:
        winner = _hand_over(outcome.winner, recipe, name, out)
        grid = ",".join(map(str, outcome.lengths))
        commands.append(
            f"farspan eval core --model {name} --recipe {out / 'recipe.yaml'} --lengths {grid} --seed {seed}"
        )
        if winner.baked:
            commands.append(f"farspan eval core --model {out / 'checkpoint'} --lengths {grid} --seed {seed}")
    write_inspect_log(outcome.baseline.evaluation, out / "logs", "baseline")
    if outcome.best is not None:
        write_inspect_log(outcome.best.evaluation, out / "logs", "best")
    config = model.config.get_text_config()
    record = RunRecord(
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        farspan_version=__version__,
        versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        machine={
            "processor": platform.processor() or platform.machine(),
            "cores": psutil.cpu_count(logical=True),
            "threads": torch.get_num_threads(),
            "memory_bytes": psutil.virtual_memory().total,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
            "system": f"{platform.system()} {platform.release()}",
        },
        seed=seed,
        command=command,
        model=ModelInfo(
            name=name,
            architecture=type(model).__name__,
            parameters=model.num_parameters(),
            native_length=native_length,
            dtype=str(model.dtype).removeprefix("torch."),
            tokenizer=f"{type(tokenizer).__name__}, {len(tokenizer):,} tokens, type {config.model_type}",
        ),
        target_length=target_length,
        budget_seconds=budget_seconds,
        seconds_used=seconds_used,
        tasks=[task.name for task in outcome.baseline.evaluation.tasks],
        headline_task=outcome.baseline.evaluation.headline.name,
        lengths=outcome.lengths,
        threshold=threshold,
        baseline=_measurement(outcome.baseline),
        best=_measurement(outcome.best) if outcome.best is not None else None,
        winner=winner,
        verdict=verdict(outcome, name, native_length),
        trials=[_baseline_trial(outcome), *(trial.record for trial in outcome.trials)],
        ablation=_ablation(outcome),
        notes=_notes(outcome),
        commands=commands,
    )
    record.save(out)
    build_report(record, out)
    return record


def _hand_over(winner: Trial, recipe: Recipe, name: str, out: Path) -> WinnerInfo:
    path = recipe.to_yaml(out / "recipe.yaml")
    checkpoint = out / "checkpoint"
    baked, why = True, ""
    try:
        fresh, tokenizer = load(name)
        recipe.bake(fresh)
        shutil.rmtree(checkpoint, ignore_errors=True)
        fresh.save_pretrained(checkpoint)
        tokenizer.model_max_length = int(fresh.config.get_text_config().max_position_embeddings)
        tokenizer.save_pretrained(checkpoint)
    except FarspanError as error:
        baked, why = False, f"; no checkpoint: {error}"
    return WinnerInfo(
        recipe_yaml=yaml.safe_dump(yaml.safe_load(path.read_text()), sort_keys=False),
        recipe=winner.record.recipe,
        trial=winner.record.number,
        baked=baked,
        checkpoint="checkpoint" if baked else None,
        reason=winner.record.reason + why,
    )


def verdict(outcome: Outcome, name: str, native_length: int) -> str:
    """The run's result in one sentence."""
    before = outcome.baseline.evaluation.headline
    reads = in_words(before.effective.value, before.effective.censoring, outcome.lengths)
    if outcome.winner is None or outcome.winner.result is None:
        tried = sum(trial.record.state == "complete" for trial in outcome.trials)
        return (
            f"Nothing helps: {name} reads {reads} of single lines, and none of {len(outcome.trials)} recipes "
            f"({tried} measured to the end) reads farther by more than its interval."
        )
    result = outcome.winner.result
    ratio = judge.paired(before, result)
    after = in_words(result.effective.value, result.effective.censoring, outcome.lengths)
    bounded = result.effective.censoring == "right" or before.effective.censoring == "left"
    least = "at least " if bounded else ""
    carried = outcome.winner.record.levers
    who = carried[0] if len(carried) == 1 else f"{', '.join(carried[:-1])} with {carried[-1]}"
    return (
        f"{name} reads {reads} of single lines as it is and {after} with {who}: {least}{ratio.ratio:.1f} times as far "
        f"(95 % interval {ratio.lo:.1f} to {ratio.hi:.1f}, n = {ratio.n_shared} paired questions)."
    )


def _measurement(measured: Measured) -> Measurement:
    evaluation = measured.evaluation
    return Measurement(
        tasks={task.name: _task(task) for task in evaluation.tasks},
        text_loss=[
            LossPoint(position_start=b.start, position_end=b.end, loss=b.loss, lo=b.lo, hi=b.hi, n=b.n)
            for b in evaluation.text_loss
        ],
        profile=_profile(measured.profile),
    )


def _task(task: TaskResult) -> TaskMeasure:
    found = task.effective
    return TaskMeasure(
        title=task.title,
        cells=[Cell(**cell.model_dump()) for cell in task.by_depth()],
        by_length=[Cell(**cell.model_dump()) for cell in task.by_length()],
        effective=Effective(
            value=found.value,
            lo=found.lo,
            hi=found.hi,
            censoring=found.censoring,
            threshold=task.threshold,
            n_per_length={cell.length: cell.n for cell in task.by_length()},
        ),
    )


def _profile(profile: Profile) -> list[ProfileRow]:
    rows = []
    for point in profile.points:
        times: dict[str, float | None] = {}
        for key, spread in (("ttft", point.ttft), ("tpot", point.tpot)):
            times[f"{key}_s"] = spread.median if spread else None
            times[f"{key}_lo"] = spread.p05 if spread else None
            times[f"{key}_hi"] = spread.p95 if spread else None
        rows.append(
            ProfileRow(
                length=point.length,
                **times,
                peak_memory_bytes=point.memory.allocated_peak if point.memory else None,
                kv_bytes=point.memory.kv_cache if point.memory else None,
                n=point.ttft.n if point.ttft else 0,
            )
        )
    return rows


def _baseline_trial(outcome: Outcome) -> TrialRecord:
    headline = outcome.baseline.evaluation.headline
    found = headline.effective
    last = outcome.baseline.profile.points[-1]
    number = max((trial.record.number for trial in outcome.trials), default=0) + 1
    return TrialRecord(
        number=number,
        recipe="",
        state="baseline",
        effective_length=found.value,
        lo=found.lo,
        hi=found.hi,
        censoring=found.censoring,
        ratio_to_baseline=1.0,
        n=len(headline.answers),
        length=last.length,
        ttft_s=last.ttft.median if last.ttft else None,
        peak_memory_bytes=last.memory.allocated_peak if last.memory else None,
        seconds=outcome.baseline.seconds,
        reason="the model as it is",
    )


def _ablation(outcome: Outcome) -> list[AblationRow]:
    winner = outcome.winner
    if winner is None or winner.result is None:
        return []
    rows = [_ablation_row(outcome, winner, winner.result, part) for part in outcome.ablated]
    if not rows and len(winner.record.levers) == 1:
        alone = Ablated(winner.record.levers[0], outcome.baseline.evaluation.headline, outcome.baseline.profile)
        rows = [_ablation_row(outcome, winner, winner.result, alone)]
    return rows


def _ablation_row(outcome: Outcome, winner: Trial, result: TaskResult, part: Ablated) -> AblationRow:
    slot = lever_class(part.lever).slot
    fit = winner.fit_seconds if lever_class(part.lever).needs != "nothing" else 0.0
    if part.result is None:
        return AblationRow(lever=part.lever, fit_seconds=fit, perspective=PERSPECTIVES.get(slot), note="not measured")
    ratio = judge.paired(part.result, result)
    mean = sum(answer.score for answer in part.result.answers) / len(part.result.answers)
    without = in_words(part.result.effective.value, part.result.effective.censoring, outcome.lengths)
    point = outcome.best.profile.points[-1] if outcome.best else None
    before = part.profile.points[-1] if part.profile else None
    timed = point is not None and before is not None and point.ttft is not None and before.ttft is not None
    weighed = point is not None and before is not None and point.memory is not None and before.memory is not None
    return AblationRow(
        lever=part.lever,
        bought=ratio.ratio,
        bought_lo=ratio.lo,
        bought_hi=ratio.hi,
        ttft_ratio=point.ttft.median / before.ttft.median if timed else None,  # type: ignore[union-attr]
        memory_ratio=point.memory.allocated_peak / before.memory.allocated_peak if weighed else None,  # type: ignore[union-attr]
        fit_seconds=fit,
        perspective=PERSPECTIVES.get(slot),
        n=ratio.n_shared,
        note=f"without it: {without}, mean score {mean:.2f}",
    )


def _notes(outcome: Outcome) -> list[str]:
    notes = list(outcome.notes)
    notes += [f"Not tried, {name}: {why}" for name, why in outcome.refused.items()]
    if any(trial.fit_tokens for trial in outcome.trials):
        notes.append(FIT_NOTE)
    for measured in (outcome.baseline, outcome.best):
        if measured is not None:
            notes += measured.evaluation.problems()
    return notes
