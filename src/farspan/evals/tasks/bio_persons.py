"""Invented persons: names and attributes from lists in which no value is part of another.

Every language is one file of data in `biographies/`; lists are put together from its parts. A quarter of the values
and of the last names is kept back for persons that questions ask for, so that an asked value never stands in a
biography of the crowd. Nothing here writes sentences.

Source: arXiv 2506.02921, section 3; all names and values are our own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product
from random import Random

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from farspan.errors import FarspanError
from farspan.evals.generate.languages import LanguageError
from farspan.evals.generate.rng import derive_seed, shuffled

ATTRIBUTES = ("birthdate", "birthplace", "hobby", "university", "major", "work_city")
"""What can be asked of a person, in the order of a biography."""

LISTS = ("first", "middle", "last", *ATTRIBUTES[1:])
FIRST_YEAR, LAST_YEAR = 1950, 2001
REFERENCE_YEAR = 2024
RESERVED = 4
"""One value in so many is kept for persons that are asked for."""

_MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_TRIES = 2000


class ValueList(BaseModel):
    """How a list of values is put together: given ones, then products of parts, each in one of several forms."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(gt=0)
    hand: tuple[str, ...] = ()
    parts: tuple[tuple[str, ...], ...]
    form_joiner: str = ""
    forms: tuple[str, ...] = ("{}",)

    def candidates(self, rng: Random) -> Iterator[str]:
        """All values that could be in the list: the given ones first, the others in random order."""
        yield from self.hand
        stems = [self.form_joiner.join(parts) for parts in product(*self.parts)]
        for place, stem in enumerate(shuffled(rng, stems)):
            yield self.forms[place % len(self.forms)].format(stem)


class BioLanguage(BaseModel):
    """Everything of a language that biographies and questions on them need."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    language: str
    joiner: str
    name_joiner: str
    lists: Mapping[str, ValueList]
    groups: tuple[str, ...]
    prefix: Mapping[str, str]
    openers: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, str]
    standard: Mapping[str, str]
    third: Mapping[str, tuple[str, ...]]
    first: Mapping[str, tuple[str, ...]]
    same_as: Mapping[str, str]
    wording: Mapping[str, str]
    refusals: tuple[str, ...]


@dataclass(frozen=True)
class Person:
    """One invented person; `birthdate` is written YYYY-MM-DD."""

    name: str
    birthdate: str
    birthplace: str
    hobby: str
    university: str
    major: str
    work_city: str

    @property
    def age(self) -> int:
        """Years from the year of birth to 2024."""
        return REFERENCE_YEAR - int(self.birthdate[:4])

    def value(self, attribute: str) -> str:
        """The value of an attribute, or the age, as text."""
        return str(getattr(self, attribute))


def bio_languages() -> list[str]:
    """Codes of the languages biographies can be written in."""
    folder = files("farspan.evals.tasks").joinpath("biographies")
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


@cache
def load_bio_language(code: str) -> BioLanguage:
    """The data of a language.

    Raises
    ------
    LanguageError : there is none, or its file is broken.
    """
    if code not in bio_languages():
        raise LanguageError(f"no biographies in language '{code}'; there are: {', '.join(bio_languages())}")
    text = files("farspan.evals.tasks").joinpath("biographies", f"{code}.json").read_text(encoding="utf-8")
    try:
        return BioLanguage.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        raise LanguageError(f"biographies/{code}.json: {problem['loc']}: {problem['msg']}") from error


@cache
def value_lists(code: str) -> Mapping[str, tuple[str, ...]]:
    """The lists of a language; no value, whatever its case, is part of another value of any list.

    Raises
    ------
    LanguageError : the parts do not give a list its number of values.
    """
    language = load_bio_language(code)
    known: set[str] = set()
    pieces: set[str] = set()
    lists: dict[str, tuple[str, ...]] = {}
    for name in LISTS:
        rule = language.lists[name]
        chosen: list[str] = []
        for value in rule.candidates(Random(derive_seed("biographies", code, name))):
            if len(chosen) == rule.count:
                break
            folded = value.casefold()
            parts = {folded[a:b] for a in range(len(folded)) for b in range(a + 2, len(folded) + 1)}
            if folded in pieces or not known.isdisjoint(parts):
                continue
            known.add(folded)
            pieces |= parts
            chosen.append(value)
        if len(chosen) < rule.count:
            raise LanguageError(f"biographies/{code}.json: {name} gives {len(chosen)} values, not {rule.count}")
        lists[name] = tuple(chosen)
    return lists


def kept_back(values: Sequence[str]) -> Sequence[str]:
    """The values only asked persons have."""
    return values[::RESERVED]


def for_the_crowd(values: Sequence[str]) -> Sequence[str]:
    """All other values."""
    return [value for place, value in enumerate(values) if place % RESERVED]


class PersonPool:
    """A crowd of persons with distinct full names, and asked persons who share no last name or value with it.

    Person i depends only on the seed, the language and i, so a larger pool starts with the smaller one.

    Parameters
    ----------
    seed : of the crowd
    size : persons made at once; `person` makes more when they are asked for
    language : code of a language of `biographies/`
    """

    def __init__(self, seed: int = 0, size: int = 10_000, language: str = "en") -> None:
        self.seed, self.language = seed, language
        self._joiner = load_bio_language(language).name_joiner
        lists = value_lists(language)
        self._crowd = {name: for_the_crowd(values) for name, values in lists.items()}
        self._asked = {name: kept_back(values) for name, values in lists.items()}
        for part in ("first", "middle"):
            self._crowd[part] = self._asked[part] = lists[part]
        self._rng = Random(derive_seed("persons", language, seed))
        self._persons: list[Person] = []
        self._names: set[str] = set()
        self.grow(size)

    def __len__(self) -> int:
        return len(self._persons)

    def __getitem__(self, index: int) -> Person:
        return self.person(index)

    def person(self, index: int) -> Person:
        """Person number `index` of the crowd."""
        if index >= len(self._persons):
            self.grow(index + 1)
        return self._persons[index]

    def persons(self, start: int, stop: int) -> list[Person]:
        """Persons `start` to `stop` of the crowd."""
        self.grow(stop)
        return self._persons[start:stop]

    def grow(self, size: int) -> None:
        """Make at least `size` persons.

        Raises
        ------
        FarspanError : there are not so many full names.
        """
        most = len(self._crowd["first"]) * len(self._crowd["middle"]) * len(self._crowd["last"])
        if size * 2 > most:
            raise FarspanError(f"{size} persons are too many for {most} names; at most half of them are used")
        while len(self._persons) < size:
            person = self._draw(self._rng, self._crowd)
            if person.name not in self._names:
                self._names.add(person.name)
                self._persons.append(person)

    def asked(self, rng: Random, count: int, *, distinct_ages: bool = False) -> list[Person]:
        """Persons a question can ask for: no two share a name or a value, none shares one with the crowd.

        Dates are apart from each other only; with `distinct_ages` ages are, too.

        Raises
        ------
        FarspanError : more persons than there are values.
        """
        found: list[Person] = []
        for _ in range(_TRIES):
            if len(found) == count:
                return found
            person = self._draw(rng, self._asked)
            if not any(_clash(person, other, distinct_ages) for other in found):
                found.append(person)
        if len(found) == count:
            return found
        raise FarspanError(f"{count} persons with distinct values are too many; ask for fewer, or ask less")

    def near(self, person: Person, rng: Random, avoid: Collection[str]) -> Person:
        """Somebody of the crowd's values whose name differs from a person's in the middle alone.

        avoid : names that are taken
        """
        first, _, last = person.name.split(self._joiner)
        while True:
            other = self._draw(rng, self._crowd)
            name = self._joiner.join((first, other.name.split(self._joiner)[1], last))
            if name != person.name and name not in avoid:
                return Person(name, *(other.value(attribute) for attribute in ATTRIBUTES))

    def _draw(self, rng: Random, lists: Mapping[str, Sequence[str]]) -> Person:
        draw = rng.random
        first, middle, last, *values = (options[int(draw() * len(options))] for options in (lists[n] for n in LISTS))
        year = FIRST_YEAR + int(draw() * (LAST_YEAR - FIRST_YEAR + 1))
        return Person(self._joiner.join((first, middle, last)), _date(year, draw()), *values)


def _date(year: int, share: float) -> str:
    """The day at this share of a year, YYYY-MM-DD."""
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    day = int(share * (365 + leap))
    for month, days in enumerate(_MONTH_DAYS, 1):
        days += leap and month == 2
        if day < days:
            return f"{year}-{month:02}-{day + 1:02}"
        day -= days
    raise AssertionError(share)


def _clash(one: Person, other: Person, distinct_ages: bool) -> bool:
    same = any(one.value(attribute) == other.value(attribute) for attribute in ("name", *ATTRIBUTES))
    return same or (distinct_ages and one.age == other.age)


@cache
def crowd(language: str) -> PersonPool:
    """The crowd all generated contexts of a language draw from; made as far as it is needed."""
    return PersonPool(0, 1, language)


def parts_of_others(values: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of distinct values of which the first is part of the second, whatever their case."""
    folded = [value.casefold() for value in values]
    known = set(folded)
    found = []
    for value in folded:
        parts = {value[a:b] for a in range(len(value)) for b in range(a + 1, len(value) + 1)} - {value}
        found += [(part, value) for part in sorted(parts & known)]
    return found
