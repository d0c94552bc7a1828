"""Attention alone on a GPU: the Triton executor over random block plans against the fastest SDPA backend, in one run.

The problem is causal attention in bfloat16, 32 query heads over 8 KV heads x 128, with plans that keep shares of the
blocks of 128 keys. Times are CUDA events, every round runs all sides in turn, ratios are those of medians. The dense
side is measured with every SDPA backend that takes the call, and the fastest is named; FlashAttention-2 class is
torch's own flash backend. With `--backward` forward and backward are timed together. Results go to
`benchmarks/results/attention_gpu.json`. Without a GPU it says so and ends.

    python benchmarks/attention_gpu.py
    python benchmarks/attention_gpu.py --lengths 16k 32k 64k 128k 256k 512k --densities 0.05 0.1 0.25 0.5 1
    python benchmarks/attention_gpu.py --lengths 32k --densities 0.25 --backward
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from farspan.attention import PermutedBlockSparse, block_sparse_attention
from farspan.attention.executors.choice import random_plan
from farspan.attention.selection import AttentionContext, stored
from farspan.cli.arguments import parse_length

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
LENGTHS = ("16k", "32k", "64k", "128k", "256k")
DENSITIES = (0.05, 0.1, 0.25, 0.5, 1.0)
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}

Side = Callable[[], Tensor]


def inputs(length: int, device: torch.device, grad: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Random query, key and value."""
    generator = torch.Generator(device).manual_seed(0)
    shapes = ((1, HEADS, length, HEAD_DIM), (1, KV_HEADS, length, HEAD_DIM), (1, KV_HEADS, length, HEAD_DIM))
    query, key, value = (
        torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16).requires_grad_(grad)
        for shape in shapes
    )
    return query, key, value


def dense(backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention by one SDPA backend; heads are repeated where it does not take grouped ones."""
    with sdpa_kernel(backend):
        try:
            return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        except RuntimeError:
            keys, values = (x.repeat_interleave(HEADS // KV_HEADS, dim=1) for x in (key, value))
            return F.scaled_dot_product_attention(query, keys, values, is_causal=True)


def permuted(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Permuted block-sparse attention at its default threshold, selection included."""
    lever, module = PermutedBlockSparse(), torch.nn.Module()
    context = AttentionContext(0, HEAD_DIM**-0.5, 0, "prefill", module, config=None)  # type: ignore[arg-type]
    with torch.no_grad():
        selection = lever.select(query, key, context)
    assert selection is not None
    assert selection.order is not None
    key, value = stored(key, selection.order), stored(value, selection.order)
    return block_sparse_attention(query, key, value, selection.plan, backend="triton")


def both_ways(run: Side, tensors: tuple[Tensor, ...]) -> Side:
    """Forward and backward of a side."""

    def trained() -> Tensor:
        output = run()
        torch.autograd.grad(output, tensors, torch.ones_like(output))
        return output

    return trained


def milliseconds(runs: dict[str, Side], rounds: int) -> dict[str, float]:
    """Median time of each side in CUDA events, all sides in turn; sides that fail are left out, with their reason."""
    taken: dict[str, list[float]] = {}
    for name, run in runs.items():
        try:
            for _ in range(2):
                run()
            torch.cuda.synchronize()
        except RuntimeError as error:
            print(f"{name}: {str(error).splitlines()[0][:160]}", file=sys.stderr)
        else:
            taken[name] = []
    for _ in range(rounds):
        for name in taken:
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            runs[name]()
            stop.record()
            stop.synchronize()
            taken[name].append(start.elapsed_time(stop))
    return {name: statistics.median(times) for name, times in taken.items()}


def measure(length: int, densities: list[float], rounds: int, device: torch.device, grad: bool) -> dict[str, object]:
    """Times, ratios, errors and memory at one length."""
    tensors = inputs(length, device, grad)
    generator = torch.Generator().manual_seed(0)
    runs: dict[str, Side] = {f"dense {name}": partial(dense, kind, *tensors) for name, kind in BACKENDS.items()}
    plans = {d: random_plan(length, KV_HEADS, d, generator=generator, device=device) for d in densities}
    for density, plan in plans.items():
        runs[f"triton {density:.0%}"] = partial(block_sparse_attention, *tensors, plan, backend="triton")  # type: ignore[call-overload]
    if not grad:
        runs["pbs, selection included"] = partial(permuted, *tensors)
    if grad:
        runs = {name: both_ways(run, tensors) for name, run in runs.items()}
    times = milliseconds(runs, rounds)
    best = min((name for name in times if name.startswith("dense")), key=lambda name: times[name])
    flash = times.get("dense flash")
    result: dict[str, object] = {
        "milliseconds": {name: round(x, 3) for name, x in times.items()},
        "dense_backend": best.removeprefix("dense "),
        "times_faster_than_dense": {n: round(times[best] / x, 2) for n, x in times.items() if n != best},
        "cell_density": {f"{d:.0%}": round(plan.density(), 4) for d, plan in plans.items()},
    }
    if flash is not None:
        result["times_faster_than_flash"] = {n: round(flash / x, 2) for n, x in times.items() if n != "dense flash"}
    if 1.0 in plans and not grad:
        with torch.no_grad():
            difference = (runs["triton 100%"]() - runs[best]()).abs().max()
        result["largest_difference_to_dense"] = float(difference)
    memory = {}
    for name in times:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        runs[name]()
        memory[name] = round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    return {**result, "peak_mebibytes": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", default=list(LENGTHS), help="tokens")
    parser.add_argument("--densities", nargs="+", type=float, default=list(DENSITIES), help="shares of kept blocks")
    parser.add_argument("--rounds", type=int, default=10, help="rounds; each runs every side once")
    parser.add_argument("--backward", action="store_true", help="forward and backward together")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "attention_gpu.json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "no GPU: torch.cuda.is_available() is false; benchmarks/attention_cpu.py measures a CPU\n")
    device = torch.device("cuda")
    results = {}
    for length in (parse_length(text) for text in options.lengths):
        results[length] = measure(length, options.densities, options.rounds, device, options.backward)
        print(length, json.dumps(results[length]["times_faster_than_dense"]), flush=True)
        torch.cuda.empty_cache()
    record = {
        "benchmark": "attention_gpu",
        "problem": {
            "heads": HEADS,
            "kv_heads": KV_HEADS,
            "head_dim": HEAD_DIM,
            "dtype": "bfloat16",
            "block": 128,
            "backward": options.backward,
        },
        "machine": {"gpu": torch.cuda.get_device_name(device)},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
