"""Invented databases: six schemas, endless seeded rows, and rows as sentences that can be read back.

Every schema has the same shape, so that one query serves all: parents; children that belong to a parent; events about
a child; and notices that have to do with none. Words of a language are one file in `holobench_words/`.

Source: arXiv 2410.11996, section 3 (rows as sentences); schemas, values and wording are our own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random

from pydantic import BaseModel, ConfigDict, ValidationError

from farspan.evals.generate.languages import LanguageError
from farspan.evals.generate.rng import derive_seed, sample_indices
from farspan.evals.tasks.bio_persons import load_bio_language, value_lists
from farspan.evals.tasks.holo_sql import Row, Value

FORMER = "former_"
"""What starts the name of a table whose rows look like another's but do not count."""

CATEGORIES = 8
FIRST_ID, IDS, STEP = 10_000, 89_989, 38_197
"""Numbers of rows: five digits, a prime number of them, taken in steps that scatter them."""


@dataclass(frozen=True)
class Number:
    """A column of numbers, whole or with one decimal, equally likely from `low` to `high`."""

    name: str
    low: int
    high: int
    decimals: bool = False


@dataclass(frozen=True)
class Schema:
    """Names of the tables and columns of a database by the part they play.

    parent : with `name`, `place` (a category), `size` (a number), `since` (a date)
    child : with `name`, its parent, `kind` (a category), `amount` (a decimal), `count` (a number)
    event : with its child, `first` and `second` (numbers), `day` (a date)
    """

    name: str
    parent: str
    place: str
    size: Number
    child: str
    kind: str
    amount: Number
    count: Number
    event: str
    first: Number
    second: Number

    @property
    def tables(self) -> tuple[str, ...]:
        """The three tables that questions are about."""
        return self.parent, self.child, self.event

    def columns(self, table: str) -> list[str]:
        """The columns of a table, `id` first."""
        table = table.removeprefix(FORMER)
        if table == self.parent:
            return ["id", "name", self.place, self.size.name, "since"]
        if table == self.child:
            return ["id", "name", self.parent, self.kind, self.amount.name, self.count.name]
        if table == self.event:
            return ["id", self.child, self.first.name, self.second.name, "day"]
        return ["id", "heading", "readers", "day"]


NOTICE = "notice"
SCHEMAS: dict[str, Schema] = {
    schema.name: schema
    for schema in (
        Schema(
            "shop",
            "supplier",
            "city",
            Number("staff", 5, 900),
            "product",
            "brand",
            Number("price", 5, 500, True),
            Number("stock", 1, 9000),
            "purchase",
            Number("quantity", 1, 12),
            Number("discount", 1, 4000),
        ),
        Schema(
            "clinic",
            "doctor",
            "town",
            Number("cases", 1, 400),
            "patient",
            "ward",
            Number("height", 140, 205, True),
            Number("points", 400, 9000),
            "visit",
            Number("duration", 5, 20),
            Number("fee", 20, 4000),
        ),
        Schema(
            "library",
            "author",
            "birthplace",
            Number("works", 1, 600),
            "book",
            "publisher",
            Number("rating", 1, 10, True),
            Number("pages", 60, 9000),
            "loan",
            Number("days", 1, 15),
            Number("fine", 1, 4000),
        ),
        Schema(
            "transit",
            "operator",
            "headquarters",
            Number("vehicles", 10, 900),
            "line",
            "zone",
            Number("distance", 2, 80, True),
            Number("stops", 40, 9000),
            "trip",
            Number("delay", 1, 15),
            Number("passengers", 1, 4000),
        ),
        Schema(
            "league",
            "club",
            "city",
            Number("members", 100, 9000),
            "player",
            "sponsor",
            Number("value", 1, 90, True),
            Number("goals", 1, 9000),
            "appearance",
            Number("shots", 1, 12),
            Number("minutes", 1, 4000),
        ),
        Schema(
            "farm",
            "farmer",
            "village",
            Number("land", 3, 900),
            "field",
            "variety",
            Number("area", 1, 60, True),
            Number("trees", 20, 9000),
            "harvest",
            Number("workers", 1, 15),
            Number("kilograms", 10, 4000),
        ),
    )
}


class HoloLanguage(BaseModel):
    """Words and frames of one language."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    language: str
    joiner: str
    former: str
    frames: tuple[tuple[str, str], ...]
    tables: Mapping[str, str]
    columns: Mapping[str, str]
    wording: Mapping[str, str]

    def table(self, name: str) -> str:
        """What a table's rows are called."""
        if name.startswith(FORMER):
            return self.former.format(table=self.tables[name.removeprefix(FORMER)])
        return self.tables[name]

    def label(self, column: str) -> str:
        """What a column is called; one that points to another table is called like its rows."""
        return self.columns.get(column) or self.tables[column]


def holo_languages() -> list[str]:
    """Codes of the languages rows can be written in."""
    folder = files("farspan.evals.tasks").joinpath("holobench_words")
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


@cache
def load_holo_language(code: str) -> HoloLanguage:
    """The words of a language.

    Raises
    ------
    LanguageError : there is none, or its file is broken.
    """
    if code not in holo_languages():
        raise LanguageError(f"no rows in language '{code}'; there are: {', '.join(holo_languages())}")
    text = files("farspan.evals.tasks").joinpath("holobench_words", f"{code}.json").read_text(encoding="utf-8")
    try:
        return HoloLanguage.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        raise LanguageError(f"holobench_words/{code}.json: {problem['loc']}: {problem['msg']}") from error


def categories(schema: Schema, column: str, language: str) -> list[str]:
    """The values a category takes: the same for every seed."""
    options = value_lists(language)["work_city" if column == schema.place else "middle"]
    chosen = sample_indices(Random(derive_seed("holobench", schema.name, column)), len(options), CATEGORIES)
    return [options[place] for place in chosen]


class TableStream:
    """The rows of one table and seed, as far as they were drawn; a longer stream starts with the shorter one.

    Row i belongs to one of rows 0 to i of the table above it, so tables of equal length fit together.
    """

    def __init__(self, schema: Schema, table: str, language: str, seed: int) -> None:
        self.schema, self.table, self.language, self.seed = schema, table, language, seed
        self._base = table.removeprefix(FORMER)
        self._rng = Random(derive_seed("holobench", schema.name, table, language, seed))
        self._joiner = load_bio_language(language).name_joiner
        self._lists = value_lists(language)
        self._values = {name: categories(schema, name, language) for name in (schema.place, schema.kind)}
        self._names: set[str] = set()
        self._rows: list[Row] = []

    def rows(self, n: int) -> list[Row]:
        """The first `n` rows."""
        while len(self._rows) < n:
            self._rows.append(self._draw(len(self._rows)))
        return self._rows[:n]

    def _draw(self, place: int) -> Row:
        schema, rng = self.schema, self._rng
        row: Row = {"id": row_id(self.table, self.seed, place)}
        if self._base == schema.parent:
            row["name"] = self._name("first", "last", self._joiner)
            row[schema.place] = self._one_of(schema.place)
            row[schema.size.name] = _number(schema.size, rng)
            row["since"] = _day(rng)
        elif self._base == schema.child:
            row["name"] = self._name("birthplace", "last", self._joiner)
            row[schema.parent] = row_id(schema.parent, self.seed, rng.randrange(place + 1))
            row[schema.kind] = self._one_of(schema.kind)
            row[schema.amount.name] = _number(schema.amount, rng)
            row[schema.count.name] = _number(schema.count, rng)
        elif self._base == schema.event:
            row[schema.child] = row_id(schema.child, self.seed, rng.randrange(place + 1))
            row[schema.first.name] = _number(schema.first, rng)
            row[schema.second.name] = _number(schema.second, rng)
            row["day"] = _day(rng)
        else:
            row |= {"heading": self._name("hobby", "middle", " "), "readers": rng.randrange(1, 9000), "day": _day(rng)}
        return row

    def _one_of(self, column: str) -> str:
        values = self._values[column]
        return values[self._rng.randrange(len(values))]

    def _name(self, first: str, last: str, joiner: str) -> str:
        """A name no other row of the table has."""
        while True:
            one, two = self._lists[first], self._lists[last]
            name = one[self._rng.randrange(len(one))] + joiner + two[self._rng.randrange(len(two))]
            if name not in self._names:
                self._names.add(name)
                return name


def row_id(table: str, seed: int, place: int) -> int:
    """The number of row `place` of a table; five digits, distinct and in no order."""
    start = derive_seed("row", table, seed) % IDS
    return FIRST_ID + (start + place * STEP) % IDS


def _number(column: Number, rng: Random) -> Value:
    if column.decimals:
        return rng.randrange(column.low * 10, column.high * 10 + 1) / 10
    return rng.randrange(column.low, column.high + 1)


def _day(rng: Random) -> str:
    return f"{rng.randrange(2000, 2024)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"


# -- sentences -------------------------------------------------------------------------------------------------------


def verbalise(schema: Schema, table: str, row: Row, language: str, template: int) -> str:
    """A row as a sentence that names each of its values once.

    Parameters
    ----------
    template : number of the frame; it also turns the order of the columns
    """
    words = load_holo_language(language)
    frame, separator = words.frames[template % len(words.frames)]
    fields = schema.columns(table)[1:]
    turn = template % len(fields)
    parts = [f"{words.label(name)}{words.joiner}{row[name]}" for name in fields[turn:] + fields[:turn]]
    called = words.table(table)
    return frame.format(table=called, Table=called[0].upper() + called[1:], id=row["id"], body=separator.join(parts))


def invert(sentence: str, schema: Schema, language: str) -> tuple[str, Row] | None:
    """The table and the row of a sentence; None if it is none of this schema's."""
    words = load_holo_language(language)
    for (_, separator), pattern in zip(words.frames, _patterns(schema.name, language), strict=True):
        match = pattern.fullmatch(sentence)
        if match is None:
            continue
        table = _tables_by_label(schema.name, language)[match["table"].casefold()]
        row: Row = {"id": int(match["id"])}
        parts = match["body"].split(separator)
        labels = {words.label(name): name for name in schema.columns(table)[1:]}
        for part in parts:
            label = max((text for text in labels if part.startswith(text + words.joiner)), key=len, default=None)
            if label is None:
                break
            row[labels[label]] = part[len(label) + len(words.joiner) :]
        if len(row) == len(labels) + 1 == len(parts) + 1:
            return table, {name: _read(schema, name, row[name]) for name in schema.columns(table)}
    return None


def _read(schema: Schema, column: str, value: Value) -> Value:
    text = str(value)
    if column == schema.amount.name:
        return float(text)
    numbers = (schema.size.name, schema.count.name, schema.first.name, schema.second.name, "readers", "id")
    return int(text) if column in (*numbers, schema.parent, schema.child) else text


def all_tables(schema: Schema) -> list[str]:
    """Every table of a schema: those of questions, their former ones, and notices."""
    return [*schema.tables, *(FORMER + table for table in schema.tables), NOTICE]


@cache
def _tables_by_label(schema: str, language: str) -> dict[str, str]:
    words = load_holo_language(language)
    return {words.table(table).casefold(): table for table in all_tables(SCHEMAS[schema])}


@cache
def _patterns(schema: str, language: str) -> tuple[re.Pattern[str], ...]:
    """Each frame as a pattern with the groups `table`, `id` and `body`."""
    labels = sorted(_tables_by_label(schema, language), key=len, reverse=True)
    called = f"(?P<table>{'|'.join(re.escape(label) for label in labels)})"
    slots = {"table": called, "Table": called, "id": r"(?P<id>\d+)", "body": "(?P<body>.+)"}
    return tuple(
        re.compile(re.sub(r"\\\{(\w+)\\\}", lambda slot: slots[slot[1]], re.escape(frame)), re.IGNORECASE)
        for frame, _ in load_holo_language(language).frames
    )
