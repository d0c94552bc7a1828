"""The figures of the bundled reference model's card: scores by task and length, and loss of text by position.

Without levers, on evaluation seed 0. Results go to `benchmarks/results/reference_model.json`, the card's table to the
screen.

    python benchmarks/reference_model.py
    python benchmarks/reference_model.py --n 8 --lengths 256,512 --out /dev/stdout
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from pathlib import Path

import torch
import transformers

import farspan
from farspan.cli.arguments import parse_lengths

TASKS = ("single_lines", "multi_key", "two_hop_threads", "variable_tracking")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference")
    parser.add_argument("--lengths", default="256,512,1k,2k")
    parser.add_argument("--n", type=int, default=200, help="questions a task and length")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/reference_model.json"))
    options = parser.parse_args()

    torch.set_num_threads(1)
    model, tokenizer = farspan.load(options.model)
    lengths = parse_lengths(options.lengths)
    found = farspan.evaluate(model, tokenizer, [*TASKS, "text_loss"], lengths, n=options.n, texts=options.texts)
    scores = [
        {"task": task.title, **cell.model_dump(include={"length", "n", "mean", "lo", "hi"})}
        for task in found.tasks
        for cell in task.by_length()
    ]
    result = {
        "what": "the bundled reference model without levers",
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "seed": 0,
        "scores": scores,
        "text_loss": [bin.model_dump() for bin in found.text_loss],
    }
    options.out.parent.mkdir(exist_ok=True, parents=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print("| task | length, tokens | score | n |\n|---|---|---|---|")
    for row in scores:
        interval = f"[{row['lo']:.1%}, {row['hi']:.1%}]"
        print(f"| {row['task']} | {row['length']:,} | {row['mean']:.1%} {interval} | {row['n']} |")
    print("\n| positions | loss of text, nats a token | n |\n|---|---|---|")
    for bin in found.text_loss:
        print(f"| {bin.start:,} to {bin.end:,} | {bin.loss:.2f} [{bin.lo:.2f}, {bin.hi:.2f}] | {bin.n} |")


if __name__ == "__main__":
    main()
