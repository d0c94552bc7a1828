"""The published needle-threading suite: its grid of experiments, and its data files read as samples.

Nothing is downloaded; files are named by the user.

Source: arXiv 2411.05000.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from farspan.evals.generate.length import LengthTarget
from farspan.evals.rows import read_rows, required
from farspan.evals.schema import LongSample
from farspan.evals.tasks.family import KnobError
from farspan.evals.tasks.needle_threading import (
    OFFICIAL_NEW_TOKENS,
    OFFICIAL_TOKENS_PER_VALUE,
    NeedleThreading,
)
from farspan.evals.tasks.uuid_threads import CHARACTERS_PER_PAIR, Direction

PAPER_CHARACTERS = (2000, 4300, 8500, 17000, 34100, 54400, 109100, 218400, 307000, 426800, 853400, 1074900)
PAPER_NEEDLES = (1, 2, 3, 4, 5, 10, 15, 20, 25)
PAPER_THREADS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 25)
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward", "random")
OFFICIAL_TASKS = {
    "Single_Needle": "single",
    "Multi_Needle": "multi",
    "Multiple_Needles": "multi",
    "Conditional_Needle": "conditional",
    "Conditional_Needles": "conditional",
    "Single_Thread": "thread",
    "Single_Threads": "thread",
    "Multi_Thread": "multi_thread",
    "Multi_Threads": "multi_thread",
}


@dataclass(frozen=True)
class Cell:
    """One cell of a grid of experiments: arguments of `NeedleThreading.sample`."""

    task: str
    length: LengthTarget
    index: int
    knobs: Mapping[str, object]


def paper_grid(characters: Sequence[int] = PAPER_CHARACTERS, repeats: int = 5) -> list[Cell]:
    """The published suite: every cell of its five tasks at every length; cells that cannot be built are left out.

    The pairs of a repeat are those of the seed with its number.

    Source: arXiv 2411.05000, section 4.
    """
    cells = []
    for count in characters:
        n = round(count / CHARACTERS_PER_PAIR)
        for repeat in range(repeats):
            wanted: list[tuple[str, int, dict[str, object]]] = [
                ("single", 1, {"depth": float(depth)}) for depth in range(0, 101, 10)
            ]
            wanted += [
                (task, needles, {"n_needles": needles, "placement": placement})
                for task in ("multi", "conditional")
                for needles in PAPER_NEEDLES
                for placement in ("random", "clustered")
            ]
            wanted += [
                ("thread", pairs, {"thread_length": pairs, "direction": direction})
                for pairs in PAPER_THREADS
                for direction in DIRECTIONS
            ]
            wanted += [
                (
                    "multi_thread",
                    threads * pairs,
                    {"n_threads": threads, "thread_length": pairs, "direction": direction},
                )
                for threads in (2, 3, 4, 5)
                for pairs in (2, 3, 4, 5, 10)
                for direction in DIRECTIONS
            ]
            target = LengthTarget(value=n, unit="units")
            for task, needed, knobs in wanted:
                if needed <= n:
                    cells.append(Cell(task, target, repeat, {**knobs, "haystack_seed": repeat}))
    return cells


def quick_grid(lengths: Sequence[int] = (1229, 5120, 20480, 65536), depths: int = 5, repeats: int = 3) -> list[Cell]:
    """Single needles at a few lengths (tokens) and depths, for a first look."""
    grid = [100.0 * point / (depths - 1) for point in range(depths)] if depths > 1 else [0.0]
    return [
        Cell("single", LengthTarget(value=length), repeat, {"depth": depth})
        for length in lengths
        for repeat in range(repeats)
        for depth in grid
    ]


def read_official(path: str | Path, task: str | None = None) -> list[LongSample]:
    """Read published records (JSON or parquet) as samples.

    Parameters
    ----------
    path : a file named after its split, such as `Single_Needle.json`
    task : this family's task, where the file's name does not say it

    Raises
    ------
    FarspanError : unknown task, unreadable rows, or rows without the published fields.
    """
    stem = Path(path).stem
    found = task or next((name for prefix, name in OFFICIAL_TASKS.items() if stem.startswith(prefix)), None)
    if found is None or found not in NeedleThreading.tasks:
        raise KnobError(f"{path}: name the task, one of {', '.join(NeedleThreading.tasks)}")
    samples = []
    for number, row in enumerate(read_rows(path)):
        get = partial(required, row, path=path, row_number=number)
        answers = _listed(get("values"))
        depth = str(row.get("needle_depth", "N/A"))
        samples.append(
            LongSample(
                id=f"nt/{found}/{get('num_kv_pairs')}/{depth}/{row.get('repeat_number', number)}/{get('id')}",
                benchmark="needle_threading",
                task=found,
                context=str(get("haystack")) + "\n",
                question=str(get("question")),
                answers=answers,
                answer_kind="alternatives" if found in ("single", "thread") else "all_required",
                max_new_tokens=OFFICIAL_NEW_TOKENS + OFFICIAL_TOKENS_PER_VALUE * len(answers),
                metadata={
                    "length": int(str(get("context_length"))),
                    "length_unit": "chars",
                    "depth": float(depth) if depth.replace(".", "").isdigit() else None,
                    "task": found,
                    "style": "json",
                    "shared_context_key": "",
                    "evidence_spans": [],
                    "comparability": "official",
                    "raw": {key: value for key, value in row.items() if key != "haystack"},
                },
            )
        )
    return samples


def _listed(values: object) -> list[str]:
    """One value or several, from a string, a list, or a list written as JSON or with commas."""
    if isinstance(values, str) and values.lstrip().startswith("["):
        values = json.loads(values.replace("'", '"'))
    if isinstance(values, str):
        values = values.split(",")
    assert isinstance(values, Sequence)
    return [str(value).strip() for value in values]
