"""How fast contexts are built, and whether their predicted token counts are exact.

Times 500 samples of RULER's kind from a counted corpus, one long context of prose from a counted corpus, and contexts
of fresh identifiers; beside each sample stands what tokenising the finished text once costs, interleaved in the same
run. Results go to `benchmarks/results/generation.json`. With `--suite`, instead, the whole suite of RULER's kind over
several lengths by several processes, written to a file as specifications with the hash of each context; its results go
to `benchmarks/results/generation_suite.json`.

    python benchmarks/generation.py
    python benchmarks/generation.py --suite
    python benchmarks/generation.py --length 2k --long 8k --samples 10 --out /dev/stdout
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from pathlib import Path

import tokenizers

from farspan.cli.arguments import parse_length
from farspan.evals.generate import (
    KVHaystack,
    LengthTarget,
    Needle,
    ProseHaystack,
    SampleSpec,
    TokenCounter,
    build_context,
    build_many,
    generator_class,
)
from farspan.evals.generate.haystack import CorpusHaystack, Haystack
from farspan.evals.schema import write_samples
from farspan.evals.tasks.ruler_tasks import suite

RULER_TASKS = ("niah_single_1", "niah_single_2", "niah_multikey_1", "niah_multivalue", "niah_multiquery")
SUITE_LENGTHS = (4096, 8192, 16384, 32768, 65536)
NEEDLE = Needle("The secret number of bold-cat is 1234567.", "n")


def seconds(work: object, *arguments: object, **settings: object) -> tuple[float, object]:
    """Wall time of one call, and its result."""
    assert callable(work)
    started = time.perf_counter()
    result = work(*arguments, **settings)
    return time.perf_counter() - started, result


def processor_seconds() -> float:
    """Processor time of this process and of those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in used)


def count_corpus(counter: TokenCounter, length: int) -> float:
    """Make and count a corpus of prose that a context of this length can be taken from."""
    taken, _ = seconds(build_context, ProseHaystack(), [NEEDLE], LengthTarget(value=length), counter, seed=0)
    return taken


def ruler_samples(counter: TokenCounter, length: int, samples: int) -> dict[str, object]:
    """Samples of the tasks in turn; the finished text of every tenth is tokenised for comparison."""
    ruler = generator_class("ruler")(counter)
    for task in RULER_TASKS:
        ruler.sample(task, length, samples, 0)
    built, tokenised, errors, over = [], [], [], 0
    for index in range(samples):
        taken, sample = seconds(ruler.sample, RULER_TASKS[index % len(RULER_TASKS)], length, index, 0)
        built.append(taken)
        if index % 10 == 0:
            text = sample.text  # type: ignore[attr-defined]
            taken, count = seconds(counter.count, text)
            tokenised.append(taken)
            metadata = sample.metadata  # type: ignore[attr-defined]
            errors.append(abs(int(str(count)) - metadata["n_context_tokens"]))
            over += metadata["n_total_tokens"] > length
    return {
        "length": length,
        "samples": samples,
        "tasks": RULER_TASKS,
        "seconds_in_all": sum(built),
        "median_seconds_a_sample": statistics.median(built),
        "median_seconds_to_tokenise_the_text_once": statistics.median(tokenised),
        "ratio": statistics.median(tokenised) / statistics.median(built),
        "largest_count_error_tokens": max(errors),
        "samples_over_length": over,
    }


def one_context(counter: TokenCounter, haystack: Haystack, length: int, repeats: int) -> dict[str, object]:
    """Contexts of one length with different seeds; a corpus is counted before, fresh units are not."""
    if isinstance(haystack, CorpusHaystack):
        build_context(haystack, [NEEDLE], LengthTarget(value=length), counter, seed=repeats)
    built, tokenised, errors = [], [], []
    for seed in range(repeats):
        taken, context = seconds(build_context, haystack, [NEEDLE], LengthTarget(value=length), counter, seed=seed)
        built.append(taken)
        taken, count = seconds(counter.verify, context.text)  # type: ignore[attr-defined]
        tokenised.append(taken)
        errors.append(abs(int(str(count)) - context.n_context_tokens))  # type: ignore[attr-defined]
    return {
        "haystack": type(haystack).__name__,
        "length": length,
        "contexts": repeats,
        "median_seconds": statistics.median(built),
        "median_seconds_to_tokenise_in_chunks": statistics.median(tokenised),
        "largest_count_error_tokens": max(errors),
    }


def whole_suite(tokenizer: str, samples: int, workers: int, folder: Path) -> dict[str, object]:
    """Every task at every length, built in full, stored as specifications."""
    specs = [
        SampleSpec(family="ruler", task=task, length=length, index=index, tokenizer=tokenizer)
        for task in suite()
        for length in SUITE_LENGTHS
        for index in range(samples)
    ]
    file = folder / "suite.jsonl"
    before = processor_seconds()
    taken, count = seconds(write_samples, file, build_many(specs, workers=workers, lazy=True, batch=64))
    return {
        "tasks": len(suite()),
        "lengths": SUITE_LENGTHS,
        "samples": count,
        "processes": workers,
        "seconds": taken,
        "processor_seconds": processor_seconds() - before,
        "bytes_a_sample_in_the_file": file.stat().st_size / len(specs),
    }


def surroundings(counter: TokenCounter, tokenizer: str) -> dict[str, object]:
    """Date, machine, how busy it was, versions and tokenizer."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "load_average_before": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version(), "tokenizers": tokenizers.__version__},
        "tokenizer": {"name": tokenizer, "id": counter.tokenizer_id, "mode": counter.mode},
    }


def main() -> None:
    """Run everything and store the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default="reference")
    parser.add_argument("--length", type=parse_length, default=131_072)
    parser.add_argument("--long", type=parse_length, default=1_000_000)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--suite", action="store_true", help="time the whole suite instead")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes of the suite")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    name = "generation_suite.json" if options.suite else "generation.json"
    out = options.out or Path(__file__).parent / "results" / name
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FARSPAN_CACHE"] = cache
        counter = TokenCounter(options.tokenizer)
        around = surroundings(counter, options.tokenizer)
        result: dict[str, object]
        if options.suite:
            stored = whole_suite(options.tokenizer, options.samples, options.workers, Path(cache))
            result = {"what": "building the whole suite and storing it as specifications", **around, "suite": stored}
        else:
            cold = count_corpus(counter, options.long)
            result = {
                "what": "building contexts and their predicted token counts",
                **around,
                "seconds_to_make_and_count_the_corpus_and_build_one_context": cold,
                "ruler": ruler_samples(counter, options.length, options.samples),
                "prose": one_context(counter, ProseHaystack(), options.long, options.repeats),
                "fresh_identifiers": [
                    one_context(counter, KVHaystack(), length, options.repeats)
                    for length in (options.length, options.long)
                ],
            }
    text = json.dumps(result, indent=2) + "\n"
    if out.parent.name == "results":
        out.parent.mkdir(exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
