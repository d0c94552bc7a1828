"""Lightning attention against dense attention: seconds by length, and a small hybrid beside a plain Transformer.

Speed: 8 heads x 64, forward, and forward with backward up to `--dense-limit`; both sides in turn within each round,
ratios of medians. Decoding: one token through the state against one query over cached keys. Training: a plain
Transformer, a hybrid and a model of lightning layers alone, of equal size, on the same tokens, half recall and half
text; accuracy and loss on held-out rows. Results go to `benchmarks/results/lightning_attention.json`.

    python benchmarks/lightning_attention.py
    python benchmarks/lightning_attention.py --tokens 4k --lengths 256 --rounds 1 --out /dev/stdout
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from farspan.cli.arguments import parse_length
from farspan.models import hybrid_mixers
from farspan.models.lightning import decay_slopes, lightning_attention, lightning_decode
from mixer_training import Sizes, TextRows, build, head, made_rows, recall_rows, score, train

HEADS, HEAD_DIM = 8, 64


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal softmax attention over [batch, length, heads, head_dim]."""
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=True)


def with_backward(attend: Callable[[], Tensor], inputs: list[Tensor]) -> Callable[[], object]:
    """Forward, then gradients of all inputs."""
    return lambda: torch.autograd.grad(attend().sum(), inputs)


def sides(length: int, dense_limit: int, device: str, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """What is timed at one length, by name."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, length, HEADS, HEAD_DIM, generator=generator).to(device, dtype) for _ in range(3)]
    slopes = decay_slopes(HEADS, 1, 4).to(device)
    tracked = [x.clone().requires_grad_() for x in inputs]

    def forward() -> Tensor:
        with torch.no_grad():
            return lightning_attention(*inputs, slopes)[0]

    def dense_forward() -> Tensor:
        with torch.no_grad():
            return dense(*inputs)

    q, k, v = (x[:, -1:] for x in inputs)
    state = torch.zeros(1, HEADS, HEAD_DIM, HEAD_DIM, device=device)
    # as a cache keeps them: heads first, tokens in a row
    keys, values = (x.transpose(1, 2).contiguous() for x in inputs[1:])

    def cached() -> Tensor:
        return F.scaled_dot_product_attention(q.transpose(1, 2), keys, values)

    found: dict[str, Callable[[], object]] = {
        "lightning forward": forward,
        "lightning forward and backward": with_backward(lambda: lightning_attention(*tracked, slopes)[0], tracked),
        "lightning decode": lambda: lightning_decode(q, k, v, slopes, state),
        "dense decode": cached,
    }
    if length <= dense_limit:
        found["dense forward"] = dense_forward
        found["dense forward and backward"] = with_backward(lambda: dense(*tracked), tracked)
    return found


def measure_speed(
    lengths: list[int], rounds: int, dense_limit: int, device: str, dtype: torch.dtype
) -> dict[str, dict[str, object]]:
    """Medians and ratios by length."""
    results: dict[str, dict[str, object]] = {}
    for length in lengths:
        runs = sides(length, dense_limit, device, dtype)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():
            run()
        for _ in range(rounds):
            for name, run in runs.items():
                if device == "cuda":
                    torch.cuda.synchronize()
                    started = time.perf_counter()
                    run()
                    torch.cuda.synchronize()
                    seconds[name].append(time.perf_counter() - started)
                else:
                    started = time.process_time()
                    run()
                    seconds[name].append(time.process_time() - started)
        medians = {name: statistics.median(taken) for name, taken in seconds.items()}
        ratios = {
            part: round(medians[f"dense {part}"] / max(medians[f"lightning {part}"], 1e-9), 2)
            for part in ("forward", "forward and backward", "decode")
            if f"dense {part}" in medians
        }
        results[str(length)] = {
            "median_seconds": {name: round(x, 6) for name, x in medians.items()},
            "times_faster_than_dense": ratios,
        }
        print(f"{length} tokens: {json.dumps(ratios)}")
    return results


def measure_training(
    tokens: int, sizes: Sizes, softmax_every: int, seed: int, text_files: int | None, symbols: int | None
) -> dict[str, object]:
    """The three models after `tokens` tokens each; recall is made of `symbols` tokens, all of them where absent."""
    text, held_out = TextRows("train", text_files), TextRows("held_out", text_files)
    sizes = replace(sizes, vocabulary=text.vocabulary)
    recalled = replace(sizes, vocabulary=symbols or sizes.vocabulary)
    half = max(1, sizes.rows // 2)

    def batches(step: int) -> list[tuple[Tensor, Tensor]]:
        return [
            made_rows(recall_rows, recalled, "recall", seed, step, rows=half),
            made_rows(text, sizes, "text", seed, step, rows=half),
        ]

    tests = {
        "recall": [made_rows(recall_rows, recalled, "test", seed, index, rows=half) for index in range(8)],
        "text": [made_rows(held_out, sizes, "test", seed, index, rows=half) for index in range(8)],
    }
    kinds = {
        "transformer": ["softmax_attention"],
        "hybrid": hybrid_mixers(sizes.layers, softmax_every),
        "lightning alone": ["lightning"],
    }
    steps = max(1, tokens // (2 * half * sizes.length))
    parameters: int | None = None
    results: dict[str, object] = {
        "tokens": steps * 2 * half * sizes.length,
        "softmax_every": softmax_every,
        "sizes": asdict(sizes),
        "recall_symbols": recalled.vocabulary,
    }
    for name, mixers in kinds.items():
        model = build(mixers, sizes, parameters, seed)
        parameters = parameters or model.num_parameters()
        losses, seconds = train(model, batches, steps)
        results[name] = {
            "parameters": model.num_parameters(),
            "seconds_a_step": round(seconds, 4),
            "loss_by_tenth": [round(losses[min(len(losses) - 1, len(losses) * i // 10)], 4) for i in range(11)],
            **{task: score(model, rows) for task, rows in tests.items()},
        }
        print(name, json.dumps(results[name]))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="2m", help="tokens that each model is trained on; 0 trains none")
    parser.add_argument("--lengths", default="4k,16k,64k", help="lengths that are timed; empty for none")
    parser.add_argument("--dense-limit", default="16k", help="longest length of dense attention forward and backward")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; each runs every side once")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of the timing; training is on a CPU")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--context", default="64", help="tokens of a training row")
    parser.add_argument("--rows", type=int, default=64, help="rows of a batch")
    parser.add_argument("--softmax-every", type=int, default=2)
    parser.add_argument("--recall-symbols", type=int, default=64, help="tokens that recall is made of")
    parser.add_argument("--text-files", type=int, help="files of text to train on at most; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "lightning_attention.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    record = head("lightning_attention", options.threads)
    record["problem"] = {"heads": HEADS, "head_dim": HEAD_DIM, "device": options.device, "dtype": options.dtype}
    if lengths := [parse_length(text) for text in options.lengths.split(",") if text]:
        limit, dtype = parse_length(options.dense_limit), getattr(torch, options.dtype)
        record["speed"] = measure_speed(lengths, options.rounds, limit, options.device, dtype)
    if options.tokens != "0":
        sizes = Sizes(options.hidden, options.layers, length=parse_length(options.context), rows=options.rows)
        tokens = parse_length(options.tokens)
        record["training"] = measure_training(
            tokens, sizes, options.softmax_every, options.seed, options.text_files, options.recall_symbols
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
