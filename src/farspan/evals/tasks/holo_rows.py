"""Rows of an invented database as text: an endless haystack of entries that do not matter, and those that do.

Source: arXiv 2410.11996, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from farspan.evals.generate.count import TokenCounter
from farspan.evals.generate.haystack.base import CorpusHaystack, fingerprint_of
from farspan.evals.generate.rng import derive_seed, shuffled
from farspan.evals.tasks.holo_schemas import (
    FORMER,
    NOTICE,
    Schema,
    TableStream,
    load_holo_language,
    verbalise,
)
from farspan.evals.tasks.holo_sql import Row

_MAKER_VERSION = 1
_FIRST_ROWS = 16


@dataclass(frozen=True)
class Entry:
    """One row of a table and its sentence."""

    table: str
    row: Row
    text: str

    @property
    def key(self) -> str:
        """The table and the number, which no other entry of a context has."""
        return f"{self.table} {self.row['id']}"


def other_tables(schema: Schema, main: Sequence[str], hard: bool) -> list[str]:
    """Tables whose rows stand beside those of a question: the schema's others, or (hard) ones that look the same."""
    if hard:
        return [FORMER + table for table in main]
    return [*(table for table in schema.tables if table not in main), NOTICE]


class OtherRows(CorpusHaystack):
    """Rows of tables that a question does not read, one of each table in turn, each a line."""

    CHUNK = 512
    joiner = "\n"
    starts = 2048

    def __init__(self, schema: Schema, tables: Sequence[str], language: str) -> None:
        self._schema, self._tables, self._language = schema, tuple(tables), language
        self._streams = {table: TableStream(schema, table, language, 0) for table in tables}
        words = load_holo_language(language).model_dump_json()
        self._fingerprint = fingerprint_of("rows", _MAKER_VERSION, schema, *tables, language, words)

    def chunk(self, number: int) -> list[str]:
        units = []
        for index in range(number * self.CHUNK, (number + 1) * self.CHUNK):
            place, which = divmod(index, len(self._tables))
            table = self._tables[which]
            row = self._streams[table].rows(place + 1)[place]
            template = Random(derive_seed("template", index)).randrange(64)
            units.append(verbalise(self._schema, table, row, self._language, template))
        return units

    @property
    def fingerprint(self) -> str:
        return self._fingerprint


def main_entries(
    schema: Schema, tables: Sequence[str], language: str, seed: int, budget: int, counter: TokenCounter
) -> tuple[list[Entry], int]:
    """Entries of the tables of a question, one of each table in turn, until the next would not fit; and their tokens.

    They come in a drawn order; with a greater budget there are more of the same.
    """
    streams = {table: TableStream(schema, table, language, seed) for table in tables}
    templates = Random(derive_seed(seed, "templates"))
    entries: list[Entry] = []
    used, turns = 0, _FIRST_ROWS
    while True:
        fresh = []
        for place in range(len(entries) // len(tables), turns):
            for table in tables:
                row = streams[table].rows(place + 1)[place]
                text = verbalise(schema, table, row, language, templates.randrange(64))
                fresh.append(Entry(table, row, text))
        for entry, size in zip(fresh, counter.count_units(["\n" + entry.text for entry in fresh], "."), strict=True):
            if used + int(size) > budget:
                return shuffled(Random(derive_seed(seed, "order")), entries), used
            used += int(size)
            entries.append(entry)
        turns *= 2
