"""Which executor to take on this machine: one measurement, kept on disk, and a rule that reads it.

What is fastest depends on the matrix library, the compiler and the processor, so it is measured: seconds per cell of
dense attention, of the executors that are ready at once (`gather` and `native` on a CPU, `triton` on a GPU) and, once
it has been worth compiling, of `flex`. The result lies in the cache folder under a name made of the processor or GPU,
torch and the number of threads. Nothing here changes what attention computes.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from farspan.attention.executors import flex, gather, kernel, native
from farspan.attention.executors.failure import ExecutorFailed
from farspan.attention.executors.files import cache_folder, read_json, write_json
from farspan.attention.plan import BlockPlan

LENGTHS = (512, 1024, 2048, 4096)
GPU_LENGTHS = (2048, 4096, 8192, 16384)
# query heads, KV heads and head dimension of the probe: a small model on a CPU, a usual one on a GPU
PROBE, GPU_PROBE = (4, 4, 64), (32, 8, 128)
DENSITY = 0.25
CPU = torch.device("cpu")
ATTENDS = {"gather": gather.attend, "native": native.attend, "flex": flex.attend, "triton": kernel.attend}
REFUSALS = {"native": native.refusal, "flex": flex.refusal, "triton": kernel.refusal}
# before flex has been measured: a guess that makes it worth one try where much attention is computed
FLEX_GUESS = 0.85
COMPILE_GUESS = 15.0
CELLS_WORTH_MEASURING = 1e9  # some seconds of attention; less is not worth a second of measuring


def lengths(device: torch.device) -> tuple[int, ...]:
    """The lengths measured on a kind of device, in tokens."""
    return LENGTHS if device.type == "cpu" else GPU_LENGTHS


@dataclass(frozen=True)
class Costs:
    """Measured costs of attention on this machine, for one dtype and kind of device.

    dense_seconds, sparse_seconds : seconds at each of `lengths`, the latter for `DENSITY` of the cells by the fastest
        executor that is ready at once
    dense_cell : seconds per computed cell and head at the longest
    cells : the same by executor; flex is missing until measured, and infinite where it does not compile
    compile_seconds : what compiling flex took, or a guess
    """

    dense_seconds: tuple[float, ...]
    sparse_seconds: tuple[float, ...]
    dense_cell: float
    cells: dict[str, float]
    compile_seconds: float

    @property
    def executor(self) -> str:
        """The fastest executor that is ready at once."""
        return min((name for name in self.cells if name != "flex"), key=lambda name: self.cells[name])

    @property
    def worthwhile_density(self) -> float:
        """Share of the cells above which computing all of them is faster."""
        return min(max(self.dense_cell / min(self.cells.values()), 0.25), 0.95)

    @property
    def expected_flex_cell(self) -> float:
        """Seconds per cell of flex, a guess while unmeasured."""
        return self.cells.get("flex", FLEX_GUESS * self.cells.get("gather", float("inf")))


@dataclass
class Chooser:
    """Chooses executors for the calls of one switched-on lever, and counts the cells computed so far.

    flex is compiled once the time it would have saved so far exceeds what compiling costs; so at most twice the best
    possible time is ever spent.

    cells : computed cells by dtype; ready : dtypes for which flex has proved worth compiling
    broken : executors that failed, which are not tried again; failures : why, until taken
    """

    cells: dict[str, float] = field(default_factory=dict)
    ready: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    failures: Counter[str] = field(default_factory=Counter)

    def failed(self, executor: str, error: ExecutorFailed) -> None:
        """Note that an executor cannot be built or run here."""
        self.broken.add(executor)
        self.failures[str(error)] += 1

    def take_failures(self) -> Counter[str]:
        """The failures since this was last asked, by reason."""
        taken, self.failures = self.failures, Counter()
        return taken

    def choose(self, query: Tensor, key: Tensor, plan: BlockPlan, *, need_lse: bool, need_grad: bool) -> str:
        """Name of the executor for this call."""
        refused = flex.refusal(query, key, plan, need_lse, need_grad)
        if query.device.type != "cpu":
            return device_executor(
                query, key, plan, need_lse=need_lse, need_grad=need_grad, broken=frozenset(self.broken)
            )
        if need_grad:
            return "masked"
        flexible = refused is None and "flex" not in self.broken
        name = str(query.dtype)
        if flexible and name in self.ready:
            return "flex"
        cells = query.shape[1] // plan.selections * float(plan.kept_cells.sum())
        self.cells[name] = self.cells.get(name, 0.0) + cells
        costs = known_costs(query.dtype)
        if costs is None:
            if self.cells[name] < CELLS_WORTH_MEASURING:
                return "gather"
            costs = machine_costs(query.dtype)
        ready = costs.executor
        if ready == "native" and (
            "native" in self.broken or native.refusal(query, key, plan, need_lse, need_grad) is not None
        ):
            ready = "gather"
        if flexible:
            gain = costs.cells[ready] - costs.expected_flex_cell
            if gain * self.cells[name] >= costs.compile_seconds:
                if "flex" not in costs.cells:
                    costs = measure_flex(query.dtype)
                if costs.cells["flex"] < costs.cells[ready]:
                    self.ready.add(name)
                    return "flex"
        return ready


def device_executor(
    query: Tensor,
    key: Tensor,
    plan: BlockPlan,
    *,
    need_lse: bool,
    need_grad: bool,
    broken: frozenset[str] = frozenset(),
) -> str:
    """The executor for a GPU: Farspan's kernels, else compiled flex, else what runs anywhere."""
    for name in ("triton", "flex"):
        if name not in broken and REFUSALS[name](query, key, plan, need_lse, need_grad) is None:
            return name
    return "masked" if need_grad else "gather"


def machine_costs(dtype: torch.dtype, device: torch.device = CPU) -> Costs:
    """The costs on this machine: from memory, from the cache folder, or measured now (about a second)."""
    costs = known_costs(dtype, device)
    if costs is None:
        name = _file_name(dtype, device)
        costs = _known[name] = measure(dtype, device)
        write_json(name, asdict(costs))
    return costs


def known_costs(dtype: torch.dtype, device: torch.device = CPU) -> Costs | None:
    """The costs on this machine if they have been measured before, else None."""
    name = _file_name(dtype, device)
    if name not in _known:
        costs = _read(name, len(lengths(device)))
        if costs is None:
            return None
        _known[name] = costs
    return _known[name]


def measure(dtype: torch.dtype, device: torch.device = CPU) -> Costs:
    """Time dense attention and the device's sparse executors over growing lengths, all sides in turn."""
    dense: list[float] = []
    sparse: dict[str, list[float]] = {}
    dense_cell, cells = 0.0, {}
    names = _working(*probe_problem(lengths(device)[0], dtype, device=device))
    for length in lengths(device):
        query, key, value, plan = probe_problem(length, dtype, device=device)
        grouped, scaling = query.shape[1] != key.shape[1], query.shape[-1] ** -0.5
        seconds = compare(
            partial(F.scaled_dot_product_attention, query, key, value, is_causal=True, enable_gqa=grouped),
            *(partial(ATTENDS[name], query, key, value, plan, scaling, False) for name in names),
            device=device,
        )
        dense.append(seconds[0])
        heads = query.shape[1] // plan.selections
        dense_cell = seconds[0] / (heads * float(plan.causal_cells.sum()))
        for name, taken in zip(names, seconds[1:], strict=True):
            sparse.setdefault(name, []).append(taken)
            cells[name] = taken / (heads * float(plan.kept_cells.sum()))
    fastest = min(cells, key=lambda name: cells[name])
    return Costs(tuple(dense), tuple(sparse[fastest]), dense_cell, cells, COMPILE_GUESS)


def _working(query: Tensor, key: Tensor, value: Tensor, plan: BlockPlan) -> list[str]:
    """The executors worth measuring on the device of these tensors, those that do not build here left out."""
    names = ["gather", "native"] if query.device.type == "cpu" else ["triton", "flex", "gather"]
    working = []
    for name in names:
        refusal = REFUSALS.get(name)
        try:
            if refusal is None or refusal(query, key, plan, False, False) is None:
                with torch.no_grad():
                    ATTENDS[name](query, key, value, plan, query.shape[-1] ** -0.5, False)
                working.append(name)
        except ExecutorFailed:
            continue
    # on a GPU the first that works is taken; gather would need more memory than there may be
    return working if query.device.type == "cpu" else working[:1]


def break_even(
    name: str, select: Callable[[Tensor, Tensor], bool], dtype: torch.dtype, device: torch.device = CPU
) -> int:
    """Length from which a method pays on this machine, in tokens: measured once, then read from the cache folder.

    name : what the measurement is kept under: the method and its settings
    select : runs the method's selection on query and key [1, heads, length, head_dim]; whether it chose anything
    """
    file = _file_name(dtype, device, name)
    kept = read_json(file)
    if isinstance(kept, dict) and isinstance(kept.get("min_length"), int):
        return int(kept["min_length"])
    costs = machine_costs(dtype, device)
    found = 2 * lengths(device)[-1]
    for length, dense, sparse in zip(lengths(device), costs.dense_seconds, costs.sparse_seconds, strict=True):
        query, key, _, _ = probe_problem(length, dtype, device=device)
        with torch.no_grad():
            if not select(query, key):
                continue
            selecting, _ = compare(partial(select, query, key), lambda: None, device=device)
        if selecting + sparse < dense:
            found = length
            break
    write_json(file, {"min_length": found, "for": name})
    return found


def measure_flex(dtype: torch.dtype) -> Costs:
    """Compile and time flex, and add it to the machine's costs, on disk too."""
    costs = machine_costs(dtype)
    query, key, value, plan = probe_problem(LENGTHS[-1], dtype)
    scaling = query.shape[-1] ** -0.5
    start = time.perf_counter()
    try:
        with torch.no_grad():
            flex.attend(query, key, value, plan, scaling, False)
    except flex.FlexFailed:
        costs = replace(costs, cells={**costs.cells, "flex": float("inf")})
    else:
        compiling = time.perf_counter() - start
        compiled, ready = compare(
            lambda: flex.attend(query, key, value, plan, scaling, False),
            lambda: ATTENDS[costs.executor](query, key, value, plan, scaling, False),
        )
        computed = query.shape[1] // plan.selections * float(plan.kept_cells.sum())
        cells = {**costs.cells, "flex": compiled / computed, costs.executor: ready / computed}
        costs = replace(costs, cells=cells, compile_seconds=max(compiling, 1.0))
    name = _file_name(dtype, CPU)
    _known[name] = costs
    write_json(name, asdict(costs))
    return costs


def probe_problem(
    length: int, dtype: torch.dtype, density: float = DENSITY, *, device: torch.device = CPU
) -> tuple[Tensor, Tensor, Tensor, BlockPlan]:
    """Random attention with a random plan that keeps `density` of the causal blocks of 128 keys, one for a KV head.

    4 heads x 64 on a CPU, 32 heads over 8 KV heads x 128 on a GPU.
    """
    generator = torch.Generator().manual_seed(0)
    heads, kv_heads, dim = PROBE if device.type == "cpu" else GPU_PROBE
    shapes = ((1, heads, length, dim), (1, kv_heads, length, dim), (1, kv_heads, length, dim))
    query, key, value = (torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)
    return query, key, value, random_plan(length, kv_heads, density, generator=generator, device=device)


def random_plan(
    length: int,
    heads: int,
    density: float,
    *,
    block: int = 128,
    generator: torch.Generator | None = None,
    device: torch.device = CPU,
) -> BlockPlan:
    """A plan that keeps the diagonal and, in every row and head, randomly chosen earlier blocks.

    density : wanted share of the causal blocks, at least one block a row
    """
    blocks = -(-length // block)
    order = torch.rand(1, heads, blocks, blocks, generator=generator)
    earlier = torch.ones(blocks, blocks, dtype=torch.bool).tril(-1)
    order = order.masked_fill(~earlier, 2.0).argsort(-1).argsort(-1)
    wanted = ((torch.arange(blocks) + 1) * density).round().long().clamp(min=1) - 1
    keep = (order < wanted[:, None]) & earlier | torch.eye(blocks, dtype=torch.bool)
    return BlockPlan.from_block_mask(keep.to(device), q_len=length, kv_len=length, block_q=block, block_k=block)


def compare(*sides: Callable[[], object], repeats: int = 3, device: torch.device = CPU) -> list[float]:
    """Median seconds of computations, run in turn after one warm-up each, without gradients.

    device : what has to finish before a time is taken
    """

    def finish() -> None:
        if device.type != "cpu":
            torch.get_device_module(device).synchronize(device)

    times: list[list[float]] = [[] for _ in sides]
    with torch.no_grad():
        for run in sides:
            run()
        for _ in range(repeats):
            for run, seconds in zip(sides, times, strict=True):
                finish()
                start = time.perf_counter()
                run()
                finish()
                seconds.append(time.perf_counter() - start)
    return [median(seconds) for seconds in times]


# what this process has read or measured; only ever a copy of what the cache folder holds
_known: dict[str, Costs] = {}


def _file_name(dtype: torch.dtype, device: torch.device, *more: str) -> str:
    processor = torch.cpu.get_capabilities().get("cpu_name", "") if hasattr(torch.cpu, "get_capabilities") else ""
    machine = [
        platform.machine(),
        platform.processor(),
        str(processor),
        torch.backends.cpu.get_cpu_capability(),
        torch.__version__,
        str(torch.get_num_threads()),
        str(dtype),
        "" if device.type == "cpu" else f"{device.type} {torch.get_device_module(device).get_device_name(device)}",
        *more,
    ]
    return f"attention-{hashlib.sha256('|'.join(machine).encode()).hexdigest()[:16]}.json"


def _read(name: str, measured: int) -> Costs | None:
    try:
        costs = TypeAdapter(Costs).validate_python(read_json(name))
    except ValidationError:
        return None
    return costs if len(costs.dense_seconds) == len(costs.sparse_seconds) == measured else None


__all__ = ["Chooser", "Costs", "break_even", "cache_folder", "machine_costs", "measure", "random_plan"]
