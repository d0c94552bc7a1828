"""Contexts of verbalised rows: which rows go in, in which order, and the rows a query finds among them.

The published way is kept for comparison: sizes guessed from characters, rows always from the top, duplicates when
tables run out. Ours counts tokens, draws the order of rows, and never duplicates.

Source: arXiv 2410.11996, section 3.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from farspan.errors import FarspanError
from farspan.evals.generate.rng import derive_seed, shuffled
from farspan.evals.tasks.holo_sql import Row, Value, run_query, tables_read

Strategy = Literal["uniform", "begin", "end", "middle", "bimodal"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
CHARACTERS_PER_TOKEN = 3.66


@dataclass(frozen=True)
class Line:
    """A row as a sentence and as data."""

    text: str
    row: Mapping[str, Value]

    @classmethod
    def read(cls, text: str, row: str) -> Line:
        """From a sentence and a JSON object.

        Raises
        ------
        FarspanError : the row is no JSON object.
        """
        try:
            loaded = json.loads(row)
        except json.JSONDecodeError as error:
            raise FarspanError(f"a row must be a JSON object, not {row[:60]!r}") from error
        if not isinstance(loaded, dict):
            raise FarspanError(f"a row must be a JSON object, not {row[:60]!r}")
        return cls(text, loaded)


@dataclass(frozen=True)
class HoloContext:
    """A context and what a query finds in it.

    text, lines : the sentences joined by newlines, and one by one
    main_indices : places in `lines` of rows of tables that the query reads
    rows : for each line its table and its place there
    gold_rows : rows of the query on exactly those lines
    n_main_tokens, n_aux_tokens : sizes by the counter that was used
    exhausted : a class of tables ran out before its budget
    """

    text: str
    lines: tuple[str, ...]
    main_indices: tuple[int, ...]
    rows: tuple[tuple[str, int], ...]
    gold_rows: tuple[Row, ...]
    n_main_tokens: int
    n_aux_tokens: int
    exhausted: bool


def char_token_estimate(text: str) -> int:
    """The published guess of a sentence's tokens: characters by 3.66, and one more."""
    return int(len(text) // CHARACTERS_PER_TOKEN) + 1


def merge_contexts(
    main: Sequence[str], aux: Sequence[str], strategy: str, official: bool = False
) -> tuple[list[str], list[int]]:
    """Merge sentences that matter with those that do not.

    Parameters
    ----------
    strategy : `uniform` spreads the others evenly; `begin`, `end`, `middle` keep those that matter together;
        `bimodal` puts half of them at either end
    official : split as published, `middle` by half the number of those that matter and `bimodal` by half the number of
        the others, which leaves the middle near the start and both ends at the front where numbers differ

    Returns
    -------
    The merged sentences, and the places of those that matter.

    Raises
    ------
    FarspanError : an unknown strategy.
    """
    order = merge_order(len(main), len(aux), strategy, official)
    merged = [main[place] if matters else aux[place] for matters, place in order]
    return merged, [index for index, (matters, _) in enumerate(order) if matters]


def merge_order(m: int, a: int, strategy: str, official: bool = False) -> list[tuple[bool, int]]:
    """For each place of the merged list, whether it matters and its number among its like; see `merge_contexts`."""
    if strategy not in STRATEGIES:
        raise FarspanError(f"position is one of {', '.join(STRATEGIES)}, not '{strategy}'")
    main, aux = [(True, i) for i in range(m)], [(False, i) for i in range(a)]
    if not m or not a or strategy == "begin":
        return main + aux
    if strategy == "end":
        return aux + main
    if strategy == "middle":
        cut = m // 2 if official else a // 2
        return aux[:cut] + main + aux[cut:]
    if strategy == "bimodal":
        cut = a // 2 if official else m // 2
        return main[:cut] + aux + main[cut:]
    return _uniform(m, a)


def _uniform(m: int, a: int) -> list[tuple[bool, int]]:
    """Number j of the others stands at place int(j (m + a) / a) of the merged list."""
    step = (m + a) / a
    # Inserting ascending places into a list of the m others' predecessors leaves each at the place it was put.
    taken = {min(int(j * step), m + j): j for j in range(a)}
    order: list[tuple[bool, int]] = []
    next_main = 0
    for place in range(m + a):
        if place in taken:
            order.append((False, taken[place]))
        else:
            order.append((True, next_main))
            next_main += 1
    return order


def load_context(
    query: str,
    tables: Mapping[str, Sequence[Line]],
    max_context_size: int,
    info_density: float = 1.0,
    info_amount: int = -1,
    merge_strategy: str = "uniform",
    official: bool = False,
    counter: Callable[[str], int] | None = None,
    seed: int | None = None,
) -> HoloContext:
    """Choose rows for a query, merge them, and run the query on them.

    Parameters
    ----------
    tables : sentences and rows of every table, in the order of the data set
    max_context_size : tokens of all sentences, each with its newline
    info_density : share of them for rows of tables the query reads, where `info_amount` is -1
    info_amount : tokens of those rows
    official : the published algorithm (no seed and no counter)
    counter : tokens of a text; None takes the published guess
    seed : order of the rows of each table; None keeps it

    Raises
    ------
    QueryError : the query cannot be run, or reads no table.
    FarspanError : unknown strategy, more information than context, or (official) an endless loop.
    """
    if not 0 <= info_density <= 1:
        raise FarspanError(f"info_density is a share from 0 to 1, not {info_density}")
    if info_amount > max_context_size:
        raise FarspanError(f"info_amount {info_amount} is more than the context of {max_context_size}; lower it")
    columns = {name: list(lines[0].row) if lines else [] for name, lines in tables.items()}
    main = tables_read(query, columns)
    budget = info_amount if info_amount > 0 else int(max_context_size * info_density)
    # Without an amount the published rule leaves the other class the whole context, and one token more.
    rest = max_context_size - (info_amount if official else budget)
    if official:
        chosen, used, exhausted = _published(tables, main, budget, rest)
    else:
        chosen, used, exhausted = _ours(tables, main, budget, rest, counter or char_token_estimate, seed)
    picked = {
        True: [pick for pick in chosen if pick[0] in main],
        False: [pick for pick in chosen if pick[0] not in main],
    }
    order = merge_order(len(picked[True]), len(picked[False]), merge_strategy, official)
    rows = [picked[matters][place] for matters, place in order]
    lines = [tables[name][index].text for name, index in rows]
    held = {name: [tables[name][index].row for table, index in picked[True] if table == name] for name in tables}
    gold = run_query(query, held, "sqlite", columns)
    return HoloContext(
        text="\n".join(lines),
        lines=tuple(lines),
        main_indices=tuple(index for index, (matters, _) in enumerate(order) if matters),
        rows=tuple(rows),
        gold_rows=tuple(gold),
        n_main_tokens=used[True],
        n_aux_tokens=used[False],
        exhausted=exhausted,
    )


Picks = tuple[list[tuple[str, int]], dict[bool, int], bool]


def _published(tables: Mapping[str, Sequence[Line]], main: set[str], budget: int, rest: int) -> Picks:
    """Rows from the top of every table in turn, each counted before it is known whether it fits."""
    limits, used = {True: budget, False: rest}, {True: 0, False: 0}
    if all(name in main for name in tables) or not any(tables.values()):
        raise FarspanError("the query reads every table, so the published way never ends; use official=False")
    longest = max(map(len, tables.values()))
    chosen: list[tuple[str, int]] = []
    index, exhausted = 0, False
    while any(used[kind] < limits[kind] for kind in used):
        for name, lines in tables.items():
            kind = name in main
            if index >= len(lines) or used[kind] >= limits[kind]:
                continue
            used[kind] += char_token_estimate(lines[index].text)
            if used[kind] < limits[kind]:
                chosen.append((name, index))
        index += 1
        if index >= longest:
            index, exhausted = 0, True
    return chosen, used, exhausted


def _ours(
    tables: Mapping[str, Sequence[Line]],
    main: set[str],
    budget: int,
    rest: int,
    counter: Callable[[str], int],
    seed: int | None,
) -> Picks:
    """Rows of every table in turn, in drawn order, until the next one would not fit; none twice."""
    limits, used = {True: budget, False: rest}, {True: 0, False: 0}
    orders = {
        name: list(range(len(lines))) if seed is None else shuffled(Random(derive_seed(seed, name)), range(len(lines)))
        for name, lines in tables.items()
    }
    chosen: list[tuple[str, int]] = []
    closed: dict[bool, bool] = {True: False, False: False}
    for turn in range(max(map(len, tables.values()), default=0)):
        for name, lines in tables.items():
            kind = name in main
            if turn >= len(lines) or closed[kind]:
                continue
            index = orders[name][turn]
            size = counter(lines[index].text + "\n")
            if used[kind] + size > limits[kind]:
                closed[kind] = True
                continue
            used[kind] += size
            chosen.append((name, index))
    return chosen, used, not all(closed[kind] or limits[kind] <= 0 for kind in closed)
