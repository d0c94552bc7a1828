"""What CLEX and E2-LLM cost: a training step against plain fine-tuning, a generated token, and turning the cache.

Training: forward and backward on rows of `--length` tokens, plain, under `e2`, and under `clex` with a flow that takes
gradients. Decoding: behind a prompt that needs two windows, the model as it is against `clex` following the length.
Switching: turning all cached keys of a prompt once. All sides take turns within every round, ratios are those of the
medians. Results go to `benchmarks/results/drawn_positions.json`.

    python benchmarks/drawn_positions.py
    python benchmarks/drawn_positions.py --model DIR --device cuda --length 4k --keys 64k
    python benchmarks/drawn_positions.py --length 64 --rows 1 --keys 1k --tokens 2 --rounds 1 --out /dev/stdout
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
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
import transformers
from transformers import DynamicCache, PreTrainedModel

from farspan.cli.arguments import parse_length
from farspan.models import load
from farspan.positions import E2LLM, Clex, get_rope, rerotate_cache_

Side = Callable[[], float]


def seconds_of(model: PreTrainedModel, work: Callable[[], object]) -> float:
    """Wall seconds of one piece of work, on whatever device it runs."""
    _wait(model)
    started = time.perf_counter()
    work()
    _wait(model)
    return time.perf_counter() - started


def _wait(model: PreTrainedModel) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


def random_ids(model: PreTrainedModel, rows: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, model.config.vocab_size, (rows, length), generator=generator).to(model.device)


def in_turn(sides: dict[str, Side], rounds: int) -> dict[str, object]:
    """Medians of all sides and ratios to the first, after one round to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            seconds = side()
            if turn:
                taken[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    first = next(iter(medians.values()))
    return {
        "seconds": {name: [round(value, 6) for value in values] for name, values in taken.items()},
        "median_seconds": {name: round(value, 6) for name, value in medians.items()},
        "ratio_to_first": {name: round(value / first, 4) for name, value in list(medians.items())[1:]},
    }


def training(model: PreTrainedModel, rows: int, length: int, factor: int, rounds: int) -> dict[str, object]:
    """Forward and backward of one batch."""
    ids = random_ids(model, rows, length)
    clex = Clex(factor=factor, max_factor=factor)
    flow = clex.fresh_dynamics(get_rope(model.config))

    def side(on: Callable[[], AbstractContextManager[object]]) -> Side:
        def step() -> None:
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()

        def run() -> float:
            with on():
                seconds = seconds_of(model, step)
            model.zero_grad()
            flow.zero_grad()
            return seconds

        return run

    model.train()
    found = in_turn(
        {
            "plain": side(nullcontext),
            "e2": side(lambda: E2LLM(factor=factor)(model)),
            "clex": side(lambda: clex.engaged(model, flow)),
        },
        rounds,
    )
    model.eval()
    return found


@torch.no_grad()
def decoding(model: PreTrainedModel, tokens: int, rounds: int) -> dict[str, object]:
    """Seconds of `tokens` tokens behind a prompt of a window and a half."""
    prompt = random_ids(model, 1, 3 * get_rope(model.config).target_length // 2)

    def side(on: Callable[[], AbstractContextManager[object]]) -> Side:
        def run() -> float:
            with on():
                cache = DynamicCache(config=model.config)
                model(input_ids=prompt, past_key_values=cache, logits_to_keep=1)

                def go_on() -> None:
                    step = prompt[:, -1:]
                    for _ in range(tokens):
                        step = model(input_ids=step, past_key_values=cache).logits[:, -1:].argmax(-1)

                return seconds_of(model, go_on)

        return run

    lever = Clex(factor=4, max_factor=4, act="none")
    return in_turn({"unstretched": side(nullcontext), "clex": side(lambda: lever(model))}, rounds)


@torch.no_grad()
def switching(model: PreTrainedModel, keys: int, rounds: int) -> dict[str, object]:
    """Seconds to turn `keys` cached keys of every layer, and the bytes that are turned."""
    rope, config = get_rope(model.config), model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    shape = (1, heads, keys, rope.head_dim)
    cache = DynamicCache(config=config)
    for layer in range(config.num_hidden_layers):
        held = torch.zeros(shape, dtype=model.dtype, device=model.device)
        cache.update(held, held, layer)
    places = torch.arange(keys)

    def turn() -> None:
        rerotate_cache_(cache, places, rope.inv_freq, rope.inv_freq / 2)

    found = in_turn({"turn": lambda: seconds_of(model, turn)}, rounds)
    size = config.num_hidden_layers * heads * keys * rope.head_dim * model.dtype.itemsize
    return {**found, "keys": keys, "key_bytes": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--length", default="512", help="tokens of a training row")
    parser.add_argument("--rows", type=int, default=4, help="rows of a training batch")
    parser.add_argument("--factor", type=int, default=16, help="largest scale drawn")
    parser.add_argument("--tokens", type=int, default=64, help="tokens decoded a round")
    parser.add_argument("--keys", default="16k", help="cached keys that are turned")
    parser.add_argument("--rounds", type=int, default=7, help="rounds; each runs every side once, after one to warm up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "drawn_positions.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, _ = load(options.model, device=options.device)
    record = {
        "benchmark": "drawn_positions",
        "problem": {
            name: getattr(options, name) for name in ("model", "length", "rows", "factor", "tokens", "keys", "rounds")
        },
        "machine": {
            "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else platform.processor(),
            "cores": os.cpu_count(),
            "threads": options.threads,
            "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "training": training(model, options.rows, parse_length(options.length), options.factor, options.rounds),
        "decoding": decoding(model, options.tokens, options.rounds),
        "switching": switching(model, parse_length(options.keys), options.rounds),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for name in ("training", "decoding", "switching"):
        print(name, json.dumps(record[name]["median_seconds"]), json.dumps(record[name]["ratio_to_first"]))  # type: ignore[index]


if __name__ == "__main__":
    main()
