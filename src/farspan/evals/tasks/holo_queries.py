"""Queries by type and difficulty: their SQL, and which rows they rest on.

A new query is a new row of `QUERIES` and its question in the files of words. All SQL here gives the same rows under
SQLite and DuckDB.

Source: arXiv 2410.11996, section 3 (types and difficulty); the queries are our own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from farspan.evals.tasks import holo_parameters as draw
from farspan.evals.tasks.holo_parameters import Drawer, Parameters
from farspan.evals.tasks.holo_schemas import Schema
from farspan.evals.tasks.holo_sql import Row

Kind = Literal["comparison", "aggregation", "max_min", "join", "ranking"]
Difficulty = Literal["easy", "medium", "hard"]
Part = Literal["parent", "child", "event"]
Rests = Mapping[Part, str]

KINDS: tuple[Kind, ...] = ("comparison", "aggregation", "max_min", "join", "ranking")
MOST_ROWS = 50

WAYS: Mapping[str, Mapping[str, str]] = {
    "max": {"way": "DESC", "extreme": "MAX"},
    "min": {"way": "ASC", "extreme": "MIN"},
}


@dataclass(frozen=True)
class Query:
    """One kind of question.

    parts : tables it reads
    sql : with the slots of `slots` and of the parameters; by variant where there are several
    parameters : draws them
    verified : for each part, SQL of the numbers of rows that must be looked at
    witness : likewise of the rows that the answer is made of; the same ones where it is left out
    ordered : the order of the answer matters
    cut : SQL of the values that decide about first places, best first; ties among them make a question unclear
    per : SQL of the number of rows the answer must have
    can_be_empty : parameters can be drawn so that nothing is found
    """

    kind: Kind
    difficulty: Difficulty
    parts: tuple[Part, ...]
    sql: str | Mapping[str, str]
    parameters: Drawer
    verified: Rests
    witness: Rests = field(default_factory=dict)
    ordered: bool = False
    cut: str = ""
    per: str = ""
    can_be_empty: bool = False

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of its variants; one without a name where there is only one."""
        return ("",) if isinstance(self.sql, str) else tuple(self.sql)

    def text(self, variant: str) -> str:
        """The SQL of a variant, slots open."""
        return self.sql if isinstance(self.sql, str) else self.sql[variant]


def fill(sql: str, schema: Schema, parameters: Parameters, variant: str = "") -> str:
    """SQL with all slots filled; texts are quoted.

    `cj` joins children `c` with parents `p`, `ej` events `e` with children `c`, `eej` all three.
    """
    names = {
        "parent": schema.parent,
        "child": schema.child,
        "event": schema.event,
        "place": schema.place,
        "kind": schema.kind,
        "size": schema.size.name,
        "count": schema.count.name,
        "first": schema.first.name,
        "second": schema.second.name,
    }
    slots = {slot: f'"{name}"' for slot, name in names.items()}
    parent, child, event = slots["parent"], slots["child"], slots["event"]
    slots["cj"] = f'{child} c JOIN {parent} p ON c.{parent} = p."id"'
    slots["ej"] = f'{event} e JOIN {child} c ON e.{child} = c."id"'
    slots["eej"] = f'{slots["ej"]} JOIN {parent} p ON c.{parent} = p."id"'
    for name, value in parameters.items():
        slots[name] = "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)
    return sql.format(**slots, **WAYS.get(variant, {}))


def row_numbers(rows: Sequence[Row]) -> set[int]:
    """The numbers of rows that a query on `id` found."""
    return {int(str(value)) for row in rows for value in row.values()}


def _rests(join: str, rest: str, **letters: str) -> Rests:
    """SQL of the numbers of rows of each part of a join."""
    return {part: f'SELECT {letter}."id" FROM {join} {rest}' for part, letter in letters.items()}  # type: ignore[misc]


_CHILDREN: Rests = {"child": 'SELECT "id" FROM {child}'}
_IN_PLACE = _rests("{cj}", "WHERE p.{place} = {v}", child="c", parent="p")
_OF_KIND = "WHERE c.{kind} = {v}"
_MEAN = "CAST({k} AS DOUBLE PRECISION) * (SELECT AVG(CAST({count} AS DOUBLE PRECISION)) FROM {child})"
_EXTREME_OF_KIND = "c.{count} = (SELECT {extreme}(d.{count}) FROM {child} d WHERE d.{kind} = c.{kind})"
_BEST_IN_PLACE = "WHERE p.{place} = {v} ORDER BY c.{count} {way}"
_FIRST_ABOUT = 'WHERE c.{kind} = {v} ORDER BY e.{first} DESC, e."id" LIMIT {k}'


def _both_ways(sql: str) -> dict[str, str]:
    return dict.fromkeys(WAYS, sql)


QUERIES: dict[str, Query] = {
    "comparison_easy": Query(
        "comparison",
        "easy",
        ("child",),
        'SELECT "name" AS {child} FROM {child} WHERE {count} > {x} ORDER BY "id"',
        draw.count,
        _CHILDREN,
        {"child": 'SELECT "id" FROM {child} WHERE {count} > {x}'},
        can_be_empty=True,
    ),
    "comparison_medium": Query(
        "comparison",
        "medium",
        ("parent", "child"),
        'SELECT c."name" AS {child} FROM {cj} WHERE c.{count} > {x} AND p.{place} = {v} ORDER BY c."id"',
        draw.count_at,
        _IN_PLACE,
        _rests("{cj}", "WHERE c.{count} > {x} AND p.{place} = {v}", child="c", parent="p"),
        can_be_empty=True,
    ),
    "comparison_hard": Query(
        "comparison",
        "hard",
        ("child",),
        f'SELECT "name" AS {{child}} FROM {{child}} WHERE {{kind}} = {{v}} AND {{count}} > {_MEAN} ORDER BY "id"',
        draw.times_average,
        _CHILDREN,
    ),
    "aggregation_easy": Query(
        "aggregation",
        "easy",
        ("event",),
        {
            "count": "SELECT COUNT(*) AS number FROM {event} WHERE {second} > {x}",
            "sum": "SELECT SUM({first}) AS total FROM {event} WHERE {second} > {x}",
            "avg": "SELECT ROUND(AVG(CAST({first} AS DOUBLE PRECISION)), 2) AS average FROM {event} "
            "WHERE {second} > {x}",
        },
        draw.second,
        {"event": 'SELECT "id" FROM {event} WHERE {second} > {x}'},
    ),
    "aggregation_medium": Query(
        "aggregation",
        "medium",
        ("child",),
        "SELECT {kind}, COUNT(*) AS number FROM {child} GROUP BY {kind} ORDER BY {kind}",
        draw.nothing,
        _CHILDREN,
    ),
    "aggregation_hard": Query(
        "aggregation",
        "hard",
        ("parent", "child"),
        "SELECT p.{place} AS {place}, COUNT(*) AS number FROM {cj} GROUP BY p.{place} HAVING COUNT(*) > {x} "
        "ORDER BY p.{place}",
        draw.many,
        _rests("{cj}", "", child="c", parent="p"),
    ),
    "max_min_easy": Query(
        "max_min",
        "easy",
        ("child",),
        _both_ways('SELECT "name" AS {child}, {count} FROM {child} ORDER BY {count} {way} LIMIT 1'),
        draw.nothing,
        _CHILDREN,
        {"child": 'SELECT "id" FROM {child} ORDER BY {count} {way} LIMIT 1'},
        cut="SELECT {count} FROM {child} ORDER BY {count} {way} LIMIT 2",
    ),
    "max_min_medium": Query(
        "max_min",
        "medium",
        ("parent", "child"),
        _both_ways(f'SELECT c."name" AS {{child}}, c.{{count}} AS {{count}} FROM {{cj}} {_BEST_IN_PLACE} LIMIT 1'),
        draw.at,
        _IN_PLACE,
        _rests("{cj}", f"{_BEST_IN_PLACE} LIMIT 1", child="c", parent="p"),
        cut=f"SELECT c.{{count}} AS {{count}} FROM {{cj}} {_BEST_IN_PLACE} LIMIT 2",
    ),
    "max_min_hard": Query(
        "max_min",
        "hard",
        ("child",),
        _both_ways(
            'SELECT c.{kind} AS {kind}, c."name" AS {child}, c.{count} AS {count} FROM {child} c '
            f"WHERE {_EXTREME_OF_KIND} ORDER BY c.{{kind}}"
        ),
        draw.nothing,
        _CHILDREN,
        {"child": f'SELECT c."id" FROM {{child}} c WHERE {_EXTREME_OF_KIND}'},
        per="SELECT COUNT(DISTINCT {kind}) AS number FROM {child}",
    ),
    "join_easy": Query(
        "join",
        "easy",
        ("parent", "child"),
        'SELECT p."name" AS {parent}, p.{place} AS {place} FROM {cj} WHERE c."id" = {key}',
        draw.key,
        _rests("{cj}", 'WHERE c."id" = {key}', child="c", parent="p"),
    ),
    "join_medium": Query(
        "join",
        "medium",
        ("parent", "child"),
        f'SELECT c."name" AS {{child}}, p."name" AS {{parent}} FROM {{cj}} {_OF_KIND} AND p.{{size}} > {{x}} '
        'ORDER BY c."id"',
        draw.large,
        _rests("{cj}", _OF_KIND, child="c", parent="p"),
        _rests("{cj}", f"{_OF_KIND} AND p.{{size}} > {{x}}", child="c", parent="p"),
        can_be_empty=True,
    ),
    "join_hard": Query(
        "join",
        "hard",
        ("parent", "child", "event"),
        f'SELECT e."id" AS {{event}}, c."name" AS {{child}}, p."name" AS {{parent}} FROM {{eej}} {_OF_KIND} '
        'AND e.{second} > {x} ORDER BY e."id"',
        draw.about,
        _rests("{eej}", _OF_KIND, event="e", child="c", parent="p"),
        _rests("{eej}", f"{_OF_KIND} AND e.{{second}} > {{x}}", event="e", child="c", parent="p"),
        can_be_empty=True,
    ),
    "ranking_easy": Query(
        "ranking",
        "easy",
        ("child",),
        'SELECT "name" AS {child}, {count} FROM {child} ORDER BY {count} DESC LIMIT {k}',
        draw.top,
        _CHILDREN,
        {"child": 'SELECT "id" FROM {child} ORDER BY {count} DESC LIMIT {k}'},
        ordered=True,
        cut="SELECT {count} FROM {child} ORDER BY {count} DESC LIMIT {k} + 1",
    ),
    "ranking_medium": Query(
        "ranking",
        "medium",
        ("child",),
        "SELECT {kind}, SUM({count}) AS total FROM {child} GROUP BY {kind} ORDER BY SUM({count}) DESC LIMIT {k}",
        draw.top_kinds,
        _CHILDREN,
        ordered=True,
        cut="SELECT SUM({count}) AS total FROM {child} GROUP BY {kind} ORDER BY SUM({count}) DESC LIMIT {k} + 1",
    ),
    "ranking_hard": Query(
        "ranking",
        "hard",
        ("child", "event"),
        f'SELECT e."id" AS {{event}}, c."name" AS {{child}}, e.{{first}} AS {{first}} FROM {{ej}} {_FIRST_ABOUT}',
        draw.top_about,
        _rests("{ej}", _OF_KIND, event="e", child="c"),
        _rests("{ej}", _FIRST_ABOUT, event="e", child="c"),
        ordered=True,
    ),
}
