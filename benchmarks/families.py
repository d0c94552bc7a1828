"""The bundled model on every generated family, as it is and with the recipe that a tune run finds.

The usual tasks of each family, lengths from 1k to 16k, the same questions with and without the recipe. Effective
lengths are at 75 % of what can be scored; most of these tasks are beyond a model of four million parameters, which is
what the table is to say. Results go to `benchmarks/results/families.json`.

    python benchmarks/families.py
    python benchmarks/families.py --families lines --lengths 512 --n 4 --out /dev/stdout
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path

from farspan.evals import evaluate
from farspan.evals.evaluation import Evaluation
from farspan.evals.tasks import TASKS
from farspan.models import load
from farspan.recipe import Recipe

RECIPE = "yarn:factor=8"


def rows(found: Evaluation) -> dict[str, object]:
    """Mean score in percent, its interval and n by task and length."""
    return {
        task.name: {
            "by_length": {
                cell.length: {"score": round(100 * cell.mean, 1), "lo": round(100 * cell.lo, 1)}
                | {"hi": round(100 * cell.hi, 1), "n": cell.n}
                for cell in task.by_length()
            },
            "effective_length": task.effective.value,
            "censoring": task.effective.censoring,
        }
        for task in found.tasks
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", default=list(TASKS))
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--recipe", default=RECIPE)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "families.json")
    given = parser.parse_args()
    model, tokenizer = load("reference")
    record: dict[str, object] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": "reference",
        "n": given.n,
        "lengths": given.lengths,
        "recipe": given.recipe,
    }
    for label, recipe in (("as_it_is", Recipe()), ("with_recipe", Recipe.parse(given.recipe))):
        tables: dict[str, object] = {}
        for family in given.families:
            started = time.monotonic()
            with recipe(model):
                found = evaluate(model, tokenizer, [family], given.lengths, n=given.n)
            tables |= rows(found)
            print(f"{label}: {family}: {time.monotonic() - started:.0f} s", flush=True)
        record[label] = tables
    given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
