"""`farspan tune` as a function: load, check, search, deliver."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import PreTrainedModel

from farspan.errors import FarspanError, LeverNotApplicable
from farspan.models import load
from farspan.report.record import RunRecord
from farspan.tuning.budget import Budget
from farspan.tuning.deliver import deliver
from farspan.tuning.folder import RunFolder, TuneSettings
from farspan.tuning.space import Space
from farspan.tuning.tuner import Tuner

SHORT_BUDGET = 600.0


def tune(
    model: str = "reference",
    *,
    out: str | Path,
    target_length: int | None = None,
    budget_seconds: float = 180.0,
    levers: tuple[str, ...] = (),
    seed: int = 0,
    threshold: float = 0.75,
    trust_remote_code: bool = False,
    say: Callable[[str], None] = print,
) -> RunRecord:
    """Measure a model, search recipes under a budget, keep what pays, and write everything to a folder.

    Parameters
    ----------
    model : as `farspan.load` takes it
    out : folder of the run; a run that was killed goes on from there
    target_length : tokens to reach for; four times the native window, eight times with ten minutes or more
    budget_seconds : for everything but loading libraries, across interruptions
    levers : names to try; all that work on the model where empty
    threshold : score that an effective length must keep

    Raises
    ------
    FarspanError : the model cannot be loaded or stretched, the target is not above its window, or the folder holds
        another run.
    """
    out = Path(out)
    loaded, tokenizer = load(model, trust_remote_code=trust_remote_code)
    config = loaded.config.get_text_config()
    native = getattr(config, "max_position_embeddings", None)
    if not isinstance(native, int):
        raise LeverNotApplicable(f"{model} does not say how long its window is, so it cannot be stretched")
    target = target_length or native * (4 if budget_seconds < SHORT_BUDGET else 8)
    if target <= native:
        raise FarspanError(f"target length {target:,} is not above the native window of {native:,} tokens of {model}")
    choices = Space(loaded.config, native, target, only=levers).choices
    settings = TuneSettings(model=model, target_length=target, seed=seed, threshold=threshold, levers=choices)
    folder = RunFolder(out, settings)
    budget = Budget(budget_seconds, out / "budget.json")
    tuner = Tuner(
        loaded,
        tokenizer,
        folder,
        budget,
        native_length=native,
        target_length=target,
        seed=seed,
        threshold=threshold,
        levers=levers,
        say=say,
    )
    if not tuner.space.positions and not levers:
        reasons = "; ".join(tuner.space.refused.values())
        raise LeverNotApplicable(f"{model} cannot be stretched: {reasons.split(';')[0]}")
    with faster_threads(loaded, native):
        outcome = tuner.run()
    options = {"--target-length": target, "--budget": f"{budget_seconds:g}s", "--seed": seed, "--out": out}
    typed = [str(part) for pair in options.items() for part in pair]
    command = shlex.join(["farspan", "tune", model, *typed])
    record = deliver(
        outcome,
        outcome.winner.whole_recipe if outcome.winner is not None else None,
        loaded,
        tokenizer,
        out,
        name=model,
        command=command,
        native_length=native,
        target_length=target,
        seed=seed,
        threshold=threshold,
        budget_seconds=budget_seconds,
        seconds_used=budget.used,
    )
    budget.save()
    return record


@contextmanager
def faster_threads(model: PreTrainedModel, length: int) -> Iterator[None]:
    """Run with one thread or with all there are, whichever reads `length` tokens faster; tiny models like one."""
    before = torch.get_num_threads()
    times = {}
    if model.device.type == "cpu" and before > 1:
        ids = torch.zeros((1, length), dtype=torch.long)
        for threads in (1, before):
            torch.set_num_threads(threads)
            runs = []
            for _ in range(4):
                started = time.perf_counter()
                with torch.no_grad():
                    model(input_ids=ids, use_cache=False)
                runs.append(time.perf_counter() - started)
            times[threads] = sorted(runs[1:])[1]
        torch.set_num_threads(min(times, key=lambda threads: times[threads]))
    try:
        yield
    finally:
        torch.set_num_threads(before)
