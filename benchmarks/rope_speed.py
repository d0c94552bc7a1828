"""What stretching the window costs: time per generated token against the unstretched model, and time to plan.

A stretched model computes with another vector and nothing else, so the ratio is expected at 1. All sides decode behind
the same prompt, a few tokens each in turn; a round gives each side the median of its tokens and its ratio to the
unstretched one of the same round, and what is told is the median of these ratios, with their quartiles. Planning is
timed for the one method whose plan counts angles, at a target of 1m tokens. Results go to
`benchmarks/results/rope_speed.json`.

    python benchmarks/rope_speed.py
    python benchmarks/rope_speed.py --model DIR --device cuda --prompt 16k --factor 4
    python benchmarks/rope_speed.py --prompt 128 --tokens 4 --rounds 2 --target 16k --out /dev/stdout
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch
import transformers
from transformers import DynamicCache, PreTrainedModel

from farspan.cli.arguments import parse_length
from farspan.models import load
from farspan.positions import DPRoPE, get_rope
from farspan.positions.rope import default_inv_freq
from farspan.recipe import Recipe

CPU = platform.processor() or platform.machine()
METHODS = ("", "linear", "ntk", "yarn", "truncated-basis", "dprope")


class Side:
    """One recipe on the model, decoding behind the prompt."""

    def __init__(self, model: PreTrainedModel, recipe: Recipe, prompt: torch.Tensor) -> None:
        self.model, self.recipe, self.prompt = model, recipe, prompt
        self.cache = DynamicCache(config=model.config)
        self.step = prompt[:, -1:]
        with recipe(model):
            model(input_ids=prompt, past_key_values=self.cache, logits_to_keep=1)

    def decode(self, tokens: int) -> list[float]:
        """Seconds of each of the next tokens, one after the other."""
        taken = []
        with self.recipe(self.model):
            for _ in range(tokens):
                _wait(self.model)
                started = time.perf_counter()
                self.step = self.model(input_ids=self.step, past_key_values=self.cache).logits[:, -1:].argmax(-1)
                _wait(self.model)
                taken.append(time.perf_counter() - started)
        return taken


def _wait(model: PreTrainedModel) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


def planning(target: int, rounds: int) -> dict[str, object]:
    """Seconds to choose 64 pairs for a target, from a base of 5e5 and a window of an eighth of it."""
    from farspan.positions import dprope_vector

    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        dprope_vector(default_inv_freq(5e5, 128), target // 8, target)
        taken.append(time.perf_counter() - started)
    return {"target": target, "pairs": 64, "median_seconds": round(statistics.median(taken), 3), "rounds": rounds}


@torch.no_grad()
def measure(model: PreTrainedModel, prompt_length: int, tokens: int, factor: float, rounds: int) -> dict[str, object]:
    """Medians and ratios of all methods."""
    recipes = {name or "unstretched": Recipe.parse(f"{name}:factor={factor}") if name else Recipe() for name in METHODS}
    for recipe in recipes.values():
        # Planned before the clock runs.
        recipe.check(model.config)
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(3, model.config.vocab_size, (1, prompt_length), generator=generator).to(model.device)
    sides = {name: Side(model, recipe, prompt) for name, recipe in recipes.items()}
    names = list(sides)
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        # Every side is as often first as last, and its first token of a turn, with cold caches, does not count.
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds = sides[name].decode(1 + tokens)[1:]
            if turn:
                taken[name].append(statistics.median(seconds))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    ratios = {
        name: [one / base for one, base in zip(values, taken["unstretched"], strict=True)]
        for name, values in taken.items()
        if name != "unstretched"
    }
    return {
        "median_ms_a_token": {name: round(1000 * value, 4) for name, value in medians.items()},
        "ratio_to_unstretched": {name: round(statistics.median(values), 4) for name, values in ratios.items()},
        "ratio_quartiles": {
            name: [round(value, 4) for value in statistics.quantiles(values, n=4)[::2]]
            for name, values in ratios.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompt", default="1k", help="tokens read before")
    parser.add_argument("--tokens", type=int, default=8, help="tokens decoded a round")
    parser.add_argument("--factor", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=48, help="rounds of all sides, after one to warm up")
    parser.add_argument("--target", default="1m", help="target of the plan that is timed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "rope_speed.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, _ = load(options.model, device=options.device)
    assert DPRoPE(factor=options.factor).plan(model.config).target_length > get_rope(model.config).target_length
    record = {
        "benchmark": "rope_speed",
        "problem": {
            "model": options.model,
            "prompt": parse_length(options.prompt),
            "tokens": options.tokens,
            "factor": options.factor,
            "rounds": options.rounds,
        },
        "machine": {
            "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else CPU,
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
        "decoding": measure(model, parse_length(options.prompt), options.tokens, options.factor, options.rounds),
        "planning": planning(parse_length(options.target), 3),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record["decoding"]["ratio_to_unstretched"]))  # type: ignore[index]


if __name__ == "__main__":
    main()
