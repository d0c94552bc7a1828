"""In-context ranking on generated passages: quality beside bm25, and cost against the number of documents.

Every passage has a subject, and mentions subjects of other passages in passing. A query asks for the passage on one
subject: its name stands once in that passage and once in some others, so counting words is not enough.
The bundled model is trained to rank (`--steps`), and compared on held-out passages with itself untrained and with
bm25. Cost is one forward to the signal layer over 16 to 512 documents of equal length, blocks beside full attention,
interleaved; the exponent is the slope of log seconds over log documents. The results go to
`benchmarks/results/blockrank.json`.

    python benchmarks/blockrank.py
    python benchmarks/blockrank.py --steps 2 --queries 3 --documents 8 --grid 8,16 --rounds 1 --out /dev/stdout
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import farspan
from farspan.engine.ranking import InContextRanker, Ranked
from farspan.evals.ranking import best_of_bm25, ranking_passages, ranking_scores
from farspan.training.data.ranking import RankingExample
from farspan.training.objectives.blockrank import fit_ranker

TRAINING_SEED, TEST_SEED = 1_000_000, 0
Rank = Callable[[str, Mapping[str, str]], list[Ranked]]


def bm25(query: str, documents: Mapping[str, str]) -> list[Ranked]:
    """All documents by bm25."""
    return [Ranked(name, score) for name, score in best_of_bm25(query, documents).items()]


def quality(rank: Rank, examples: Sequence[RankingExample]) -> dict[str, float]:
    """Precision at 1, MRR@10 and nDCG@10, means over queries."""
    found = [ranking_scores(rank(example.query, example.documents), example.answers) for example in examples]
    return {name: statistics.mean(scores[name] for scores in found) for name in found[0]}


def cost(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, grid: Sequence[int], rounds: int, full_up_to: int
) -> dict[str, object]:
    """Median seconds by number of documents, with blocks and with full attention, and the fitted exponents."""
    sides = {
        structure: InContextRanker(model, tokenizer, structure=structure, group=10**6)  # type: ignore[arg-type]
        for structure in ("blocks", "full")
    }
    prompts = {number: ranking_passages(number, TEST_SEED + 77) for number in grid}
    seconds: dict[str, dict[int, list[float]]] = {side: {number: [] for number in grid} for side in sides}
    for turn in range(rounds + 1):
        for number, example in prompts.items():
            for side, ranker in sides.items():
                if side == "full" and number > full_up_to:
                    continue
                started = time.process_time()
                ranker.scores(example.query, list(example.documents.values()))
                if turn:
                    seconds[side][number].append(time.process_time() - started)
    medians = {
        side: {number: statistics.median(taken) for number, taken in found.items() if taken}
        for side, found in seconds.items()
    }
    return {
        "median_seconds": {side: {str(n): round(s, 4) for n, s in found.items()} for side, found in medians.items()},
        "exponent": {side: round(exponent(found), 3) for side, found in medians.items() if len(found) > 1},
    }


def exponent(seconds: Mapping[int, float]) -> float:
    """Slope of log seconds over log documents."""
    return float(np.polyfit(np.log(list(seconds)), np.log(list(seconds.values())), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference")
    parser.add_argument("--documents", type=int, default=30, help="documents of a prompt, in training and test")
    parser.add_argument("--steps", type=int, default=60, help="training steps")
    parser.add_argument("--batch", type=int, default=4, help="prompts a step")
    parser.add_argument("--examples", type=int, default=2000, help="training examples")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--aux-weight", type=float, default=1.0)
    parser.add_argument("--queries", type=int, default=60, help="held-out queries")
    parser.add_argument("--grid", default="16,32,64,128,256,512", help="numbers of documents for the cost")
    parser.add_argument("--full-up-to", type=int, default=128, help="most documents with full attention")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", type=Path, help="folder for the trained model")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "blockrank.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, tokenizer = farspan.load(options.model)
    held_out = [ranking_passages(options.documents, TEST_SEED + index) for index in range(options.queries)]
    found = {
        "bm25": quality(bm25, held_out),
        "untrained": quality(InContextRanker(model, tokenizer).rank, held_out),
    }
    print(json.dumps(found), flush=True)
    training = [ranking_passages(options.documents, TRAINING_SEED + index) for index in range(options.examples)]
    started = time.perf_counter()
    parts = fit_ranker(
        model,
        tokenizer,
        training,
        steps=options.steps,
        batch_size=options.batch,
        documents=options.documents,
        aux_weight=options.aux_weight,
        learning_rate=options.learning_rate,
        optimizer="muon",
    )
    trained = time.perf_counter() - started
    ranker = InContextRanker(model, tokenizer)
    found["trained"] = quality(ranker.rank, held_out)
    longer = [
        ranking_passages(4 * options.documents, TEST_SEED + 10_000 + index)
        for index in range(options.queries // 4 or 1)
    ]
    found["trained, 4 times the documents"] = quality(InContextRanker(model, tokenizer, group=10**6).rank, longer)
    found["bm25, 4 times the documents"] = quality(bm25, longer)
    grid = [int(number) for number in options.grid.split(",")]
    record = {
        "benchmark": "blockrank",
        "problem": {
            "model": options.model,
            "documents": options.documents,
            "queries": options.queries,
            "steps": options.steps,
            "batch": options.batch,
            "layer": ranker.layer,
        },
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "threads": options.threads,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "training": {"seconds": round(trained, 1), **{name: round(value, 4) for name, value in parts.items()}},
        "quality": {name: {k: round(v, 4) for k, v in values.items()} for name, values in found.items()},
        "cost": cost(model, tokenizer, grid, options.rounds, options.full_up_to),
    }
    if options.save is not None:
        model.save_pretrained(options.save)
        tokenizer.save_pretrained(options.save)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({"quality": record["quality"], "exponent": record["cost"]["exponent"]}))  # type: ignore[index]


if __name__ == "__main__":
    main()
