"""Questions on the rows of a context: drawn until one is clear, with its answer and the rows it rests on.

Source: arXiv 2410.11996, section 3; what makes a question clear is our own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from farspan.evals.tasks.holo_parameters import Parameters
from farspan.evals.tasks.holo_queries import MOST_ROWS, Query, fill, row_numbers
from farspan.evals.tasks.holo_rows import Entry
from farspan.evals.tasks.holo_schemas import Schema
from farspan.evals.tasks.holo_sql import Database, Engine, Row, Tables, run_query

TRIES = 40


@dataclass(frozen=True)
class Instance:
    """A question with its answer.

    witness : keys of the entries that the answer is made of
    verified : keys of the entries that must be looked at to be sure of it
    sensitivity : whether the answer changes when one of the first, drawn at random, is taken away
    """

    variant: str
    parameters: Parameters
    sql: str
    columns: tuple[str, ...]
    gold: tuple[Row, ...]
    witness: frozenset[str]
    verified: frozenset[str]
    sensitivity: float


def tables_of(entries: Sequence[Entry], tables: Sequence[str]) -> dict[str, list[Row]]:
    """The rows of entries by table."""
    found: dict[str, list[Row]] = {table: [] for table in tables}
    for entry in entries:
        if entry.table in found:
            found[entry.table].append(entry.row)
    return found


def draw_instances(
    query: Query, schema: Schema, entries: Sequence[Entry], seed: int, count: int, empty_share: float, engine: Engine
) -> list[Instance]:
    """Up to `count` different clear questions of a kind on given entries; fewer where there are not so many.

    A question is clear if it has 1 to 50 rows (or is meant to have none), no empty value, no tie at a cut, and the same
    rows under SQLite and, if that is the engine, DuckDB.
    """
    tables = {getattr(schema, part): part for part in query.parts}
    rows = tables_of(entries, list(tables))
    if not all(rows.values()):
        return []
    columns = {table: schema.columns(table) for table in tables}
    rng = Random(seed)
    found: dict[str, Instance] = {}
    with Database(rows, columns) as database:
        for _ in range(TRIES * count):
            if len(found) == count:
                break
            empty = query.can_be_empty and rng.random() < empty_share
            instance = _attempt(query, schema, rows, columns, database, rng, empty, engine)
            if instance is not None:
                found.setdefault(instance.sql, instance)
    return list(found.values())


def _attempt(
    query: Query,
    schema: Schema,
    rows: Tables,
    columns: Mapping[str, Sequence[str]],
    database: Database,
    rng: Random,
    empty: bool,
    engine: Engine,
) -> Instance | None:
    variant = query.variants[rng.randrange(len(query.variants))]
    parameters = query.parameters(schema, rows, rng, empty)
    if parameters is None:
        return None
    sql = fill(query.text(variant), schema, parameters, variant)
    gold = database.run(sql)
    if empty != (not gold) or len(gold) > MOST_ROWS or any(value is None for row in gold for value in row.values()):
        return None
    if query.cut:
        values = [next(iter(row.values())) for row in database.run(fill(query.cut, schema, parameters, variant))]
        if len(set(values)) < len(values):
            return None
    if query.per and row_numbers(database.run(fill(query.per, schema, parameters, variant))) != {len(gold)}:
        return None
    if engine == "duckdb":
        other = run_query(sql, rows, "duckdb", columns)
        if not same_rows(gold, other):
            return None
        gold = other
    numbers: dict[str, set[str]] = {"witness": set(), "verified": set()}
    for kind, rests in (("witness", query.witness or query.verified), ("verified", query.verified)):
        for part, text in rests.items():
            table = getattr(schema, part)
            ids = row_numbers(database.run(fill(text, schema, parameters, variant)))
            numbers[kind] |= {f"{table} {number}" for number in ids}
    witness = numbers["witness"]
    return Instance(
        variant=variant,
        parameters=parameters,
        sql=sql,
        columns=tuple(gold[0]) if gold else (),
        gold=tuple(gold),
        witness=frozenset(witness),
        verified=frozenset(numbers["verified"] | witness),
        sensitivity=_sensitivity(sql, gold, sorted(witness), rows, columns, rng),
    )


def _sensitivity(
    sql: str,
    gold: Sequence[Row],
    witness: Sequence[str],
    rows: Tables,
    columns: Mapping[str, Sequence[str]],
    rng: Random,
) -> float:
    """1 if the answer changes without one of its rows."""
    if not witness:
        return 0.0
    table, _, number = witness[rng.randrange(len(witness))].rpartition(" ")
    less = {name: [row for row in mine if name != table or str(row["id"]) != number] for name, mine in rows.items()}
    return float(not same_rows(gold, run_query(sql, less, "sqlite", columns)))


def same_rows(one: Sequence[Row], other: Sequence[Row]) -> bool:
    """Whether two results have equal columns and, but for rounding, equal values."""
    if len(one) != len(other) or any(list(a) != list(b) for a, b in zip(one, other, strict=True)):
        return False
    for a, b in zip(one, other, strict=True):
        for name, value in a.items():
            if isinstance(value, float) and isinstance(b[name], int | float):
                if not math.isclose(value, float(str(b[name])), rel_tol=1e-9, abs_tol=1e-9):
                    return False
            elif value != b[name]:
                return False
    return True
