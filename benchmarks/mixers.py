"""Token mixers side by side: equal parameters, the same tokens, and what a longer context is worth to each task.

Every mixer makes a model of its own (with `--softmax-every`, one whose every so-manieth layer is softmax). A model is
trained and tested with its context cut to an eighth, a quarter, a half and the whole of a row, on the same tokens; the
slope of the score against the logarithm of the context says whether context helps this application. Results go to
`benchmarks/results/mixers.json` after each task; a second run of the same problem goes on with what is not there yet.

Source: arXiv 2302.06218, abstract: longer context helps, but how much depends on the application.

    python benchmarks/mixers.py --tokens 1m --context 64 --rows 32 --vocabulary 64 --tasks recall
    python benchmarks/mixers.py --tokens 2k --context 64 --mixers average_pool --tasks copy --out /dev/stdout
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from farspan.cli.arguments import parse_length
from farspan.models.mixers import MIXERS
from farspan.profiling.mixers import counted
from mixer_training import ROWS, TASKS, Sizes, build, cut_context, head, made_rows, score, train

CAUSAL = [kind for kind, mixer in MIXERS.items() if mixer.traits.causal]


def measure(kind: str, task: str, tokens: int, sizes: Sizes, softmax_every: int, seed: int) -> dict[str, object]:
    """Scores of one mixer on one task, by context."""
    mixers = [kind] * max(1, softmax_every - 1) + (["softmax_attention"] if softmax_every else [])
    reference = build(["softmax_attention"], sizes, None, seed).num_parameters()
    steps = max(1, tokens // sizes.batch_tokens)
    by_context: dict[str, dict[str, float]] = {}
    points: list[tuple[float, float]] = []
    parameters, seconds = 0, 0.0
    for share in (8, 4, 2, 1):
        context = sizes.length // share

        def rows(*name: object, context: int = context) -> tuple[Tensor, Tensor]:
            return cut_context(*made_rows(ROWS[task], sizes, task, seed, *name, rows=sizes.rows), context)

        def batches(step: int) -> list[tuple[Tensor, Tensor]]:
            return [asked_only(*rows("train", step))]

        model = build(mixers, sizes, reference, seed)
        parameters = model.num_parameters()
        _, seconds = train(model, batches, steps)
        found = score(model, [asked_only(*rows("test", index)) for index in range(4)])
        by_context[str(context)] = found
        points.append((math.log2(context), found["accuracy"]))
    slope = float(np.polyfit(*zip(*points, strict=True), 1)[0])
    return {
        "accuracy_by_context": {context: found["accuracy"] for context, found in by_context.items()},
        "accuracy_a_doubling": round(slope, 4),
        "parameters": parameters,
        "seconds_a_step": round(seconds, 4),
        "labels": by_context[str(sizes.length)]["labels"],
    }


def measured_before(file: Path, problem: dict[str, object]) -> dict[str, dict[str, object]]:
    """Mixers of an earlier run's record, nothing where it was of another problem."""
    try:
        record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError:
        return {}
    # records of before these settings were written down have their first values
    same = all(record.get(name, {"softmax_every": 0, "seed": 0}.get(name)) == value for name, value in problem.items())
    found: dict[str, dict[str, object]] = record.get("mixers", {}) if same else {}
    return found


def asked_only(ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The pieces in which something is asked."""
    asked = (labels[:, 1:] >= 0).any(1)
    return ids[asked], labels[asked]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="2m", help="tokens that each model is trained on")
    parser.add_argument("--mixers", nargs="+", choices=CAUSAL, default=CAUSAL)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--softmax-every", type=int, default=0, help="0 for models of one mixer alone")
    parser.add_argument("--lengths", default="1k,4k,16k", help="lengths that costs are counted at")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--context", default="256", help="tokens of a row")
    parser.add_argument("--rows", type=int, default=16, help="rows of a batch")
    parser.add_argument("--vocabulary", type=int, default=512, help="tokens there are; half are keys, half values")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "mixers.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = Sizes(
        options.hidden,
        options.layers,
        vocabulary=options.vocabulary,
        length=parse_length(options.context),
        rows=options.rows,
    )
    tokens = parse_length(options.tokens)
    problem: dict[str, object] = {
        "tokens": tokens,
        "sizes": dataclasses.asdict(sizes),
        "softmax_every": options.softmax_every,
        "seed": options.seed,
    }
    results = measured_before(options.out, problem)
    record = {**head("mixers", options.threads), **problem, "mixers": results}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for kind in options.mixers:
        lengths = [parse_length(text) for text in options.lengths.split(",")]
        found = results.setdefault(kind, {})
        found.update(counted(kind, sizes.hidden, sizes.heads, lengths))
        for task in options.tasks:
            if task not in found:
                found[task] = measure(kind, task, tokens, sizes, options.softmax_every, options.seed)
            print(kind, task, json.dumps(found[task]), flush=True)
            options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
