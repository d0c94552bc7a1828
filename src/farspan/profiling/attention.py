"""Methods of attention side by side: what each reads, misses, takes and saves, against one dense baseline.

Attention is taken out of its model and all sides go in turn over the same queries and keys, so that a machine that
slows down for a while slows all of them. What a whole model costs with a method is `run_profile`'s business.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from farspan.attention import AttentionLever, coverage
from farspan.attention.executors.choice import machine_costs
from farspan.attention.selection import stored
from farspan.errors import FarspanError
from farspan.profiling.layers import DENSE_BACKENDS, Layer, Problem, Runner
from farspan.profiling.memory import peak_bytes
from farspan.profiling.timing import clocked

DENSE = "dense"


class AttentionCost(BaseModel):
    """One method at one length: all layers of a problem together, means over them where it is a share.

    method : the lever as text, or `dense`
    density : share of the causal cells (query, key) that are computed
    coverage : share of the true attention that these hold, on sampled queries
    relative_error : of the output, root of squared differences over squares
    choosing_seconds, computing_seconds : medians over `rounds`; computing includes putting keys into another order
    peak_bytes : most memory that one layer's attention holds at once, its inputs not counted
    executors : what computed it; for `dense` the kernel
    note : why there are no figures
    """

    model_config = ConfigDict(frozen=True)

    method: str
    length: int
    density: float | None = None
    coverage: float | None = None
    relative_error: float | None = None
    choosing_seconds: float | None = None
    computing_seconds: float | None = None
    times_faster: float | None = None
    peak_bytes: int | None = None
    executors: tuple[str, ...] = ()
    layers: int = 0
    rounds: int = 0
    note: str = ""


def dense_kernels(runner: Runner, layer: Layer, repeats: int = 3) -> dict[str, float]:
    """Median seconds of each of torch's fused kernels that takes a layer; on a CPU torch has one, named ``""``."""
    device, found = layer.query.device, {}
    for name in DENSE_BACKENDS if device.type == "cuda" else ("",):
        try:
            taken = [clocked(partial(runner.dense, layer, name), device)[0] for _ in range(repeats + 1)]
        except RuntimeError:
            continue
        found[name] = statistics.median(taken[1:])
    return found


def why_not(lever: object) -> str | None:
    """Why a lever cannot be compared by what it reads of a single layer, or None."""
    if not isinstance(lever, AttentionLever):
        return "does not choose what attention reads"
    if type(lever).select is AttentionLever.select:
        return "needs more than queries and keys to choose by"
    return f"needs {lever.needs}" if lever.needs != "nothing" else None


@torch.no_grad()
def profile_attention(
    methods: Mapping[str, AttentionLever],
    problem: Problem,
    *,
    rounds: int = 3,
    memory: bool = True,
    backend: str = "auto",
    rows: int = 64,
) -> list[AttentionCost]:
    """Compare methods on one problem, dense attention first.

    Parameters
    ----------
    methods : levers by what to call them; their `backend` and `min_length` say nothing here
    problem : at least one layer, all of one length
    rounds : timed runs a side
    memory : whether to measure memory, in a run of its own
    backend : executor of all methods; `auto` leaves it to the choice that a lever makes
    rows : queries that coverage is measured on

    Raises
    ------
    FarspanError : no layer, or a lever that does not choose by queries and keys.
    """
    for name, lever in methods.items():
        if reason := why_not(lever):
            raise FarspanError(f"method '{name}' cannot be compared here: it {reason}")
    if not problem.layers:
        raise FarspanError("no layer to compare on: the attention of this model is windowed, capped or its own")
    runner, device = Runner(backend, try_all=False), problem.layers[0].query.device
    length = problem.layers[0].query.shape[2]
    if methods and backend == "auto":
        # measured once a machine, and not while something else is timed
        machine_costs(problem.layers[0].query.dtype, device)
    kernels = dense_kernels(runner, problem.layers[0])
    kernel = min(kernels, key=lambda name: kernels[name])
    sides = {name: _Side(lever) for name, lever in methods.items()}
    for layer in problem.layers:
        expected = runner.dense(layer, kernel)
        for side in sides.values():
            side.look(runner, layer, problem, expected, rows, memory)
    dense = [0.0] * rounds
    for turn in range(rounds):
        for layer in problem.layers:
            dense[turn] += clocked(partial(runner.dense, layer, kernel), device)[0]
            for side in sides.values():
                side.time(runner, layer, problem, turn)
    baseline = AttentionCost(
        method=DENSE,
        length=length,
        density=1.0,
        coverage=1.0,
        relative_error=0.0,
        computing_seconds=statistics.median(dense),
        times_faster=1.0,
        peak_bytes=peak_bytes(partial(runner.dense, problem.layers[0], kernel), device) if memory else None,
        executors=(kernel or "torch",),
        layers=len(problem.layers),
        rounds=rounds,
    )
    return [baseline, *(side.cost(name, length, statistics.median(dense)) for name, side in sides.items())]


class _Side:
    """What is known of one method so far."""

    def __init__(self, lever: AttentionLever) -> None:
        self.lever = lever
        self.note = ""
        self._shares: list[tuple[float, float, float]] = []
        self._peak: int | None = None
        self._executors: set[str] = set()
        self._seconds: dict[int, list[float]] = {}

    def look(self, runner: Runner, layer: Layer, problem: Problem, expected: Tensor, rows: int, memory: bool) -> None:
        """Attend once, and compare with what dense attention gives; also what warms a side up."""
        if self.note:
            return
        try:
            plan, order = runner.select(self.lever, layer, problem.config)
            taken = runner.attend(layer, plan, order)
            key = layer.key if order is None else stored(layer.key, order)
            whole = None if order is None else layer.key
            covered = coverage(layer.query, key, plan, rows=rows, scaling=layer.scaling, whole=whole)
            apart = (taken.output - expected).float().square().sum() / expected.float().square().sum()
            self._shares.append((plan.density(), float(covered.mean()), float(apart.sqrt())))
            self._executors.add(taken.executor)
            if memory and self._peak is None:
                whole_call = partial(runner.both, self.lever, layer, problem.config)
                self._peak = peak_bytes(whole_call, layer.query.device)
        except (FarspanError, torch.OutOfMemoryError) as error:
            self.note = next(iter(str(error).splitlines()), type(error).__name__)

    def time(self, runner: Runner, layer: Layer, problem: Problem, turn: int) -> None:
        """Add one layer to the seconds of a round."""
        if self.note:
            return
        device = layer.query.device
        choosing, chosen = clocked(partial(runner.select, self.lever, layer, problem.config), device)
        computing, _ = clocked(partial(runner.attend, layer, *chosen), device)
        sums = self._seconds.setdefault(turn, [0.0, 0.0])
        sums[0] += choosing
        sums[1] += computing

    def cost(self, name: str, length: int, dense: float) -> AttentionCost:
        if self.note:
            return AttentionCost(method=name, length=length, note=self.note)
        density, covered, error = (statistics.mean(values) for values in zip(*self._shares, strict=True))
        choosing, computing = (statistics.median(values) for values in zip(*self._seconds.values(), strict=True))
        return AttentionCost(
            method=name,
            length=length,
            density=density,
            coverage=covered,
            relative_error=error,
            choosing_seconds=choosing,
            computing_seconds=computing,
            times_faster=dense / (choosing + computing),
            peak_bytes=self._peak,
            executors=tuple(sorted(self._executors)),
            layers=len(self._shares),
            rounds=len(self._seconds),
        )


def rows_csv(costs: Sequence[BaseModel]) -> str:
    """Costs as CSV, one row each; several values of a cell are joined by spaces."""
    text = io.StringIO(newline="")
    rows = [cost.model_dump() for cost in costs]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: " ".join(value) if isinstance(value, tuple) else value for key, value in row.items()})
    return text.getvalue()


def rows_json(costs: Sequence[BaseModel]) -> str:
    """Costs as JSON, a list of mappings."""
    return json.dumps([cost.model_dump(mode="json") for cost in costs], indent=1) + "\n"
