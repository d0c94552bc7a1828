"""Which executor to take on this machine: one measurement, kept on disk, and a rule that reads it.

What is fastest depends on the matrix library, the compiler and the processor, so it is measured: seconds per cell of
dense attention, of `gather` and, once it has been worth compiling, of `flex`. The result lies in the cache folder
under a name made of the processor, torch and the number of threads. Nothing here changes what attention computes.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from farspan.attention.executors import flex, gather
from farspan.attention.plan import BlockPlan

LENGTHS = (512, 1024, 2048, 4096)
DENSITY = 0.25
# before flex has been measured: a guess that makes it worth one try where much attention is computed
FLEX_GUESS = 0.85
COMPILE_GUESS = 15.0
CELLS_WORTH_MEASURING = 1e9  # some seconds of attention; less is not worth a second of measuring


def cache_folder() -> Path:
    """The folder of things worth keeping between processes: FARSPAN_CACHE, or ~/.cache/farspan."""
    return Path(os.environ.get("FARSPAN_CACHE") or Path.home() / ".cache" / "farspan")


@dataclass(frozen=True)
class Costs:
    """Measured costs of attention on this machine, for one dtype.

    dense_seconds, gather_seconds : seconds at each of `LENGTHS`, `gather` with `DENSITY` of the cells
    dense_cell, gather_cell, flex_cell : seconds per computed cell and head at the longest; flex_cell is None until
        measured and infinite where it does not compile
    compile_seconds : what compiling flex took, or a guess
    """

    dense_seconds: tuple[float, ...]
    gather_seconds: tuple[float, ...]
    dense_cell: float
    gather_cell: float
    flex_cell: float | None
    compile_seconds: float

    @property
    def worthwhile_density(self) -> float:
        """Share of the cells above which computing all of them is faster."""
        best = min(self.gather_cell, self.flex_cell or self.gather_cell)
        return min(max(self.dense_cell / best, 0.25), 0.95)

    @property
    def expected_flex_cell(self) -> float:
        """Seconds per cell of flex, a guess while unmeasured."""
        return FLEX_GUESS * self.gather_cell if self.flex_cell is None else self.flex_cell


@dataclass
class Chooser:
    """Chooses executors for the calls of one switched-on lever, and counts the cells computed so far.

    flex is compiled once the time it would have saved so far exceeds what compiling costs; so at most twice the best
    possible time is ever spent.

    cells : computed cells by dtype; ready : dtypes for which flex has proved worth compiling
    """

    cells: dict[str, float] = field(default_factory=dict)
    ready: set[str] = field(default_factory=set)

    def choose(self, query: Tensor, key: Tensor, plan: BlockPlan, *, need_lse: bool, need_grad: bool) -> str:
        """Name of the executor for this call."""
        refused = flex.refusal(query, key, plan, need_lse, need_grad)
        if query.device.type != "cpu":
            return "flex" if refused is None else "masked" if need_grad else "gather"
        if need_grad:
            return "masked"
        if refused is not None:
            return "gather"
        name = str(query.dtype)
        if name in self.ready:
            return "flex"
        cells = query.shape[1] // plan.selections * float(plan.kept_cells.sum())
        self.cells[name] = self.cells.get(name, 0.0) + cells
        if self.cells[name] < CELLS_WORTH_MEASURING:
            return "gather"
        costs = machine_costs(query.dtype)
        if (costs.gather_cell - costs.expected_flex_cell) * self.cells[name] < costs.compile_seconds:
            return "gather"
        if costs.flex_cell is None:
            costs = measure_flex(query.dtype)
        if costs.expected_flex_cell >= costs.gather_cell:
            return "gather"
        self.ready.add(name)
        return "flex"


def machine_costs(dtype: torch.dtype) -> Costs:
    """The costs on this CPU: from memory, from the cache folder, or measured now (about a second)."""
    name = _file_name(dtype)
    if name not in _known:
        costs = _read(name)
        if costs is None:
            costs = measure(dtype)
            _write(name, costs)
        _known[name] = costs
    return _known[name]


def measure(dtype: torch.dtype) -> Costs:
    """Time dense attention and `gather` over growing lengths, both sides in turn."""
    dense, sparse, dense_cell, gather_cell = [], [], 0.0, 0.0
    for length in LENGTHS:
        query, key, value, plan = probe_problem(length, dtype)
        both = compare(
            partial(F.scaled_dot_product_attention, query, key, value, is_causal=True),
            partial(gather.attend, query, key, value, plan, query.shape[-1] ** -0.5, False),
        )
        dense.append(both[0])
        sparse.append(both[1])
        heads = query.shape[1] // plan.selections
        dense_cell = both[0] / (heads * float(plan.causal_cells.sum()))
        gather_cell = both[1] / (heads * float(plan.kept_cells.sum()))
    return Costs(tuple(dense), tuple(sparse), dense_cell, gather_cell, None, COMPILE_GUESS)


def break_even(name: str, select: Callable[[Tensor, Tensor], bool], dtype: torch.dtype) -> int:
    """Length from which a method pays on this CPU, in tokens: measured once, then read from the cache folder.

    name : what the measurement is kept under: the method and its settings
    select : runs the method's selection on query and key [1, 4, length, 64]; whether it chose anything
    """
    file = _file_name(dtype, name)
    kept = _read_json(file)
    if isinstance(kept, dict) and isinstance(kept.get("min_length"), int):
        return int(kept["min_length"])
    costs = machine_costs(dtype)
    found = 2 * LENGTHS[-1]
    for length, dense, sparse in zip(LENGTHS, costs.dense_seconds, costs.gather_seconds, strict=True):
        query, key, _, _ = probe_problem(length, dtype)
        with torch.no_grad():
            if not select(query, key):
                continue
            selecting, _ = compare(partial(select, query, key), lambda: None)
        if selecting + sparse < dense:
            found = length
            break
    _write_json(file, {"min_length": found, "for": name})
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
        costs = replace(costs, flex_cell=float("inf"))
    else:
        compiling = time.perf_counter() - start
        compiled, gathered = compare(
            lambda: flex.attend(query, key, value, plan, scaling, False),
            lambda: gather.attend(query, key, value, plan, scaling, False),
        )
        cells = query.shape[1] // plan.selections * float(plan.kept_cells.sum())
        costs = replace(
            costs, flex_cell=compiled / cells, gather_cell=gathered / cells, compile_seconds=max(compiling, 1.0)
        )
    name = _file_name(dtype)
    _known[name] = costs
    _write(name, costs)
    return costs


def probe_problem(
    length: int, dtype: torch.dtype, density: float = DENSITY
) -> tuple[Tensor, Tensor, Tensor, BlockPlan]:
    """Random attention of 4 heads x 64 with a random plan that keeps `DENSITY` of the causal blocks of 128 keys."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 4, length, 64, generator=generator).to(dtype) for _ in range(3))
    return query, key, value, random_plan(length, 4, DENSITY, generator=generator)


def random_plan(
    length: int, heads: int, density: float, *, block: int = 128, generator: torch.Generator | None = None
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
    return BlockPlan.from_block_mask(keep, q_len=length, kv_len=length, block_q=block, block_k=block)


def compare(first: Callable[[], object], second: Callable[[], object], repeats: int = 3) -> tuple[float, float]:
    """Median seconds of two computations, run in turn after one warm-up each, without gradients."""
    times: tuple[list[float], list[float]] = ([], [])
    with torch.no_grad():
        first()
        second()
        for _ in range(repeats):
            for run, seconds in zip((first, second), times, strict=True):
                start = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - start)
    return median(times[0]), median(times[1])


# what this process has read or measured; only ever a copy of what the cache folder holds
_known: dict[str, Costs] = {}


def _file_name(dtype: torch.dtype, *more: str) -> str:
    processor = torch.cpu.get_capabilities().get("cpu_name", "") if hasattr(torch.cpu, "get_capabilities") else ""
    machine = [
        platform.machine(),
        platform.processor(),
        str(processor),
        torch.backends.cpu.get_cpu_capability(),
        torch.__version__,
        str(torch.get_num_threads()),
        str(dtype),
        *more,
    ]
    return f"attention-{hashlib.sha256('|'.join(machine).encode()).hexdigest()[:16]}.json"


def _read(name: str) -> Costs | None:
    kept = _read_json(name)
    try:
        costs = TypeAdapter(Costs).validate_python(kept)
    except ValidationError:
        return None
    return costs if len(costs.dense_seconds) == len(costs.gather_seconds) == len(LENGTHS) else None


def _write(name: str, costs: Costs) -> None:
    _write_json(name, asdict(costs))


def _read_json(name: str) -> object:
    try:
        return json.loads((cache_folder() / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write_json(name: str, content: dict[str, object]) -> None:
    """Keep a measurement; a folder that cannot be written only means measuring again next time."""
    path = cache_folder() / name
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(content, indent=2), encoding="utf-8")
        draft.replace(path)
    except OSError:
        return
