"""Queries on small tables in memory: which tables a query reads, and its rows.

Two engines give the same rows for generated queries; published ones are written for SQLite. Nothing but a single
SELECT is ever run.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Literal, Self

from farspan.errors import FarspanError

Value = str | int | float | None
Row = dict[str, Value]
Tables = Mapping[str, Sequence[Mapping[str, Value]]]
Engine = Literal["duckdb", "sqlite"]
ENGINES: tuple[Engine, ...] = ("duckdb", "sqlite")

_READING = (
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
)


class QueryError(FarspanError):
    """A query that cannot be run: not a SELECT, unknown names, or no table in it."""


def tables_read(query: str, columns: Mapping[str, Sequence[str]]) -> set[str]:
    """Names of the tables a query reads, as SQLite itself resolves them.

    Parameters
    ----------
    columns : the columns of every table there is

    Raises
    ------
    QueryError : the query is no SELECT, names unknown tables or columns, or reads none.
    """
    connection = _sqlite({name: [] for name in columns}, columns)
    known = {name.lower(): name for name in columns}
    found: set[str] = set()

    def watch(action: int, first: str | None, *_: object) -> int:
        if action == sqlite3.SQLITE_READ and first and first.lower() in known:
            found.add(known[first.lower()])
        return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY

    connection.set_authorizer(watch)
    try:
        connection.execute(query).close()
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise QueryError(_refused(query, error)) from error
    finally:
        connection.close()
    if not found:
        raise QueryError(f"the query reads no table: {query}")
    return found


class Database:
    """Tables of SQLite in memory that can be asked several times; a context manager.

    Parameters
    ----------
    tables, columns : as for `run_query`
    """

    def __init__(self, tables: Tables, columns: Mapping[str, Sequence[str]]) -> None:
        self._connection = _sqlite(tables, columns)
        self._connection.set_authorizer(
            lambda action, *_: sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def run(self, query: str) -> list[Row]:
        """The rows of a query.

        Raises
        ------
        QueryError : it is no SELECT, or names what there is not.
        """
        try:
            cursor = self._connection.execute(query)
            names = [str(column[0]) for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise QueryError(_refused(query, error)) from error


def run_query(
    query: str, tables: Tables, engine: Engine = "sqlite", columns: Mapping[str, Sequence[str]] | None = None
) -> list[Row]:
    """The rows of a query on tables that hold exactly the given rows.

    Parameters
    ----------
    columns : the columns of the tables, needed for those without rows

    Raises
    ------
    QueryError : see `tables_read`; or an unknown engine.
    """
    named = {name: list(columns[name]) if columns else _columns(rows) for name, rows in tables.items()}
    if engine == "sqlite":
        with Database(tables, named) as database:
            return database.run(query)
    if engine != "duckdb":
        raise QueryError(f"engine is one of {', '.join(ENGINES)}, not '{engine}'")
    tables_read(query, named)
    return _run_duckdb(query, tables, named)


def _sqlite(tables: Tables, columns: Mapping[str, Sequence[str]]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    for name, rows in tables.items():
        fields = columns[name]
        declared = ", ".join(f"{_quoted(field)} {_affinity([row.get(field) for row in rows])}" for field in fields)
        connection.execute(f"CREATE TABLE {_quoted(name)} ({declared or 'nothing'})")
        if rows and fields:
            slots = ", ".join("?" * len(fields))
            values = [tuple(row.get(field) for field in fields) for row in rows]
            connection.executemany(f"INSERT INTO {_quoted(name)} VALUES ({slots})", values)
    return connection


def _run_duckdb(query: str, tables: Tables, columns: Mapping[str, Sequence[str]]) -> list[Row]:
    import duckdb
    import pyarrow

    connection = duckdb.connect(":memory:")
    try:
        for name, rows in tables.items():
            arrays = {
                field: pyarrow.array([row.get(field) for row in rows], type=_arrow([row.get(field) for row in rows]))
                for field in columns[name]
            }
            connection.register(name, pyarrow.table(arrays))
        result = connection.execute(query)
        names = [str(column[0]) for column in result.description or ()]
        return [{name: _plain(value) for name, value in zip(names, row, strict=True)} for row in result.fetchall()]
    except duckdb.Error as error:
        raise QueryError(_refused(query, error)) from error
    finally:
        connection.close()


def _arrow(values: Sequence[Value]) -> object:
    import pyarrow

    affinity = _affinity(values)
    return {"INTEGER": pyarrow.int64(), "REAL": pyarrow.float64(), "TEXT": pyarrow.string()}[affinity]


def _affinity(values: Sequence[Value]) -> str:
    """The type of a column: whole numbers, numbers, or text."""
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, int) for value in known):
        return "INTEGER"
    return "REAL" if known and all(isinstance(value, int | float) for value in known) else "TEXT"


def _plain(value: object) -> Value:
    """A value as SQLite would give it: sums of whole numbers are whole, decimals are floats."""
    if value is None or isinstance(value, str | float):
        return value
    if isinstance(value, bool | int):
        return int(value)
    return float(str(value)) if value.__class__.__name__ == "Decimal" else str(value)


def _columns(rows: Sequence[Mapping[str, Value]]) -> list[str]:
    return list(dict.fromkeys(field for row in rows for field in row))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _refused(query: str, error: Exception) -> str:
    shown = " ".join(query.split())
    return f"the query cannot be run ({str(error).splitlines()[0]}); give one SELECT on the tables there are: {shown}"
