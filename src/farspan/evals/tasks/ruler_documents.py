"""Short documents about invented institutes and towns, for question answering without any download.

Every institute and every town has a handful of facts; one document states the facts of one of them. A question of one
hop asks for a fact of an institute, a question of two hops for a fact of the town in which an institute stands, so
that two documents are needed. Documents only: where they stand among others is decided elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from farspan.errors import FarspanError

ONSETS = ("b", "br", "d", "dr", "f", "g", "gl", "h", "k", "kr", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "z")
VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ou")
CODAS = ("l", "m", "n", "r", "s", "th", "nd", "rk", "lt")

INSTITUTE_FACTS = {
    "director": ("who directs the {name}", "The {name} is directed by", "The {name} is directed by {value}."),
    "members": (
        "how many members has the {name}",
        "The number of members of the {name} is",
        "The number of members of the {name} is {value}.",
    ),
    "founder": ("who founded the {name}", "The {name} was founded by", "The {name} was founded by {value}."),
}
TOWN_FACTS = {
    "mayor": (
        "who is the mayor of the town where the {name} stands",
        "The mayor of that town is",
        "The mayor of {name} is {value}.",
    ),
    "river": (
        "which river flows through the town where the {name} stands",
        "The river of that town is the",
        "The river that flows through {name} is the {value}.",
    ),
    "people": (
        "how many people live in the town where the {name} stands",
        "The number of people of that town is",
        "The number of people who live in {name} is {value}.",
    ),
}
PLACE_SENTENCE = "The {name} stands in the town of {value}."


@dataclass(frozen=True)
class Entry:
    """One subject: its name, the text of its document, and its facts by relation."""

    name: str
    text: str
    facts: Mapping[str, str]


@dataclass(frozen=True)
class DocumentQuestion:
    """A question with the start of its answer, and the answer."""

    question: str
    answer_prefix: str
    answer: str


def invented_name(rng: Random, syllables: int = 3) -> str:
    """A capitalised name of random syllables, 10^7 and more of them."""
    parts = [rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables)]
    return ("".join(parts) + rng.choice(CODAS)).capitalize()


def institute(rng: Random, words: Mapping[str, Sequence[str]], town: str | None = None) -> Entry:
    """An institute in a town, invented as well where none is given.

    Parameters
    ----------
    rng : draws every name, number and sentence
    words : word lists `nouns`, `adjectives` and `verbs` for the sentences without facts
    town : name of its town
    """
    name = f"{invented_name(rng)} Institute"
    facts = {
        "director": f"{invented_name(rng, 2)} {invented_name(rng)}",
        "members": str(rng.randrange(10_000, 100_000)),
        "founder": f"{invented_name(rng, 2)} {invented_name(rng)}",
        "town": town or invented_name(rng),
    }
    sentences = [PLACE_SENTENCE.format(name=name, value=facts["town"])]
    sentences += [frame.format(name=name, value=facts[fact]) for fact, (_, _, frame) in INSTITUTE_FACTS.items()]
    return Entry(name, _document(rng, words, sentences), facts)


def town(rng: Random, words: Mapping[str, Sequence[str]]) -> Entry:
    """A town with its mayor, river and number of people; parameters as for `institute`."""
    name = invented_name(rng)
    facts = {
        "mayor": f"{invented_name(rng, 2)} {invented_name(rng)}",
        "river": invented_name(rng),
        "people": str(rng.randrange(100_000, 1_000_000)),
    }
    sentences = [frame.format(name=name, value=facts[fact]) for fact, (_, _, frame) in TOWN_FACTS.items()]
    return Entry(name, _document(rng, words, sentences), facts)


def _document(rng: Random, words: Mapping[str, Sequence[str]], sentences: list[str]) -> str:
    def word(kind: str) -> str:
        return rng.choice(words[kind])

    for _ in range(rng.randrange(1, 4)):
        fillers = (
            f"Visitors like its {word('adjectives')} {word('nouns')} and its {word('nouns')}.",
            f"It keeps one {word('adjectives')} {word('nouns')} beside the {word('nouns')}.",
            f"In winter one can {word('verbs')} there with a {word('nouns')}.",
        )
        sentences.append(rng.choice(fillers))
    rng.shuffle(sentences)
    return " ".join(sentences)


def one_hop(entry: Entry, rng: Random) -> DocumentQuestion:
    """A question about one fact of an institute."""
    fact = rng.choice(sorted(INSTITUTE_FACTS))
    ask, prefix, _ = INSTITUTE_FACTS[fact]
    return DocumentQuestion(
        f"Question: {ask.format(name=entry.name)}?\n", f"Answer: {prefix.format(name=entry.name)}", entry.facts[fact]
    )


def two_hop(entry: Entry, home: Entry, rng: Random) -> DocumentQuestion:
    """A question about one fact of the town in which an institute stands."""
    fact = rng.choice(sorted(TOWN_FACTS))
    ask, prefix, _ = TOWN_FACTS[fact]
    return DocumentQuestion(f"Question: {ask.format(name=entry.name)}?\n", f"Answer: {prefix}", home.facts[fact])


def answer_from_text(context: str, question: str) -> str:
    """The answer to a question of either kind, found in the documents alone.

    Raises
    ------
    FarspanError : the question has neither form, or the documents do not hold what it needs.
    """
    for facts, through_town in ((INSTITUTE_FACTS, False), (TOWN_FACTS, True)):
        for ask, _, frame in facts.values():
            asked = re.fullmatch(_pattern(f"Question: {ask}?\n", name="(?P<name>.+)"), question)
            if not asked:
                continue
            name = asked["name"]
            if through_town:
                name = _find(context, PLACE_SENTENCE, name)
            return _find(context, frame, name)
    raise FarspanError(f"no question about these documents: {question!r}")


def _pattern(frame: str, **slots: str) -> str:
    return re.sub(r"\\\{(\w+)\\\}", lambda slot: slots[slot[1]], re.escape(frame))


def _find(context: str, frame: str, name: str) -> str:
    found = re.search(_pattern(frame, name=re.escape(name), value=r"(?P<value>[\w ]+?)"), context)
    if not found:
        raise FarspanError(f"the documents do not say: {frame.format(name=name, value='...')}")
    return found["value"]
