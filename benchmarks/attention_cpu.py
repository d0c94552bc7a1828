"""Attention alone on a CPU: executors over random block plans against dense SDPA, interleaved in one run.

The problem is causal attention of 8 heads x 64 over 8k tokens on one thread, with plans that keep 10, 25 and 50 % of
the blocks of 128 keys; at 100 % the results must equal dense. Times are process seconds, the ratio is that of the
medians, and every round runs all sides in turn. Results go to `benchmarks/results/attention_cpu.json`.

    python benchmarks/attention_cpu.py
    python benchmarks/attention_cpu.py --length 1k --rounds 1 --out /dev/stdout
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from farspan.attention import BlockPlan, FlexFailed, block_sparse_attention
from farspan.attention.executors.choice import random_plan
from farspan.cli.arguments import parse_length

HEADS, HEAD_DIM = 8, 64
DENSITIES = (0.10, 0.25, 0.50)
BACKENDS = ("flex", "gather")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Side = Callable[[], Tensor]


def sides(length: int, dtype: torch.dtype, backends: list[str]) -> tuple[dict[str, Side], dict[str, BlockPlan]]:
    """What is timed, by name, and the plans, by name."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, HEADS, length, HEAD_DIM)
    query, key, value = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
    plans = {f"{d:.0%}": random_plan(length, HEADS, d, generator=generator) for d in (*DENSITIES, 1.0)}
    runs: dict[str, Side] = {"dense": partial(F.scaled_dot_product_attention, query, key, value, is_causal=True)}
    for backend in backends:
        for name, plan in plans.items():
            attend = partial(block_sparse_attention, query, key, value, plan, backend=backend)  # type: ignore[call-overload]
            runs[f"{backend} {name}"] = attend
    return runs, plans


def usable(backends: tuple[str, ...], dtype: torch.dtype) -> list[str]:
    """Those of the backends that work here, with the reason printed for the others."""
    found = []
    for backend in backends:
        query, key, value = (torch.zeros(1, HEADS, 256, HEAD_DIM, dtype=dtype) for _ in range(3))
        try:
            block_sparse_attention(query, key, value, random_plan(256, HEADS, 1.0), backend=backend)  # type: ignore[call-overload]
        except FlexFailed as error:
            print(f"{backend}: {error}")
        else:
            found.append(backend)
    return found


def measure(length: int, dtype: torch.dtype, rounds: int) -> dict[str, object]:
    """Medians, ratios and errors for one dtype."""
    runs, plans = sides(length, dtype, usable(BACKENDS, dtype))
    expected = runs["dense"]().float()
    errors = {
        name: float((run().float() - expected).abs().max()) for name, run in runs.items() if name.endswith("100%")
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.process_time()
            run()
            seconds[name].append(time.process_time() - started)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    return {
        "seconds": {name: [round(x, 4) for x in taken] for name, taken in seconds.items()},
        "median_seconds": {name: round(x, 4) for name, x in medians.items()},
        "times_faster_than_dense": {n: round(medians["dense"] / x, 2) for n, x in medians.items() if n != "dense"},
        "cell_density": {name: round(plan.density(), 4) for name, plan in plans.items()},
        "largest_difference_to_dense": errors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", default="8k", help="tokens")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; each runs every side once")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtypes", nargs="+", choices=sorted(DTYPES), default=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "attention_cpu.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.no_grad():
        results = {name: measure(parse_length(options.length), DTYPES[name], options.rounds) for name in options.dtypes}
    record = {
        "benchmark": "attention_cpu",
        "problem": {"heads": HEADS, "head_dim": HEAD_DIM, "length": parse_length(options.length), "block": 128},
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": options.threads,
            "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for name, result in results.items():
        print(name, json.dumps(result["times_faster_than_dense"]))  # type: ignore[index]


def processor() -> str:
    """The processor's name, with what its matrix units are called."""
    name = platform.processor() or platform.machine()
    if hasattr(torch.cpu, "get_capabilities"):
        name = str(torch.cpu.get_capabilities().get("cpu_name") or name)
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


if __name__ == "__main__":
    main()
