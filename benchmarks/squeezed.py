"""Decoding over a fixed context on a CPU: squeezed attention beside dense attention, and recall with both.

Speed: the bundled model, its window stretched, reads a context of 32k tokens once; then single tokens are decoded with
dense attention (transformers' own), with sparsity 0.7 and 0.9, interleaved in one run. Times are process seconds, the
ratio is that of the medians, for whole steps of the model and for its attention alone. Recall: questions on lines in
contexts that fill the native window, answered with both. Results go to `benchmarks/results/squeezed.json`.

    python benchmarks/squeezed.py
    python benchmarks/squeezed.py --length 2k --contexts 1 --rounds 2 --iterations 2 --out /dev/stdout
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import farspan
from farspan.attention import PrefixCache, Squeezed, attention_report, build_prefix_cache, save_prefix
from farspan.cli.arguments import parse_length
from farspan.engine import Engine, Request
from farspan.evals.generate.count import TokenCounter
from farspan.evals.generate.generators import generator_class
from farspan.recipe import Recipe

SPARSITIES = (0.7, 0.9)


def long_text(tokenizer: PreTrainedTokenizerBase, length: int) -> list[int]:
    """Ids of numbered lines, as many as fill the length."""
    rng = random.Random(0)
    lines = (f"line {n}: REGISTER_CONTENT is <{rng.randrange(50000)}>\n" for n in range(length // 8 + 8))
    ids: list[int] = tokenizer("".join(lines))["input_ids"]
    return ids[:length]


def decoding(
    model: PreTrainedModel, cache: PrefixCache, folder: Path, question: Tensor, rounds: int
) -> dict[str, object]:
    """Median seconds of a decoding step, dense and squeezed, and what was read."""
    sides = {"dense": None, **{f"squeezed {s}": Squeezed(prefix=str(folder), sparsity=s) for s in SPARSITIES}}
    held = {}
    for name, lever in sides.items():
        held[name] = cache.to_cache()
        with torch.no_grad(), lever(model) if lever else nullcontext():
            model(question, past_key_values=held[name], logits_to_keep=1)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    kept: dict[str, float] = {}
    step = question[:, -1:]
    for _ in range(rounds):
        for name, lever in sides.items():
            with torch.no_grad(), lever(model) if lever else nullcontext():
                # the first step after switching on lays memory out
                model(step, past_key_values=held[name], logits_to_keep=1)
                for _ in range(8):
                    started = time.process_time()
                    model(step, past_key_values=held[name], logits_to_keep=1)
                    seconds[name].append(time.process_time() - started)
                if lever is not None:
                    shares = [statistics.mean(layer.figures["kept_of_context"]) for layer in attention_report(model)]
                    kept[name] = statistics.mean(shares)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    return {
        "median_seconds_a_step": {name: round(value, 5) for name, value in medians.items()},
        "times_faster_than_dense": {n: round(medians["dense"] / v, 2) for n, v in medians.items() if n != "dense"},
        "kept_of_context": {name: round(share, 3) for name, share in kept.items()},
    }


def recall(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, contexts: int) -> dict[str, float]:
    """Share of right answers on lines, with everything read and with parts of it."""
    family = generator_class("lines")(TokenCounter("reference"))
    sides: dict[str, dict[str, object]] = {"dense": {"sparsity": 0.0}}
    for sparsity in SPARSITIES:
        sides[f"squeezed {sparsity}"] = {"sparsity": sparsity}
        sides[f"squeezed {sparsity}, one set a question"] = {"sparsity": sparsity, "average_queries": True}
    right = dict.fromkeys(sides, 0)
    questions = 8
    for context in range(contexts):
        samples = [
            family.sample("single", 480, context * questions + index, 0, questions_per_context=questions)
            for index in range(questions)
        ]
        ids = tokenizer(samples[0].context)["input_ids"]
        requests = [
            Request(
                [*ids, *tokenizer(s.question + s.answer_prefix, add_special_tokens=False)["input_ids"]],
                6,
                prefix_length=len(ids),
            )
            for s in samples
        ]
        with tempfile.TemporaryDirectory() as folder:
            save_prefix(build_prefix_cache(model, ids, observation_window=32, cluster_ratio=0.1), Path(folder))
            for name, settings in sides.items():
                lever = Squeezed.model_validate({"prefix": folder, "min_length": 0, **settings})
                with lever(model), Engine(model, tokenizer) as engine:
                    answers = [result.text for result in engine.generate_batch(requests)]
                right[name] += sum(s.answers[0] in text for s, text in zip(samples, answers, strict=True))
    return {name: round(count / (contexts * questions), 4) for name, count in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", default="32k", help="tokens of the context")
    parser.add_argument("--contexts", type=int, default=12, help="contexts of 8 questions, for recall")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of 8 steps a side")
    parser.add_argument("--iterations", type=int, default=20, help="rounds of k-means at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "squeezed.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    length = parse_length(options.length)
    model, tokenizer = farspan.load("reference")
    answered = recall(model, tokenizer, options.contexts)
    ids = long_text(tokenizer, length)
    question = torch.tensor([tokenizer("\nline 30: REGISTER_CONTENT is <", add_special_tokens=False)["input_ids"]])
    factor = max(1, -(-2 * length // 512))
    with Recipe.parse(f"truncated-basis:factor={factor}")(model), tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        cache = build_prefix_cache(model, ids, iterations=options.iterations)
        building = time.perf_counter() - started
        save_prefix(cache, Path(folder))
        steps = decoding(model, cache, Path(folder), question, options.rounds)
    record = {
        "benchmark": "squeezed",
        "problem": {"model": "reference", "tokens": len(ids), "questions": options.contexts * 8},
        "machine": {
            "processor": platform.processor() or platform.machine(),
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
        "reading_and_clustering_seconds": round(building, 1),
        "largest_cluster": round(cache.largest_share(), 3),
        "decoding": steps,
        "recall": answered,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({"decoding": steps, "recall": answered}))


if __name__ == "__main__":
    main()
