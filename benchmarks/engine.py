"""Questions on one context through the engine, against transformers' own `generate`, interleaved in one run.

Both sides answer the same questions greedily on the same model. The engine reads each context once and decodes the
questions together; `generate` reads the context again for each question, alone or padded into one batch. Also timed:
five calls in turn, which must take less than a second. Results go to `benchmarks/results/engine.json`.

    python benchmarks/engine.py
    python benchmarks/engine.py --lengths 256 --questions 4 --rounds 1 --out /dev/stdout
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from farspan.engine import Engine, Request
from farspan.engine.forward import left_padded
from farspan.models import load


def answers_of_engine(engine: Engine, context: list[int], questions: list[list[int]], new: int) -> list[list[int]]:
    requests = [Request(context + question, new, prefix_length=len(context)) for question in questions]
    return [result.ids for result in engine.generate_batch(requests)]


def answers_of_generate(
    model: PreTrainedModel, context: list[int], questions: list[list[int]], new: int, *, batched: bool
) -> list[list[int]]:
    groups = [questions] if batched else [[question] for question in questions]
    answers = []
    for group in groups:
        ids, mask, _ = left_padded([context + question for question in group], model.device)
        mask = torch.ones_like(ids) if mask is None else mask
        out = model.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0)
        answers += [row[ids.shape[1] :].tolist() for row in out]
    return answers


def compare(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, length: int, asked: int, new: int, rounds: int
) -> dict[str, object]:
    rng = random.Random(length)
    vocabulary = model.config.vocab_size
    taken: dict[str, list[float]] = {"engine": [], "generate_alone": [], "generate_batched": []}
    agree = []
    with Engine(model, tokenizer, enforce_context_length=False, prefix_cache_tokens=0) as engine:
        for _ in range(rounds):
            context = [rng.randrange(2, vocabulary) for _ in range(length)]
            questions = [[rng.randrange(2, vocabulary) for _ in range(rng.choice((20, 21, 22)))] for _ in range(asked)]
            sides: dict[str, Callable[[], list[list[int]]]] = {
                "engine": partial(answers_of_engine, engine, context, questions, new),
                "generate_alone": partial(answers_of_generate, model, context, questions, new, batched=False),
                "generate_batched": partial(answers_of_generate, model, context, questions, new, batched=True),
            }
            found: dict[str, list[list[int]]] = {}
            for name, side in sides.items():
                start = time.perf_counter()
                found[name] = side()
                taken[name].append(time.perf_counter() - start)
            pairs = zip(found["engine"], found["generate_alone"], strict=True)
            agree.append(statistics.mean(mine == theirs for mine, theirs in pairs))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    return {
        "length": length,
        "questions": asked,
        "new_tokens": new,
        "rounds": rounds,
        "seconds": medians,
        "speedup_over_generate_alone": medians["generate_alone"] / medians["engine"],
        "speedup_over_generate_batched": medians["generate_batched"] / medians["engine"],
        "equal_answers": statistics.mean(agree),
    }


def five_calls(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    async def turns(engine: Engine) -> None:
        for _ in range(5):
            await engine.generate(Request(list(range(2, 52)), 8))

    with Engine(model, tokenizer) as engine:
        start = time.perf_counter()
        asyncio.run(turns(engine))
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="reference")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "engine.json")
    given = parser.parse_args()
    model, tokenizer = load(given.model)
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "model": given.model,
        "five_calls_in_turn_seconds": five_calls(model, tokenizer),
        "shared_context": [
            compare(model, tokenizer, length, given.questions, given.new_tokens, given.rounds)
            for length in given.lengths
        ],
    }
    given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
