"""Choice questions on small worlds that each question states itself: units, calendars, orders, sets, places, counts.

One of the choices follows from the text, the others do not. `solved_question` reads the text alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random

from farspan.evals.metrics.numbered_answers import LETTERS
from farspan.evals.tasks.word_problems import Problem

NAMES = ("Ada", "Ben", "Cleo", "Dov", "Edda", "Finn", "Greta", "Hugo", "Ines", "Jon", "Kaia", "Lars", "Mona", "Nils")
TOWNS = ("Bergen", "Cadiz", "Dover", "Essen", "Faro", "Ghent", "Jena", "Kazan", "Lund", "Namur", "Oslo", "Porto")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
UNITS = {
    ("hours", "minutes"): 60,
    ("minutes", "seconds"): 60,
    ("metres", "centimetres"): 100,
    ("kilograms", "grams"): 1000,
    ("weeks", "days"): 7,
    ("days", "hours"): 24,
    ("dozens", "pieces"): 12,
}
KINDS = ("wug", "dax", "blicket", "toma", "fep", "gazzer", "zib", "modi", "lorp", "kiki", "tulver", "bosa")
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "grey")
MORE_OF = {"taller": "tallest", "older": "oldest", "faster": "fastest", "heavier": "heaviest"}
FEWEST_CHOICES = 3

_Made = tuple[str, str, list[str], str]


def _units(rng: Random, n: int) -> _Made:
    (large, small), factor = rng.choice(list(UNITS.items()))
    count = rng.randint(2, 15)
    right = count * factor
    near = rng.sample([right + factor, right - factor // 2, right + 10, count + factor, right * 2, right + 1], n)
    others = [str(value) for value in dict.fromkeys(near) if value != right and value > 0]
    return f"How many {small} are {count} {large}?", str(right), others, f"{count} × {factor} = {right}"


def _calendar(rng: Random, n: int) -> _Made:
    what, names = rng.choice((("day", DAYS), ("month", MONTHS)))
    now, ahead = rng.randrange(len(names)), rng.randint(2, 2 * len(names))
    right = names[(now + ahead) % len(names)]
    others = [name for name in rng.sample(names, n) if name != right]
    way = f"{ahead} steps on from {names[now]} is {right}"
    return f"It is {names[now]} now. Which {what} is it in {ahead} {what}s?", right, others, way


def _order(rng: Random, n: int) -> _Made:
    more, most = rng.choice(list(MORE_OF.items()))
    people = rng.sample(NAMES, n)
    facts = [f"{one} is {more} than {other}." for one, other in pairwise(people)]
    rng.shuffle(facts)
    return (
        f"{' '.join(facts)} Who is the {most}?",
        people[0],
        people[1:],
        f"nobody is {more} than {people[0]}",
    )


def _sets(rng: Random, n: int) -> _Made:
    kinds, name = rng.sample(KINDS, 3 + n), rng.choice(NAMES)
    first, second, third = kinds[:3]
    facts = [f"Every {first} is a {second}.", f"Every {second} is a {third}.", f"{name} is a {first}."]
    rng.shuffle(facts)
    return (
        f"{' '.join(facts)} What must {name} be too?",
        f"a {third}",
        [f"a {kind}" for kind in kinds[3:]],
        f"{name} is a {first}, so a {second}, so a {third}",
    )


def _places(rng: Random, n: int) -> _Made:
    people, towns = rng.sample(NAMES, n), rng.sample(TOWNS, n)
    facts = [f"{person} lives in {town}." for person, town in zip(people, towns, strict=True)]
    at = rng.randrange(n)
    return (
        f"{' '.join(facts)} Who lives in {towns[at]}?",
        people[at],
        people[:at] + people[at + 1 :],
        f"it says that {people[at]} lives in {towns[at]}",
    )


def _counts(rng: Random, n: int) -> _Made:
    colours, numbers = rng.sample(COLOURS, n), rng.sample(range(2, 30), n)
    facts = ", ".join(f"{number} {colour}" for number, colour in zip(numbers, colours, strict=True))
    right = colours[numbers.index(max(numbers))]
    others = [colour for colour in colours if colour != right]
    return f"A box holds {facts} balls. Which colour is the most common?", right, others, f"{max(numbers)} is the most"


MAKERS: tuple[Callable[[Random, int], _Made], ...] = (_units, _calendar, _order, _sets, _places, _counts)


def choice_question(rng: Random, gold: str, choices: int = 4) -> Problem:
    """One question whose right choice carries the letter `gold`."""
    text, right, others, way = rng.choice(MAKERS)(rng, choices)
    shown = rng.sample(others, min(choices - 1, len(others)))
    # makers draw distinct values, but a right one may have been among those drawn
    while len(shown) < choices - 1:
        text, right, others, way = rng.choice(MAKERS)(rng, choices)
        shown = rng.sample(others, min(choices - 1, len(others)))
    shown.insert(LETTERS.index(gold), right)
    listed = " ".join(f"({letter}) {value}" for letter, value in zip(LETTERS, shown, strict=False))
    return Problem(f"{text} {listed}", gold, f"{way[0].upper()}{way[1:]}. The answer is ({gold}).")


def balanced_letters(seed: Callable[[int], Random], index: int, choices: int = 4) -> str:
    """The gold letter of question `index`: every run of `choices` questions holds each letter once."""
    block, place = divmod(index, choices)
    return "".join(seed(block).sample(LETTERS[:choices], choices))[place]


_CHOICE = re.compile(r"\(([A-J])\) (.*?)(?= \([A-J]\) |$)")


def solved_question(text: str) -> str:
    """The letter of the right choice, from the text alone.

    Raises
    ------
    ValueError : no known kind of question, or no choice holds what follows from it.
    """
    world = text[: text.index(" (A) ")]
    right = _read(world)
    for letter, value in _CHOICE.findall(text[len(world) + 1 :]):
        if value == right:
            return str(letter)
    raise ValueError(f"no choice says {right}")


def _read(world: str) -> str:
    if match := re.match(r"How many (\w+) are (\d+) (\w+)\?", world):
        return str(int(match[2]) * UNITS[match[3], match[1]])
    if match := re.match(r"It is (\w+) now\. Which (day|month) is it in (\d+)", world):
        names = DAYS if match[2] == "day" else MONTHS
        return names[(names.index(match[1]) + int(match[3])) % len(names)]
    if pairs := re.findall(r"(\w+) is \w+ than (\w+)\.", world):
        (most,) = {one for one, _ in pairs} - {other for _, other in pairs}
        return str(most)
    if rules := dict(re.findall(r"Every (\w+) is a (\w+)\.", world)):
        return "a " + _followed(rules, re.findall(r"[A-Z]\w+ is a (\w+)\.", world))
    if match := re.search(r"Who lives in (\w+)\?", world):
        return str(re.findall(rf"(\w+) lives in {match[1]}\.", world)[0])
    counted = [(int(number), colour) for number, colour in re.findall(r"(\d+) (\w+)", world)]
    if not counted:
        raise ValueError(f"no known kind of question: {world}")
    return str(max(counted)[1])


def _followed(rules: dict[str, str], given: Sequence[str]) -> str:
    kind = next(kind for kind in given if kind in rules)
    while kind in rules:
        kind = rules[kind]
    return kind
