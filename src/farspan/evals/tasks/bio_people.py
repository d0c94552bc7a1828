"""Everybody in a context and their ages, in the order of the text, and the pairs whose ages differ as asked.

A crowd of thousands is stored as the range of its numbers, so that samples stay small.

Source: arXiv 2506.02921, section 3.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from farspan.evals.tasks.bio_persons import crowd

Aged = tuple[str, int]


@dataclass(frozen=True)
class Order:
    """Where members of a cast stand among `n` units.

    places : of each member, the boundary before which it stands, or the unit whose place it takes
    replacing : which of the two
    among_bios : whether the units are biographies, which count when biographies are numbered
    """

    n: int
    places: tuple[int, ...]
    replacing: bool
    among_bios: bool = True

    @cached_property
    def of_members(self) -> list[int]:
        """The members in the order of the text."""
        return sorted(range(len(self.places)), key=lambda number: (self.places[number], number))

    @cached_property
    def numbers(self) -> list[int]:
        """Of each member, the number of biographies before it."""
        found = [0] * len(self.places)
        for rank, member in enumerate(self.of_members):
            units = self.places[member] if self.among_bios else 0
            found[member] = units if self.replacing else units + rank
        return found

    @property
    def bios(self) -> int:
        """Biographies in the context."""
        units = self.n if self.among_bios else 0
        return units if self.replacing else units + len(self.places)

    def text_order(self) -> Iterator[tuple[int, bool]]:
        """Numbers of units and of members in the order of the text, with whether it is a member."""
        start = 0
        for member in self.of_members:
            yield from ((unit, False) for unit in range(start, self.places[member]))
            start = self.places[member]
            yield member, True
        yield from ((unit, False) for unit in range(start, self.n))


def stored_people(
    order: Order, members: Sequence[Aged], language: str, first: int, stated: Mapping[int, int] | None
) -> dict[str, object]:
    """Everybody in a context, as metadata.

    Parameters
    ----------
    first : number in the crowd of the person of unit 0
    stated : ages that units state, by unit; None if all state the age of their person
    """
    if order.among_bios and stated is None:
        places = [[order.places[number], *members[number]] for number in order.of_members]
        return {"language": language, "first": first, "n": order.n, "members": places}
    named: list[list[object]] = []
    for number, is_member in order.text_order():
        if is_member:
            named.append(list(members[number]))
        elif order.among_bios and stated is not None and number in stated:
            named.append([crowd(language).person(first + number).name, stated[number]])
    return {"people": named}


def everybody(stored: object) -> list[Aged]:
    """Names and ages in the order of the text, from metadata."""
    if not isinstance(stored, Mapping):
        return []
    if "people" in stored:
        return [(str(name), int(age)) for name, age in stored["people"]]
    first, n = int(stored["first"]), int(stored["n"])
    persons = [(person.name, person.age) for person in crowd(str(stored["language"])).persons(first, first + n)]
    found: list[Aged] = []
    start = 0
    for place, name, age in stored["members"]:
        found += persons[start:place]
        found.append((str(name), int(age)))
        start = int(place)
    return found + persons[start:]


def first_pair(people: Sequence[Aged], difference: int) -> tuple[str, ...]:
    """The pair with an age difference that is complete first when reading, empty if there is none."""
    earliest: dict[int, str] = {}
    for name, age in people:
        partners = [earliest[other] for other in (age - difference, age + difference) if other in earliest]
        if partners:
            order = [known for known, _ in people]
            return min(partners, key=order.index), name
        earliest.setdefault(age, name)
    return ()


def valid_pairs(people: Sequence[Aged], difference: int) -> int:
    """Number of pairs with an age difference (which is not 0)."""
    ages: dict[int, int] = {}
    for _, age in people:
        ages[age] = ages.get(age, 0) + 1
    return sum(count * ages.get(age + difference, 0) for age, count in ages.items())
