"""An encyclopaedia of things that do not exist: short entries of facts, with sentences between that state none.

Every entry is about one invented town, river, institute, bridge, machine or treaty. All seeds read one endless stream,
each from its own place on; sentences that hold a text to avoid are left out. English only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from random import Random

from farspan.evals.generate.haystack.base import Haystack
from farspan.evals.generate.languages import load_language
from farspan.evals.generate.rng import derive_seed

PART = 256
STARTS = 16 * PART
ONSETS = ("b", "br", "d", "dr", "f", "g", "gl", "h", "k", "kr", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "z")
VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ou")
CODAS = ("l", "m", "n", "r", "s", "th", "nd", "rk", "lt")

Facts = Mapping[str, tuple[str, str, str]]

FACTS: Mapping[str, Facts] = {
    "town of {}": {
        "people": ("number", "how many people live in the {name}", "In the {name} live {value} people."),
        "mayor": ("name", "who is the mayor of the {name}", "The mayor of the {name} is {value}."),
        "charter": ("year", "in which year did the {name} get its charter", "The {name} got its charter in {value}."),
        "twin": ("place", "with which place is the {name} twinned", "The {name} is twinned with {value}."),
    },
    "river {}": {
        "length": ("number", "how many metres long is the {name}", "The {name} is {value} metres long."),
        "mouth": ("place", "in which lake does the {name} end", "The {name} ends in Lake {value}."),
        "flood": ("year", "in which year did the {name} last flood", "The {name} last flooded in {value}."),
    },
    "{} Institute": {
        "members": ("number", "how many members has the {name}", "The {name} has {value} members."),
        "founder": ("name", "who founded the {name}", "The {name} was founded by {value}."),
        "opening": ("year", "in which year was the {name} opened", "The {name} was opened in {value}."),
    },
    "{} Bridge": {
        "stones": ("number", "how many stones are in the {name}", "There are {value} stones in the {name}."),
        "builder": ("name", "who built the {name}", "The {name} was built by {value}."),
        "repair": ("year", "in which year was the {name} repaired", "The {name} was repaired in {value}."),
    },
    "{} engine": {
        "parts": ("number", "of how many parts does the {name} consist", "The {name} consists of {value} parts."),
        "inventor": ("name", "who invented the {name}", "The {name} was invented by {value}."),
        "town": ("place", "where is the {name} kept", "The {name} is kept in {value}."),
    },
    "Treaty of {}": {
        "signing": ("year", "in which year was the {name} signed", "The {name} was signed in {value}."),
        "words": ("number", "how many words has the {name}", "The {name} has {value} words."),
        "witness": ("name", "who witnessed the {name}", "The {name} was witnessed by {value}."),
    },
}
"""By the form of a name: facts with the type of their value, what asks for them, and what states them."""


class EncyclopaediaHaystack(Haystack):
    """Sentences of the encyclopaedia.

    Parameters
    ----------
    avoid : texts that no sentence may hold
    """

    joiner = " "
    recurring = True

    def __init__(self, avoid: Iterable[str] = ()) -> None:
        self._avoid = tuple(avoid)

    def units(self, seed: int, n: int) -> list[str]:
        place = derive_seed(seed, "entries") % STARTS
        found: list[str] = []
        while len(found) < n:
            number, start = divmod(place, PART)
            part = _part(number)[start:]
            place += len(part)
            found += [unit for unit in part if not any(text in unit for text in self._avoid)]
        return found[:n]

    @property
    def kind(self) -> str:
        return "encyclopaedia"


def invented_name(rng: Random, syllables: int = 3) -> str:
    """A capitalised name of random syllables."""
    parts = [rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables)]
    return ("".join(parts) + rng.choice(CODAS)).capitalize()


def draw_value(kind: str, rng: Random) -> str:
    """A value of a type: a number of five digits, a year, a person's name, or a place."""
    if kind == "number":
        return str(rng.randrange(10_000, 100_000))
    if kind == "year":
        return str(rng.randrange(1000, 2000))
    return f"{invented_name(rng, 2)} {invented_name(rng)}" if kind == "name" else invented_name(rng)


def entry(rng: Random) -> tuple[str, Facts]:
    """The name of a thing, and the facts things of its kind have."""
    form = rng.choice(list(FACTS))
    return form.format(invented_name(rng)), FACTS[form]


@lru_cache(maxsize=64)
def _part(number: int) -> tuple[str, ...]:
    """Part `number` of the stream of sentences."""
    rng = Random(derive_seed("encyclopaedia", number))
    sentences: list[str] = []
    while len(sentences) < PART:
        name, facts = entry(rng)
        mine = [frame.format(name=name, value=draw_value(kind, rng)) for kind, _, frame in facts.values()]
        mine += [_filler(rng, name) for _ in range(rng.randrange(1, 5))]
        rng.shuffle(mine)
        sentences += mine
    return tuple(sentences[:PART])


def _filler(rng: Random, name: str) -> str:
    words = load_language("en")

    def word(kind: Sequence[str]) -> str:
        return rng.choice(kind)

    forms = (
        f"Those who know the {name} speak of its {word(words.adjectives)} {word(words.nouns)}.",
        f"Near the {name} one can {word(words.verbs)} a {word(words.nouns)}.",
        f"The {name} reminds visitors of a {word(words.nouns)} beside a {word(words.adjectives)} {word(words.nouns)}.",
        f"Old songs about the {name} mention a {word(words.adjectives)} {word(words.nouns)}.",
    )
    return rng.choice(forms)
