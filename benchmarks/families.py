"""The bundled model on every task of every generated family, as it is and with the recipe that a tune run finds.

Lengths from 1k to 16k, the same questions with and without the recipe. A task that scores at most a tenth at two
lengths in succession is not asked at longer ones. Most of these tasks are beyond a model of four million parameters,
which is what the table is to say. Results go to `benchmarks/results/families.json` cell by cell, so that a run that was
stopped goes on where it was; the table is `families.md` beside it.

    python benchmarks/families.py
    python benchmarks/families.py --minutes 0        # the table anew
    python benchmarks/families.py --families lines --lengths 512 --n 4 --out families.json
"""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from attention import Cell, Journal
from farspan.evals import evaluate
from farspan.evals.core import resolve
from farspan.evals.tasks import TASKS
from farspan.models import load
from farspan.recipe import Recipe

RECIPE = "yarn:factor=8"
FLOOR = 0.1
FLOORS = 2


def asked(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, probe: str, length: int, n: int) -> Cell:
    """Mean score of one task at one length, its interval and n."""
    started = time.process_time()
    task = evaluate(model, tokenizer, [probe], [length], n=n).tasks[0]
    (cell,) = task.by_length()
    return {
        "score": round(cell.mean, 4),
        "lo": round(cell.lo, 4),
        "hi": round(cell.hi, 4),
        "n": cell.n,
        "seconds": round(time.process_time() - started, 1),
    }


def measure(journal: Journal, probes: list[str], lengths: list[int], n: int, recipe: str) -> None:
    """Every cell that is not in the record, the shortest lengths of all tasks first."""
    model, tokenizer = load("reference")
    for length in lengths:
        for levers in ("", recipe):
            with Recipe.parse(levers)(model) if levers else Recipe()(model):
                for probe in probes:
                    before = [
                        cell["score"]
                        for shorter in lengths[: lengths.index(length)]
                        if "score" in (cell := journal.cells.get(key(levers, probe, shorter), {}))
                    ]
                    if len(before) >= FLOORS and all(float(str(score)) <= FLOOR for score in before[-FLOORS:]):
                        continue
                    journal.measure(
                        key(levers, probe, length),
                        lambda probe=probe, length=length: asked(model, tokenizer, probe, length, n),
                    )


def key(levers: str, probe: str, length: int) -> str:
    """Name of a cell in the record."""
    return f"{levers or 'as it is'} {probe} {length}"


def shown(cell: Cell | None) -> str:
    """A score in percent; nothing for what was not asked, `none` where no such sample can be made."""
    if cell is None:
        return ""
    return f"{100 * float(str(cell['score'])):.0f}" if "score" in cell else "none"


def table(journal: Journal, probes: list[str], lengths: list[int], recipe: str) -> str:
    """Scores in percent, without and with the recipe, in Markdown."""
    head = ["task", *(f"{length:,}" for length in lengths), *(f"{length:,}, stretched" for length in lengths)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for probe in probes:
        row = [f"`{probe}`"]
        row += [shown(journal.cells.get(key(levers, probe, length))) for levers in ("", recipe) for length in lengths]
        if any(row[1:]):
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=list(TASKS))
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--n", type=int, default=16, help="questions a task and length")
    parser.add_argument("--recipe", default=RECIPE)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no cell after so many minutes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "families.json")
    given = parser.parse_args()
    probes = [probe.name for probe in resolve([f"{family}:all" for family in given.families])[0]]
    lengths = sorted(given.lengths)
    record: dict[str, object] = {
        "benchmark": "families",
        "date": datetime.now(UTC).date().isoformat(),
        "problem": {"model": "reference", "n": given.n, "recipe": given.recipe, "floor": FLOOR, "floors": FLOORS},
    }
    journal = Journal(given.out, record, time.monotonic() + 60 * given.minutes)
    if given.minutes:
        measure(journal, probes, lengths, given.n, given.recipe)
    given.out.with_suffix(".md").write_text(table(journal, probes, lengths, given.recipe), encoding="utf-8")


if __name__ == "__main__":
    main()
