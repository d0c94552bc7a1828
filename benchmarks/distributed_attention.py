"""Distributed attention against one process: attention that writes its scores out, fused attention, and P processes.

All three are printed, since a gain over written-out scores is mostly the fused kernel's: `times vanilla`, `times fused`
and the share of P that P processes reach over the fused kernel. Forward, causal, 8 heads x 64; one thread a process,
gloo. The largest rank's wall time counts. Results go to `benchmarks/results/distributed_attention.json`.

    python benchmarks/distributed_attention.py --length 8k --processes 2 4
    python benchmarks/distributed_attention.py --length 256 --processes 2 --rounds 1 --out /dev/stdout
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor

from farspan.cli.arguments import parse_length
from farspan.training.parallel import (
    choose_strategy,
    communication_bytes,
    distributed_attention,
    score_matrix_bytes,
    shard_sequence,
)
from mixer_training import head

HEADS, HEAD_DIM = 8, 64


def inputs(length: int) -> list[Tensor]:
    """q, k, v [1, heads, length, head_dim]"""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, HEADS, length, HEAD_DIM, generator=generator) for _ in range(3)]


def vanilla(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with all its scores in memory."""
    scores = q @ k.transpose(-1, -2) * HEAD_DIM**-0.5
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v


def process(rank: int, size: int, length: int, rounds: int, strategy: str, layout: str, folder: str) -> None:
    """One rank: attend, and write seconds of each round, the slowest rank's, and the largest error."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    whole = inputs(length)
    own = [shard_sequence(x, None, layout, 2) for x in whole]  # type: ignore[arg-type]
    seconds = []
    with torch.no_grad():
        for _ in range(rounds + 1):
            dist.barrier()
            started = time.perf_counter()
            found = distributed_attention(*own, strategy=strategy, layout=layout)  # type: ignore[arg-type]
            taken = torch.tensor([time.perf_counter() - started])
            dist.all_reduce(taken, op=dist.ReduceOp.MAX)
            seconds.append(float(taken))
        expected = F.scaled_dot_product_attention(*whole, is_causal=True)
    wanted = shard_sequence(expected, None, layout, 2)  # type: ignore[arg-type]
    error = (found - wanted).abs().max().reshape(1)  # type: ignore[operator]
    dist.all_reduce(error, op=dist.ReduceOp.MAX)
    if rank == 0:
        Path(folder, "result").write_text(json.dumps({"seconds": seconds[1:], "largest_error": float(error)}))
    dist.destroy_process_group()


def single(length: int, rounds: int, with_vanilla: bool) -> dict[str, float]:
    """Median seconds of one process."""
    whole = inputs(length)
    runs = {"fused": lambda: F.scaled_dot_product_attention(*whole, is_causal=True)}
    if with_vanilla:
        runs["vanilla"] = lambda: vanilla(*whole)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        for round_ in range(rounds + 1):
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                if round_:
                    seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", default="8k", help="tokens")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--strategies", nargs="+", default=["ring", "allgather_kv", "ulysses", "grid2d"])
    parser.add_argument("--layout", default="zigzag", choices=["contiguous", "zigzag", "striped"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-vanilla", action="store_true", help="where the scores do not fit into memory")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "distributed_attention.json")
    options = parser.parse_args()
    length = parse_length(options.length)
    torch.set_num_threads(1)
    alone = single(length, options.rounds, not options.no_vanilla)
    results: dict[str, object] = {}
    for size in options.processes:
        planned = communication_bytes(1, HEADS, HEADS, length, HEAD_DIM, size, 4)
        for strategy in options.strategies:
            if strategy not in planned:
                continue
            with tempfile.TemporaryDirectory() as folder:
                arguments = (size, length, options.rounds, strategy, options.layout, folder)
                mp.spawn(process, args=arguments, nprocs=size)
                found = json.loads(Path(folder, "result").read_text())
            median = statistics.median(found["seconds"])
            row = {
                "median_seconds": round(median, 5),
                "times_fused": round(alone["fused"] / median, 2),
                "efficiency": round(alone["fused"] / median / size, 3),
                "bytes_received": planned[strategy],
                "largest_error": found["largest_error"],
            }
            if "vanilla" in alone:
                row["times_vanilla"] = round(alone["vanilla"] / median, 2)
            results[f"{strategy}, {size} processes"] = row
            print(strategy, size, json.dumps(row))
    record = head("distributed_attention", 1)
    record["problem"] = {
        "length": length,
        "heads": HEADS,
        "head_dim": HEAD_DIM,
        "layout": options.layout,
        "score_bytes_of_vanilla": score_matrix_bytes(1, HEADS, length, 4),
        "chosen": {str(n): choose_strategy(1, HEADS, HEADS, length, HEAD_DIM, n, 4) for n in options.processes},
    }
    record["one_process_seconds"] = {name: round(x, 5) for name, x in alone.items()}
    record["results"] = results
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
