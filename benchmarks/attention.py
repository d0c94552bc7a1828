"""Every lever of slot attention beside dense attention: error, time, memory, and scores by what is read.

Cells of four kinds, each measured with both sides in turn within one run:

- `attention`: the attention of all layers while the bundled model, stretched, reads text. Seconds of choosing and of
  computing, ratio of medians to dense attention, relative error of the output, share of cells read.
- `forward`: the whole model's prefill. Ratio, peak memory of a pass, and how far next-token distributions move.
- `scores`: the probes of `core`, one RULER needle and text loss beyond the native window, the lever switched on.
- `executor` (GPU alone): random plans of given density, choosing left out.

On a GPU (`--device cuda`) attention is made, in bf16 with 32 heads over 8 KV heads x 128, and dense attention is the
fastest of torch's fused kernels, each of them timed and named. Results go to `benchmarks/results/attention.json` cell
by cell; a run that was stopped goes on where it was. The picture is `docs/images/attention.svg`.

    python benchmarks/attention.py --minutes 35
    python benchmarks/attention.py --device cuda --lengths 16k,32k,64k,128k,256k,512k --out attention-gpu.json
    python benchmarks/attention.py --quick --out attention.json --picture attention.svg
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import farspan
from attention_picture import picture
from attention_sides import DENSE_BACKENDS, Layer, Problem, Runner, Side, made_up, read_by, sides, text_ids
from farspan.attention import attention_report
from farspan.attention.executors.choice import random_plan
from farspan.cli.arguments import parse_length, parse_lengths
from farspan.engine.forward import Forward
from farspan.errors import FarspanError
from farspan.profiling.memory import measure_memory
from farspan.recipe import Recipe
from farspan.training.data.text import TextFiles
from mixer_training import head

CORE = ("single_lines", "multi_key", "variable_tracking", "two_hop_threads")
NEEDLE = "ruler:niah_single_2"
DENSITIES = (0.05, 0.1, 0.25, 0.5)
LAST = 256
Cell = dict[str, object]
T = TypeVar("T")


@dataclass(eq=False)
class Journal:
    """The record on disk: written after every cell, cells that it holds are not measured again."""

    path: Path
    record: dict[str, object]
    deadline: float
    cells: dict[str, Cell] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.is_file():
            held = json.loads(self.path.read_text(encoding="utf-8"))
            if held.get("problem") == self.record["problem"]:
                self.record, self.cells = held, held["cells"]

    def measure(self, key: str, measured: Callable[[], Cell]) -> Cell | None:
        """The cell, from the record or measured now; None where time is up."""
        if key not in self.cells:
            if time.monotonic() >= self.deadline:
                return None
            try:
                self.cells[key] = measured()
            except (FarspanError, torch.OutOfMemoryError) as error:
                self.cells[key] = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
            self.write()
            print(key, json.dumps(self.cells[key]), flush=True)
        return self.cells[key]

    def write(self) -> None:
        """Put the record on disk, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({**self.record, "cells": self.cells}, indent=1) + "\n", encoding="utf-8")
        new.replace(self.path)


def clocked(run: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Seconds of one call, the process's own on a CPU so that others do not count, and what it gave."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        result = run()
        torch.cuda.synchronize(device)
        return time.perf_counter() - started, result
    started = time.process_time()
    result = run()
    return time.process_time() - started, result


def dense_backends(runner: Runner, layer: Layer) -> Cell:
    """Median seconds of each fused kernel that takes the call; on a CPU torch has one."""
    device = layer.query.device
    found: dict[str, float] = {}
    for name in DENSE_BACKENDS if device.type == "cuda" else ("",):
        try:
            taken = [clocked(partial(runner.dense, layer, name), device)[0] for _ in range(4)]
        except RuntimeError as error:
            print(f"dense by {name}: {str(error).splitlines()[0][:120]}", flush=True)
        else:
            found[name] = statistics.median(taken[1:])
    return {"median_seconds": found}


def attention_cell(side: Side, problem: Problem, dense: str, runner: Runner, rounds: int) -> Cell:
    """One lever over all layers of a problem, in turn with the dense kernel of that name."""
    device = problem.layers[0].query.device
    errors, densities, executors = [], [], set()
    memory = {"dense": 0, "sparse": 0}
    for layer in problem.layers:
        expected, memory["dense"] = _peak(partial(runner.dense, layer, dense), device, memory["dense"])
        whole = partial(runner.both, side.lever, layer, problem.config)
        taken, memory["sparse"] = _peak(whole, device, memory["sparse"])
        apart = (taken.output - expected).float().square().sum() / expected.float().square().sum()
        errors.append(float(apart.sqrt()))
        densities.append(taken.density)
        executors.add(taken.executor)
        del expected, taken
    seconds: dict[str, list[float]] = {"dense": [], "choosing": [], "computing": []}
    for _ in range(rounds):
        sums = dict.fromkeys(seconds, 0.0)
        for layer in problem.layers:
            sums["dense"] += clocked(partial(runner.dense, layer, dense), device)[0]
            taken_for, chosen = clocked(partial(runner.select, side.lever, layer, problem.config), device)
            sums["choosing"] += taken_for
            sums["computing"] += clocked(partial(runner.attend, layer, *chosen), device)[0]
        for name, value in sums.items():
            seconds[name].append(value)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    cell: Cell = {
        "series": side.series,
        "density": round(statistics.mean(densities), 4),
        "relative_error": round(statistics.mean(errors), 5),
        "seconds": {name: round(value, 5) for name, value in medians.items()},
        "times_faster_than_dense": round(medians["dense"] / (medians["choosing"] + medians["computing"]), 3),
        "executors": sorted(executors),
    }
    if device.type == "cuda":
        cell["peak_bytes"] = memory
    return cell


def _peak(run: Callable[[], T], device: torch.device, before: int) -> tuple[T, int]:
    """What a call gives, and the most memory it or an earlier one took on a GPU."""
    if device.type != "cuda":
        return run(), before
    held = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    result = run()
    torch.cuda.synchronize(device)
    return result, max(before, torch.cuda.max_memory_allocated(device) - held)


def executor_cell(density: float, problem: Problem, dense: str, runner: Runner, rounds: int) -> Cell:
    """A random plan of this density, choosing left out."""
    layer = problem.layers[0]
    length, device = layer.query.shape[2], layer.query.device
    generator = torch.Generator().manual_seed(0)
    plan = random_plan(length, layer.key.shape[1], density, generator=generator, device=device)
    runner.attend(layer, plan, None)
    both = (partial(runner.dense, layer, dense), partial(runner.attend, layer, plan, None))
    pairs = [[clocked(run, device)[0] for run in both] for _ in range(rounds)]
    whole, part = (statistics.median(values) for values in zip(*pairs, strict=True))
    return {
        "density": round(plan.density(), 4),
        "seconds": {"dense": round(whole, 6), "computing": round(part, 6)},
        "times_faster_than_dense": round(whole / part, 3),
    }


@torch.no_grad()
def forward_cell(side: Side, model: PreTrainedModel, ids: Tensor, rounds: int, executor: str) -> Cell:
    """The whole prefill, in turn with the model as it is."""
    lever = side.lever.model_copy(update={"backend": executor})

    def read() -> Tensor:
        found: Tensor = model(ids, use_cache=False, logits_to_keep=LAST).logits[0].log_softmax(-1)
        return found

    seconds: dict[str, list[float]] = {"dense": [], "sparse": []}
    expected = read()
    memory = {"dense": measure_memory(Forward(model), ids, keep=1).allocated_peak}
    with lever(model):
        moved = read()
        reports = attention_report(model)
        density = statistics.mean(layer.density for layer in reports)
        memory["sparse"] = measure_memory(Forward(model), ids, keep=1).allocated_peak
    for _ in range(rounds):
        for name in seconds:
            with lever(model) if name == "sparse" else nullcontext():
                seconds[name].append(clocked(read, ids.device)[0])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "series": side.series,
        "density": round(density, 4),
        "seconds": {name: round(value, 4) for name, value in medians.items()},
        "times_faster_than_dense": round(medians["dense"] / medians["sparse"], 3),
        "peak_bytes": memory,
        "kl_nats": round(float((expected.exp() * (expected - moved)).sum(-1).mean()), 5),
        "executors": sorted({name for layer in reports for name in layer.backends}),
        "same_next_token": round(float((expected.argmax(-1) == moved.argmax(-1)).float().mean()), 4),
    }


def scores_cell(
    side: Side | None, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, length: int, n: int, texts: int
) -> Cell:
    """Scores at one length with the lever on, or none, and the share of cells that was read."""
    with ExitStack() as stack:
        if side is not None:
            stack.enter_context(side.lever(model))
        found = farspan.evaluate(model, tokenizer, [*CORE, NEEDLE, "text_loss"], [length], n=n, texts=texts)
        reports = attention_report(model) if side is not None else []
    means = {task.name: task.by_length()[0].mean for task in found.tasks}
    last = found.text_loss[-1]
    return {
        "series": "dense" if side is None else side.series,
        "density": round(statistics.mean(layer.density for layer in reports), 4) if reports else 1.0,
        "core": round(statistics.mean(means[name] for name in CORE), 4),
        "tasks": {name: round(value, 4) for name, value in means.items()},
        "questions": {task.name: len(task.answers) for task in found.tasks},
        "text_loss": round(last.loss, 4),
        "dense_calls": sum(layer.fallbacks.total() for layer in reports),
    }


def on_model(options: argparse.Namespace, journal: Journal) -> None:
    """All cells of the bundled model on a CPU."""
    model, tokenizer = farspan.load("reference")
    runner = Runner(options.backend)
    ids = [token for file in TextFiles(tokenizer, split="held_out").token_ids() for token in file]
    with Recipe.parse(options.stretch)(model):
        for length in options.lengths:
            problem: Problem | None = None
            for side in sides(length, options.quick)[0]:
                key = f"attention {length} {side.key}"
                if key not in journal.cells and problem is None:
                    problem = read_by(model, text_ids(ids, length))
                with torch.no_grad():
                    journal.measure(
                        key,
                        partial(attention_cell, side, problem, "", runner, options.rounds),
                    )
        if options.backend == "auto":
            tried_on = made_up(options.forward, 4, 4, 64, torch.device("cpu"), torch.float32).layers[0]
            plan = random_plan(options.forward, 4, 0.25, generator=torch.Generator().manual_seed(0))
            fastest = runner.fastest(tried_on, tried_on.key, tried_on.value, plan)
        else:
            fastest = options.backend
        for side in one_of_each(sides(options.forward, options.quick)[0]):
            whole = text_ids(ids, options.forward)
            journal.measure(
                f"forward {options.forward} {side.key}",
                partial(forward_cell, side, model, whole, options.rounds, fastest),
            )
        length, tried = options.scores, sides(options.scores, options.quick)[0]
        plain = (None, options.n)
        default = next(side for side in tried if side.series == "pbs")
        asked: list[tuple[Side | None, int]] = [plain, *((side, options.n) for side in tried)]
        for chosen, n in [*asked, (None, 4 * options.n), (default, 4 * options.n)]:
            journal.measure(
                f"scores {length} n={n} {'dense' if chosen is None else chosen.key}",
                partial(scores_cell, chosen, model, tokenizer, length, n, options.texts),
            )


def one_of_each(tried: list[Side]) -> list[Side]:
    """The first setting of every series: the one that reads most."""
    first: dict[str, Side] = {}
    for side in tried:
        first.setdefault(side.series, side)
    return list(first.values())


@torch.no_grad()
def on_made_attention(options: argparse.Namespace, journal: Journal) -> None:
    """The table of a GPU: attention of one layer in the shape of an 8B model."""
    device = torch.device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    runner = Runner(options.backend)
    for length in options.lengths:
        problem = made_up(length, *options.shape, device, dtype)
        timed = journal.measure(
            f"dense {length}",
            partial(dense_backends, runner, problem.layers[0]),
        )
        if timed is None or not isinstance(times := timed.get("median_seconds"), dict) or not times:
            continue
        fastest = min(times, key=lambda name: times[name])
        journal.record.setdefault("dense", {})[str(length)] = fastest  # type: ignore[index]
        for side in sides(length, options.quick)[0]:
            journal.measure(
                f"attention {length} {side.key}",
                partial(attention_cell, side, problem, fastest, runner, options.rounds),
            )
        for density in DENSITIES[:1] if options.quick else DENSITIES:
            journal.measure(
                f"executor {length} {density:.0%}",
                partial(executor_cell, density, problem, fastest, runner, options.rounds),
            )


def main() -> None:
    results = Path(__file__).parent / "results"
    images = Path(__file__).parents[1] / "docs" / "images"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--made", action="store_true", help="made attention on a CPU too, in place of the model's")
    parser.add_argument("--stretch", default="yarn:factor=4", help="position lever of the bundled model")
    parser.add_argument("--lengths", default="2k,8k,16k", help="of attention alone")
    parser.add_argument("--forward", default="8k", help="length of the whole model's prefill")
    parser.add_argument("--scores", default="2k", help="length of scores")
    parser.add_argument("--n", type=int, default=32, help="questions a task; four times as many for pbs at its default")
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--shape", default="32,8,128", help="heads, KV heads and head dimension of made attention")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--backend", default="auto", help="executor of sparse attention")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no cell after so many minutes")
    parser.add_argument("--quick", action="store_true", help="smallest sizes, to see that it runs")
    parser.add_argument("--out", type=Path, default=results / "attention.json")
    parser.add_argument("--picture", type=Path, default=images / "attention.svg")
    options = parser.parse_args()
    if options.quick:
        options.lengths, options.forward, options.scores = "512", "512", "512"
        options.n, options.texts, options.shape, options.backend = 1, 1, "4,2,16", "gather"
    torch.set_num_threads(options.threads)
    options.lengths = parse_lengths(options.lengths)
    options.forward, options.scores = parse_length(options.forward), parse_length(options.scores)
    options.shape = [int(number) for number in options.shape.split(",")]
    made = options.made or options.device == "cuda"
    record = head("attention", options.threads)
    record["problem"] = (
        {"attention": "made", "heads": options.shape, "device": options.device}
        if made
        else {"model": "reference", "stretch": options.stretch, "device": "cpu"}
    )
    record["left_out"] = sides(2048)[1]
    journal = Journal(options.out, record, time.monotonic() + 60 * options.minutes)
    (on_made_attention if made else on_model)(options, journal)
    journal.write()
    if not made:
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        options.picture.write_text(picture(journal.cells), encoding="utf-8")


if __name__ == "__main__":
    main()
