"""Invented persons: values that cannot be confused, distinct names, asked persons apart from the crowd."""

from __future__ import annotations

from collections import Counter
from datetime import date
from random import Random

import pytest

from farspan.errors import FarspanError
from farspan.evals.tasks.bio_persons import (
    ATTRIBUTES,
    LISTS,
    PersonPool,
    bio_languages,
    load_bio_language,
    parts_of_others,
    value_lists,
)

LEAST = {"first": 120, "middle": 120, "last": 400, "birthplace": 5000, "hobby": 300, "university": 500, "major": 150}
every_language = pytest.mark.parametrize("language", ["de", "en", "es", "zh"])


def test_four_languages() -> None:
    assert bio_languages() == ["de", "en", "es", "zh"]


@every_language
def test_no_value_is_part_of_another(language: str) -> None:
    lists = value_lists(language)
    values = [value for name in LISTS for value in lists[name]]
    assert len(set(values)) == len(values)
    assert parts_of_others(values) == []
    assert parts_of_others(["amateur astronomy", "Astronomy"]) == [("astronomy", "amateur astronomy")]
    assert all(len(lists[name]) >= least for name, least in LEAST.items())


@every_language
def test_every_attribute_has_twelve_wordings(language: str) -> None:
    data = load_bio_language(language)
    for form, frames in (("third", data.third), ("first", data.first)):
        for attribute in (*ATTRIBUTES, "age"):
            assert len(set(frames[attribute])) * len(data.openers[form]) >= 12
            assert all("{value}" in frame for frame in frames[attribute])
            assert all(("{name}" in frame) == (form == "third") for frame in frames[attribute])
    assert len(data.refusals) >= 12
    assert len(data.groups) == 10


def test_ten_thousand_persons_with_distinct_names() -> None:
    pool = PersonPool(3)
    persons = pool.persons(0, 10_000)
    assert len(pool) == 10_000
    assert len({person.name for person in persons}) == 10_000
    assert all(person.age == 2024 - date.fromisoformat(person.birthdate).year for person in persons)
    years = Counter(person.birthdate[:4] for person in persons)
    assert min(years) == "1950"
    assert max(years) == "2001"
    assert PersonPool(3, 10).persons(0, 500) == persons[:500]
    assert PersonPool(4, 10)[0] != persons[0]


def test_asked_persons_share_no_value_with_the_crowd() -> None:
    pool = PersonPool(0, 5000)
    asked = pool.asked(Random(1), 30, distinct_ages=True)
    assert len({person.age for person in asked}) == 30
    for attribute in ATTRIBUTES[1:]:
        crowd = {person.value(attribute) for person in pool.persons(0, 5000)}
        mine = {person.value(attribute) for person in asked}
        assert len(mine) == 30
        assert not mine & crowd
    assert not {person.name for person in asked} & {person.name for person in pool.persons(0, 5000)}


def test_too_many_are_refused() -> None:
    pool = PersonPool(0, 1)
    with pytest.raises(FarspanError, match="53 persons with distinct values are too many"):
        pool.asked(Random(0), 53, distinct_ages=True)
    with pytest.raises(FarspanError, match="too many for"):
        pool.grow(10**7)


def test_namesakes_differ_in_the_middle() -> None:
    pool = PersonPool(0, 1)
    (person,) = pool.asked(Random(0), 1)
    near = pool.near(person, Random(1), [])
    assert near.name.split()[::2] == person.name.split()[::2]
    assert near.name != person.name
