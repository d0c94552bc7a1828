"""Every lever that stretches positions, side by side on the bundled model: at 2, 4, 8 and 16 times its window, as it is
and after a short fine-tune of equal token count.

A side is measured by three tasks of the core suite at each doubling from the native window to the target, and by the
loss of held-out text along its positions. Once a task scores at most `--stop` at a length, longer ones are not asked;
unasked lengths count as 0 in `score`, the mean over tasks and lengths beyond the window. Effective length is where a
task falls below half of the answers right. `windows` is the model as it is, shown the last 256 to 512 tokens only: what
text costs without any stretching. Times are those of the process on one thread.

Results go to `benchmarks/results/positions.json` cell by cell, so that a run that was stopped goes on where it was;
tables to `positions.md` beside it, the picture to `docs/images/positions.svg`.

    python benchmarks/positions.py
    python benchmarks/positions.py --minutes 30
    python benchmarks/positions.py --minutes 0        # tables and picture anew
    python benchmarks/positions.py --quick --out positions.json --picture positions.svg --runs runs
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import farspan
from attention import Cell, Journal
from farspan.engine import Engine
from farspan.evals import evaluate
from farspan.evals.evaluation import TaskResult, loss_bins
from farspan.evals.run import position_edges
from farspan.recipe import Recipe
from farspan.training.data.text import TextFiles
from mixer_training import head
from positions_directions import directions
from positions_picture import picture
from positions_sides import LARGEST, LIKE_ANOTHER, NATIVE, NONE, ONE_RUN, School, Side, lever_of, methods, told
from positions_tables import tables
from rope_speed import Side as Decoder

TASKS = ("single_lines", "multi_key", "variable_tracking")
THRESHOLD = 0.5
FEWER_FROM = 4096
FIRST = ("linear", "ntk", "yarn", "e2", "clex", NONE, "e2-ntk")
BETWEEN = (1.5, 2.5)
RESAMPLES = 1000
Work = tuple[str, Callable[[], Cell]]


def lengths_to(target: int) -> list[int]:
    """The native window, its doublings, and the target."""
    lengths = {target}
    length = NATIVE
    while length < target:
        lengths.add(length)
        length *= 2
    return sorted(lengths)


def texts_of(tokenizer: PreTrainedTokenizerBase, length: int, tokens: int) -> list[list[int]]:
    """Stretches of held-out files, one after another, taken evenly from all of them."""
    stream = [int(token) for file in TextFiles(tokenizer, split="held_out").token_ids() for token in file]
    rows = [stream[start : start + length] for start in range(0, len(stream) - length + 1, length)]
    count = min(len(rows), max(4, tokens // length))
    return [rows[round(index * (len(rows) - 1) / max(1, count - 1))] for index in range(count)]


def losses_cell(logprobs: Sequence[Sequence[float]], length: int) -> Cell:
    """Loss by position, inside the window, and beyond it text by text."""
    beyond = [-statistics.fmean(row[NATIVE - 1 :]) for row in logprobs]
    inside = [-statistics.fmean(row[: NATIVE - 1]) for row in logprobs]
    bins = loss_bins(logprobs, position_edges(length))
    return {
        "loss_by_position": {f"{found.start}-{found.end}": round(found.loss, 4) for found in bins},
        "loss_inside": round(statistics.fmean(inside), 4),
        "loss_beyond": round(statistics.fmean(beyond), 4),
        "loss_beyond_by_text": [round(value, 4) for value in beyond],
    }


def in_windows(engine: Engine, texts: Sequence[Sequence[int]]) -> list[list[float]]:
    """Log-probabilities of tokens 1 to n-1, each given the last half to whole window before it."""
    half = NATIVE // 2
    found = []
    for text in texts:
        starts = range(0, max(1, len(text) - half), half)
        scored = engine.score([list(text[start : start + NATIVE]) for start in starts])
        row = list(scored[0])
        for part in scored[1:]:
            row += part[half - 1 :]
        found.append(row[: len(text) - 1])
    return found


def asked(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, engine: Engine, target: int, given: argparse.Namespace
) -> list[TaskResult]:
    """Every task at the lengths up to the target, until it fails."""
    results = []
    for task in TASKS:
        result: TaskResult | None = None
        for length in lengths_to(target):
            n = given.n if length < FEWER_FROM else max(1, 3 * given.n // 4)
            found = evaluate(
                model, tokenizer, [task], [length], n=n, seed=given.seed, threshold=THRESHOLD, engine=engine
            ).headline
            answers = (*(result.answers if result else ()), *found.answers)
            result = found.model_copy(update={"answers": answers})
            if found.by_length()[0].mean <= given.stop:
                break
        assert result is not None
        results.append(result)
    return results


def score_of(results: Sequence[TaskResult], target: int, seed: int) -> tuple[float, float, float]:
    """Mean over tasks and lengths beyond the window, and its 95 % interval over contexts."""
    rng = np.random.default_rng(seed)
    beyond = [length for length in lengths_to(target) if length > NATIVE]
    point, drawn = [], []
    for result in results:
        for length in beyond:
            contexts: dict[str, list[float]] = {}
            for answer in result.answers:
                if answer.length == length:
                    contexts.setdefault(answer.cluster or answer.id, []).append(answer.score)
            means = np.array([statistics.fmean(scores) for scores in contexts.values()] or [0.0])
            point.append(means.mean())
            drawn.append(means[rng.integers(0, len(means), (RESAMPLES, len(means)))].mean(1))
    lo, hi = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
    return float(np.mean(point)), float(lo), float(hi)


def task_cell(result: TaskResult) -> dict[str, object]:
    """Scores and effective length of one task."""
    cells, reach = result.by_length(), result.effective
    return {
        "scores": {str(cell.length): round(cell.mean, 4) for cell in cells},
        "n": {str(cell.length): cell.n for cell in cells},
        "effective": round(reach.value),
        "lo": round(reach.lo),
        "hi": round(reach.hi),
        "censoring": reach.censoring,
    }


def measured(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    target: int,
    given: argparse.Namespace,
) -> Cell:
    """A recipe by its tasks and its text."""
    started = time.process_time()
    with recipe(model), Engine(model, tokenizer, enforce_context_length=False) as engine:
        results = asked(model, tokenizer, engine, target, given)
        logprobs = engine.score(texts_of(tokenizer, target, given.text_tokens))
    score, lo, hi = score_of(results, target, given.seed)
    return {
        "score": round(score, 4),
        "score_lo": round(lo, 4),
        "score_hi": round(hi, 4),
        "score_inside": round(statistics.fmean(result.by_length()[0].mean for result in results), 4),
        "tasks": {result.name: task_cell(result) for result in results},
        **losses_cell(logprobs, target),
        "seconds": round(time.process_time() - started, 1),
    }


def side_cell(school: School, side: Side, given: argparse.Namespace) -> Cell:
    """One side of the comparison."""
    recipe, cost = school.recipe(side)
    named: Cell = {
        "method": side.method,
        "factor": side.factor,
        "trained": side.trained,
        "levers": told([lever for lever in recipe if isinstance(lever, farspan.Lever)]),
        "learning": cost,
    }
    return {**named, **measured(school.model, school.tokenizer, recipe, NATIVE * side.factor, given)}


def windows_cell(school: School, factor: int, given: argparse.Namespace) -> Cell:
    """The same texts read in windows by the model as it is."""
    length = NATIVE * factor
    with Engine(school.model, school.tokenizer, enforce_context_length=False) as engine:
        return losses_cell(in_windows(engine, texts_of(school.tokenizer, length, given.text_tokens)), length)


def between(school: School, t: float, given: argparse.Namespace) -> list[Work]:
    """CLEX between two factors of its training, and linear interpolation trained for the factors around it."""
    above = 2
    while above < t:
        above *= 2

    def cell(side: Side, served: float, **more: object) -> Cell:
        recipe = school.served_at(side, served, **more)
        return measured(school.model, school.tokenizer, recipe, round(NATIVE * t), given)

    work: list[Work] = [(f"between {t:g} clex", partial(cell, Side("clex", LARGEST, True), t, resolution=0.5))]
    for factor in sorted({max(2, above // 2), above}):
        for served in sorted({t, max(t, float(factor))}):
            key = f"between {t:g} linear, trained at {factor}, served at {served:g}"
            work.append((key, partial(cell, Side("linear", factor, True), served)))
    return work


@torch.no_grad()
def decode_cell(school: School, names: Sequence[str], given: argparse.Namespace, tokens: int = 8) -> Cell:
    """Time a token behind a prompt, each method in turn within every round, over that without a lever."""
    model = school.model
    recipes = {NONE: Recipe()}
    for name in names:
        if name == "longrope":
            recipes[name], _ = school.recipe(Side(name, 4, False))
        else:
            recipes[name] = Recipe([lever_of(name, 4, **({"act": "none"} if name == "clex" else {}))])
    ids = torch.randint(3, model.config.vocab_size, (1, given.prompt), generator=torch.Generator().manual_seed(0))
    sides = {name: Decoder(model, recipe, ids) for name, recipe in recipes.items()}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for turn in range(given.rounds + 1):
        # Every side is as often first as last, and its first token of a turn, with cold caches, does not count.
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            seconds = sides[name].decode(1 + tokens)[1:]
            if turn:
                taken[name].append(statistics.median(seconds))
    ratios = {
        name: [one / base for one, base in zip(values, taken[NONE], strict=True)] for name, values in taken.items()
    }
    return {
        "prompt": given.prompt,
        "factor": 4,
        "median_ms_a_token": {name: round(1000 * statistics.median(values), 4) for name, values in taken.items()},
        "ratio_to_none": {name: round(statistics.median(values), 4) for name, values in ratios.items()},
        "ratio_quartiles": {
            name: [round(value, 4) for value in np.quantile(values, [0.25, 0.75]).tolist()]
            for name, values in ratios.items()
        },
    }


def plan(school: School, names: Sequence[str], given: argparse.Namespace) -> list[Work]:
    """All cells, those that the directions need first."""
    plain = [NONE, *(name for name in names if name not in LIKE_ANOTHER)]
    taught = [*(name for name in FIRST if name in (NONE, *names)), *(name for name in names if name not in FIRST)]
    first = [name for name in taught if name in FIRST]
    factors = given.factors
    middle = 4 if 4 in factors else factors[0]
    near = [factor for factor in factors if factor <= middle]

    def sides(chosen: Sequence[str], at: Sequence[int], trained: bool) -> list[Work]:
        tried = [Side(name, factor, trained) for factor in at for name in chosen]
        return [(side.key, partial(side_cell, school, side, given)) for side in tried]

    work: list[Work] = [(f"windows x{factor}", partial(windows_cell, school, factor, given)) for factor in factors]
    work += [*sides(plain, near, False), ("decoding", partial(decode_cell, school, plain[1:], given))]
    work += [*sides(first, [middle], True), *sides(first, near, True)]
    for t in BETWEEN:
        if {2, 4} <= set(factors):
            work += between(school, t, given)
    work += [*sides(plain, factors, False), *sides(taught, [middle], True)]
    work += [*sides([name for name in taught if name in ONE_RUN], factors, True)]
    work += [*sides(first, factors, True), *sides(taught, factors, True)]
    return list(dict(work).items())


def main() -> None:
    results = Path(__file__).parent / "results"
    images = Path(__file__).parents[1] / "docs" / "images"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factors", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--tokens", type=int, default=262_144, help="of every fine-tune")
    parser.add_argument("--search-tokens", type=int, default=98_304, help="read by a search of divisors")
    parser.add_argument("--text-tokens", type=int, default=16_384, help="of text for the loss, at least four texts")
    parser.add_argument("--n", type=int, default=32, help="questions a task and length, a quarter fewer from 4k on")
    parser.add_argument("--stop", type=float, default=0.1, help="score after which a task gets no longer")
    parser.add_argument("--rounds", type=int, default=48, help="rounds of decoding")
    parser.add_argument("--prompt", type=int, default=1100, help="tokens read before decoding")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no side after so many minutes")
    parser.add_argument("--quick", action="store_true", help="smallest sizes, to see that it runs")
    parser.add_argument("--runs", type=Path, default=Path("runs") / "positions", help="learned weights")
    parser.add_argument("--out", type=Path, default=results / "positions.json")
    parser.add_argument("--picture", type=Path, default=images / "positions.svg")
    given = parser.parse_args()
    if given.quick:
        given.factors, given.tokens, given.search_tokens, given.text_tokens = [2], 2048, 4096, 1024
        given.n, given.rounds, given.prompt = 1, 1, 64
    torch.set_num_threads(given.threads)
    model, tokenizer = farspan.load("reference")
    names, left_out = methods(model)
    record = head("positions", given.threads)
    sizes = ("factors", "tokens", "search_tokens", "text_tokens", "n", "stop", "rounds", "prompt", "seed")
    record["problem"] = {
        "model": "reference",
        "window": NATIVE,
        "tasks": list(TASKS),
        "threshold": THRESHOLD,
        **{name: getattr(given, name) for name in sizes},
    }
    record["left_out"], record["like_another"] = left_out, LIKE_ANOTHER
    journal = Journal(given.out, record, time.monotonic() + 60 * given.minutes)
    school = School(model, tokenizer, given.runs, given.tokens, given.search_tokens, given.seed)

    def tell() -> None:
        claims = directions(journal.cells)
        journal.record["directions"] = claims
        journal.write()
        given.out.with_suffix(".md").write_text(tables(journal.cells, claims), encoding="utf-8")
        given.picture.parent.mkdir(parents=True, exist_ok=True)
        given.picture.write_text(picture(journal.cells), encoding="utf-8")

    for number, (key, cell) in enumerate(plan(school, names, given)):
        if key not in journal.cells and number % 8 == 0:
            tell()
        journal.measure(key, cell)
    tell()


if __name__ == "__main__":
    main()
