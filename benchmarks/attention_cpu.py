"""Attention alone on a CPU, on one thread: executors, plans with single keys, decoding, and PBS on the reference model.

Every part runs all sides in turn and reports process seconds and ratios of medians.

- `executors`: causal attention of 8 heads x 64 over random plans that keep 10, 25 and 50 % of the blocks of 128 keys,
  against dense SDPA; at 100 % the results must equal dense. `single keys` adds 500 columns a head to 15 %.
- `decode`: one new token of 32 heads over 8 KV heads x 128, heads of a group packed as rows, against keys and values
  repeated for every head (`repeated`) and against what transformers does today (`stock`).
- `pbs`: the attention modules of the bundled reference model on a long text, its window stretched, dense against
  permuted block-sparse attention at its default threshold, selection included.

Results go to `benchmarks/results/attention_cpu.json`; parts that are not run keep what the file says.

    python benchmarks/attention_cpu.py
    python benchmarks/attention_cpu.py --parts decode pbs
    python benchmarks/attention_cpu.py --parts executors --lengths 32k --densities 0.25 --backends native gather
    python benchmarks/attention_cpu.py --lengths 1k --rounds 1 --out /dev/stdout
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sysconfig
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import farspan
from farspan.attention import (
    BlockPlan,
    PermutedBlockSparse,
    attention_report,
    block_sparse_attention,
    grouped_attention,
)
from farspan.attention.executors import ExecutorFailed
from farspan.attention.executors.choice import random_plan
from farspan.cli.arguments import parse_length

HEADS, HEAD_DIM = 8, 64
DENSITIES = (0.10, 0.25, 0.50, 1.0)
BACKENDS = ("native", "gather", "flex")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PARTS = ("executors", "decode", "pbs")
SINGLE_KEYS, DECODE = 500, ((8192, "float32"), (32768, "bfloat16"))

Side = Callable[[], Tensor]


def timed(runs: dict[str, Side], rounds: int, against: str) -> dict[str, object]:
    """Process seconds of all sides in turn, and how many times faster than one of them each is."""
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
        "seconds": {name: [round(x, 5) for x in taken] for name, taken in seconds.items()},
        "median_seconds": {name: round(x, 5) for name, x in medians.items()},
        f"times_faster_than_{against}": {n: round(medians[against] / x, 2) for n, x in medians.items() if n != against},
    }


def usable(backends: list[str], dtype: torch.dtype) -> list[str]:
    """Those of the backends that work here, with the reason printed for the others."""
    found = []
    for backend in backends:
        query, key, value = (torch.zeros(1, HEADS, 256, HEAD_DIM, dtype=dtype) for _ in range(3))
        try:
            block_sparse_attention(query, key, value, random_plan(256, HEADS, 1.0), backend=backend)  # type: ignore[call-overload]
        except ExecutorFailed as error:
            print(f"{backend}: {error}")
        else:
            found.append(backend)
    return found


def with_single_keys(plan: BlockPlan, generator: torch.Generator) -> BlockPlan:
    """The plan with single keys in every head besides."""
    count = min(SINGLE_KEYS, plan.kv_len // 8)
    columns = torch.stack([torch.randperm(plan.kv_len, generator=generator)[:count] for _ in range(HEADS)])
    return BlockPlan.from_block_mask(plan.block_mask(), q_len=plan.q_len, kv_len=plan.kv_len, columns=columns[None])


def executors(
    length: int, dtype: torch.dtype, rounds: int, backends: list[str], densities: list[float]
) -> dict[str, object]:
    """Executors over random plans against dense attention."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, HEADS, length, HEAD_DIM)
    query, key, value = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
    plans = {f"{d:.0%}": random_plan(length, HEADS, d, generator=generator) for d in densities}
    plans["single keys"] = with_single_keys(random_plan(length, HEADS, 0.15, generator=generator), generator)
    runs: dict[str, Side] = {"dense": partial(F.scaled_dot_product_attention, query, key, value, is_causal=True)}
    for backend in usable(backends, dtype):
        for name, plan in plans.items():
            if backend == "flex" and plan.col_ptr is not None:
                continue
            attend = partial(block_sparse_attention, query, key, value, plan, backend=backend)  # type: ignore[call-overload]
            runs[f"{backend} {name}"] = attend
    expected = runs["dense"]().float()
    errors = {n: float((run().float() - expected).abs().max()) for n, run in runs.items() if n.endswith("100%")}
    return {
        **timed(runs, rounds, "dense"),
        "cell_density": {name: round(plan.density(), 4) for name, plan in plans.items()},
        "largest_difference_to_dense": errors,
    }


def decode(length: int, dtype: torch.dtype, rounds: int) -> dict[str, object]:
    """One new token with grouped heads packed, against two dense ways."""
    heads, kv_heads, dim = 32, 8, 128
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, heads, 1, dim), (1, kv_heads, length, dim), (1, kv_heads, length, dim))
    query, key, value = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    module = torch.nn.Module()
    module.num_key_value_groups = heads // kv_heads  # type: ignore[assignment]

    def repeated() -> Tensor:
        keys, values = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (key, value))
        return F.scaled_dot_product_attention(query, keys, values)

    runs: dict[str, Side] = {
        "repeated": repeated,
        "stock": lambda: sdpa_attention_forward(module, query, key, value, None, is_causal=False)[0].transpose(1, 2),
        "packed": lambda: grouped_attention(query, key, value)[0],
    }
    exact = F.scaled_dot_product_attention(query.double(), key.double(), value.double(), enable_gqa=True)
    errors = {name: float((run().double() - exact).abs().max()) for name, run in runs.items()}
    return {**timed(runs, rounds, "repeated"), "largest_difference_to_float64": errors}


def pbs(length: int, rounds: int) -> dict[str, object]:
    """The reference model's attention modules, dense against PBS, on the sources of the standard library."""
    model, tokenizer = farspan.load("reference")
    folder = Path(sysconfig.get_paths()["stdlib"])
    text, sources = "", sorted(folder.glob("*.py"))
    while len(text) < 8 * length:
        text += sources.pop(0).read_text(encoding="utf-8", errors="ignore")
    ids = torch.tensor([tokenizer(text).input_ids[:length]])
    native = model.config.max_position_embeddings
    spent = {"attention": 0.0, "start": 0.0}

    def before(*_: object) -> None:
        spent["start"] = time.process_time()

    def after(*_: object) -> None:
        spent["attention"] += time.process_time() - spent["start"]

    seconds: dict[str, list[float]] = {"dense": [], "pbs": []}
    density, notes = [], set()
    hooks = [h for layer in model.model.layers for h in (layer.self_attn.register_forward_pre_hook(before),)]
    hooks += [layer.self_attn.register_forward_hook(after) for layer in model.model.layers]
    with farspan.Recipe.parse(f"yarn:factor={length / native}")(model), PermutedBlockSparse()(model):
        # whatever has to be measured or built once is not part of the comparison
        model.model(ids, use_cache=False)
    with farspan.Recipe.parse(f"yarn:factor={length / native}")(model):
        for turn in range(rounds + 1):
            for name in seconds:
                spent["attention"] = 0.0
                if name == "dense":
                    model.model(ids, use_cache=False)
                else:
                    with PermutedBlockSparse()(model):
                        model.model(ids, use_cache=False)
                        reports = attention_report(model)
                    density = [round(report.density, 4) for report in reports]
                    notes = {n for report in reports for n in (*report.fallbacks, *report.backends)}
                if turn:
                    seconds[name].append(spent["attention"])
    for hook in hooks:
        hook.remove()
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    return {
        "seconds": {name: [round(x, 4) for x in taken] for name, taken in seconds.items()},
        "median_seconds": {name: round(x, 4) for name, x in medians.items()},
        "times_faster_than_dense": {"pbs": round(medians["dense"] / medians["pbs"], 2)},
        "cell_density_by_layer": density,
        "executors_and_fallbacks": sorted(notes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--lengths", nargs="+", default=["8k", "16k", "32k"], help="tokens, of executors and pbs")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; each runs every side once")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--densities", nargs="+", type=float, default=list(DENSITIES), help="shares of kept blocks")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtypes", nargs="+", choices=sorted(DTYPES), default=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "attention_cpu.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lengths = [parse_length(text) for text in options.lengths]
    results = kept(options.out)
    over_plans = partial(executors, rounds=options.rounds, backends=options.backends, densities=options.densities)
    with torch.no_grad():
        for part in options.parts:
            found = results.setdefault(part, {})
            if part == "decode":
                found |= {f"{n} {d}": decode(n, DTYPES[d], 3 * options.rounds) for n, d in DECODE}
            for length in lengths if part != "decode" else []:
                if part == "pbs":
                    found[str(length)] = pbs(length, options.rounds)
                else:
                    found |= {f"{length} {d}": over_plans(length, DTYPES[d]) for d in options.dtypes}
                save(options, results)
    save(options, results)
    for part, found in results.items():
        for name, result in found.items():
            print(part, name, json.dumps(next(v for k, v in result.items() if k.startswith("times_faster"))))


def kept(path: Path) -> dict[str, dict[str, dict[str, object]]]:
    """The parts an earlier run left in the file."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))["results"]
    except (OSError, ValueError, KeyError):
        return {}
    return {part: results[part] for part in PARTS if part in results}


def save(options: argparse.Namespace, results: dict[str, dict[str, dict[str, object]]]) -> None:
    """Write the results with machine, versions and date."""
    record = {
        "benchmark": "attention_cpu",
        "problem": {"heads": HEADS, "head_dim": HEAD_DIM, "block": 128, "single_keys": SINGLE_KEYS},
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


def processor() -> str:
    """The processor's name, with what its matrix units are called."""
    name = platform.processor() or platform.machine()
    if hasattr(torch.cpu, "get_capabilities"):
        name = str(torch.cpu.get_capabilities().get("cpu_name") or name)
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


if __name__ == "__main__":
    main()
