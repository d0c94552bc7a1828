"""Parameters of queries, drawn from the rows that are there, so that something is found, and not too much.

Each function takes the schema, the rows, a random stream, and whether nothing shall be found; it returns None where no
parameters make sense.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

from farspan.evals.tasks.holo_schemas import Schema
from farspan.evals.tasks.holo_sql import Tables, Value

Parameters = dict[str, Value]
Drawer = Callable[[Schema, Tables, Random, bool], "Parameters | None"]

FEW = (3, 12)
"""Rows that thresholds are drawn to let through, where tables hold that many."""


def _above(values: Sequence[Value], rng: Random, empty: bool) -> Value:
    """A threshold that lets a few of the values through, or none."""
    ordered = sorted((value for value in values if isinstance(value, int)), reverse=True)
    if not ordered:
        return None
    wanted = 0 if empty else rng.randint(min(FEW[0], len(ordered) - 1), min(FEW[1], len(ordered) - 1))
    return ordered[wanted]


def _of(tables: Tables, table: str, column: str) -> list[Value]:
    return [row[column] for row in tables[table]]


def _by_id(tables: Tables, table: str) -> dict[Value, Mapping[str, Value]]:
    return {row["id"]: row for row in tables[table]}


def _pairs(tables: Tables, schema: Schema) -> list[tuple[Mapping[str, Value], Mapping[str, Value]]]:
    """Children with their parents, as far as these are there."""
    parents = _by_id(tables, schema.parent)
    children = tables[schema.child]
    return [(child, parents[child[schema.parent]]) for child in children if child[schema.parent] in parents]


def count(schema: Schema, tables: Tables, rng: Random, empty: bool) -> Parameters | None:
    """A threshold of the children's count."""
    x = _above(_of(tables, schema.child, schema.count.name), rng, empty)
    return None if x is None else {"x": x}


def count_at(schema: Schema, tables: Tables, rng: Random, empty: bool) -> Parameters | None:
    """A place of parents, and a threshold of the count of their children."""
    pairs = _pairs(tables, schema)
    if not pairs:
        return None
    value = pairs[rng.randrange(len(pairs))][1][schema.place]
    mine = [child[schema.count.name] for child, parent in pairs if parent[schema.place] == value]
    return {"v": value, "x": _above(mine, rng, empty)}


def times_average(schema: Schema, tables: Tables, rng: Random, empty: bool) -> Parameters | None:
    """A kind, and a factor of the average that few of its children exceed."""
    rows = tables[schema.child]
    counts = [float(str(row[schema.count.name])) for row in rows]
    value = rows[rng.randrange(len(rows))][schema.kind]
    mine = [count for row, count in zip(rows, counts, strict=True) if row[schema.kind] == value]
    average = sum(counts) / len(counts)
    for k in (1.0, 1.25, 1.5, 1.75, 1.9):
        if 0 < sum(count > k * average for count in mine) <= FEW[1]:
            return {"v": value, "k": k}
    return None


def second(schema: Schema, tables: Tables, rng: Random, empty: bool) -> Parameters | None:
    """A threshold of the events' second number that lets a good part of them through."""
    values = sorted(int(str(value)) for value in _of(tables, schema.event, schema.second.name))
    return {"x": values[int(len(values) * (0.2 + 0.5 * rng.random()))]} if len(values) > 1 else None


def many(schema: Schema, tables: Tables, rng: Random, empty: bool) -> Parameters | None:
    """A number of children that some places exceed and others do not."""
    parents = _by_id(tables, schema.parent)
    found: dict[Value, int] = {}
    for child in tables[schema.child]:
        if child[schema.parent] in parents:
            place = parents[child[schema.parent]][schema.place]
            found[place] = found.get(place, 0) + 1
    sizes = sorted(set(found.values()))
    return {"x": sizes[rng.randrange(len(sizes) - 1)]} if len(sizes) > 1 else None


def nothing(schema: Schema, tables: Tables, rng: Random, empty: bool) -> Parameters | None:
    """No parameters."""
    return {}


def at(schema: Schema, tables: Tables, rng: Random, empty: bool) -> Parameters | None:
    """A place of parents."""
    found = count_at(schema, tables, rng, empty)
    return None if found is None else {"v": found["v"]}


def key(schema: Schema, tables: Tables, rng: Random, empty: bool) -> Parameters | None:
    """The number of a child whose parent is there."""
    parents = _by_id(tables, schema.parent)
    keys = [child["id"] for child in tables[schema.child] if child[schema.parent] in parents]
    return {"key": keys[rng.randrange(len(keys))]} if keys else None


def large(schema: Schema, tables: Tables, rng: Random, empty: bool) -> Parameters | None:
    """A kind of children, and a threshold of their parents' size."""
    pairs = _pairs(tables, schema)
    if not pairs:
        return None
    value = pairs[rng.randrange(len(pairs))][0][schema.kind]
    sizes = [parent[schema.size.name] for child, parent in pairs if child[schema.kind] == value]
    return {"v": value, "x": _above(sizes, rng, empty)}


def about(schema: Schema, tables: Tables, rng: Random, empty: bool) -> Parameters | None:
    """A kind of children, and a threshold of the second number of events about them."""
    parents, children = _by_id(tables, schema.parent), _by_id(tables, schema.child)
    pairs = [
        (event, children[event[schema.child]])
        for event in tables[schema.event]
        if event[schema.child] in children and children[event[schema.child]][schema.parent] in parents
    ]
    if not pairs:
        return None
    value = pairs[rng.randrange(len(pairs))][1][schema.kind]
    mine = [event[schema.second.name] for event, child in pairs if child[schema.kind] == value]
    return {"v": value, "x": _above(mine, rng, empty)}


def top(schema: Schema, tables: Tables, rng: Random, empty: bool) -> Parameters | None:
    """How many come first."""
    return {"k": rng.randint(3, 5)} if len(tables[schema.child]) > 5 else None


def top_kinds(schema: Schema, tables: Tables, rng: Random, empty: bool) -> Parameters | None:
    """How many kinds come first, fewer than there are."""
    kinds = len(set(_of(tables, schema.child, schema.kind)))
    return {"k": rng.randint(2, min(4, kinds - 1))} if kinds > 2 else None


def top_about(schema: Schema, tables: Tables, rng: Random, empty: bool) -> Parameters | None:
    """A kind of children, and how many of the events about them come first."""
    children = _by_id(tables, schema.child)
    kinds: dict[Value, int] = {}
    for event in tables[schema.event]:
        if event[schema.child] in children:
            kind = children[event[schema.child]][schema.kind]
            kinds[kind] = kinds.get(kind, 0) + 1
    common = [kind for kind, found in kinds.items() if found >= 3]
    if not common:
        return None
    value = common[rng.randrange(len(common))]
    return {"v": value, "k": rng.randint(2, min(5, kinds[value] - 1))}
