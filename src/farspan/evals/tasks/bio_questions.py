"""Questions on biographies: their wording, the worked answers of examples, and reading questions back.

Source: arXiv 2506.02921, section 3; the wording is our own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from farspan.evals.tasks.bio_persons import ATTRIBUTES, Person, load_bio_language
from farspan.evals.tasks.bio_text import same_as_frame

_SLOT = re.compile(r"\\\{(\w+)\\\}")


@dataclass(frozen=True)
class Item:
    """One question: what it says, how an answer begins, how it goes on where it is worked out, and the answers.

    `worked` is the rest of the line behind `begin`.
    """

    question: str
    begin: str
    worked: str
    answers: tuple[str, ...]

    def example(self) -> str:
        """The question with its answer, as an example for another question."""
        return f"{self.question}{self.begin}{self.worked}\n\n"


class Questions:
    """Words questions in one language."""

    def __init__(self, language: str = "en") -> None:
        self.data = load_bio_language(language)
        self.words = self.data.wording
        self._gap = self.data.joiner

    def value(self, attribute: str, persons: Sequence[Person], note: str = "") -> Item:
        """An attribute of one person, or of several in a given order; `note` is a key of the wording."""
        values = tuple(person.value(attribute) for person in persons)
        return self._value(attribute, persons, values, ", ".join(values), note)

    def citation(self, attribute: str, persons: Sequence[Person], places: Sequence[int]) -> Item:
        """As `value`, each answer with the number of its biography."""
        values = [f"{person.value(attribute)} [{place}]" for person, place in zip(persons, places, strict=True)]
        return self._value(attribute, persons, tuple(values), ", ".join(values), "cite")

    def _value(
        self, attribute: str, persons: Sequence[Person], answers: tuple[str, ...], listed: str, note: str
    ) -> Item:
        label = self.data.labels[attribute]
        extra = self.words[note] if note else ""
        if len(persons) == 1:
            question = self.words["ask"].format(label=label, name=persons[0].name) + extra
            begin = self._begin(attribute, persons[0].name)
        else:
            names = ", ".join(f"{number}. {person.name}" for number, person in enumerate(persons, 1))
            question, begin = self.words["ask_many"].format(label=label, people=names) + extra, self.words["begin_many"]
        return self._item(question, begin, f"{self._gap}{listed}", answers)

    def rank(self, persons: Sequence[Person]) -> Item:
        """Names from the youngest to the oldest."""
        ordered = tuple(person.name for person in sorted(persons, key=lambda person: person.age))
        read = self._gap.join(self.words["rank_read"].format(name=p.name, age=p.age) for p in persons)
        worked = f"{read}{self._gap}{self.words['rank_end']} {', '.join(ordered)}"
        question = self.words["rank"].format(people=", ".join(person.name for person in persons))
        first = persons[0].name
        return self._item(question, first, worked.removeprefix(first), ordered)

    def calculation(self, one: Person, other: Person) -> Item:
        """The difference of two ages."""
        difference = abs(one.age - other.age)
        question = self.words["calculation"].format(one=one.name, other=other.name)
        worked = self.words["calculation_read"].format(
            one=one.name, other=other.name, a=one.age, b=other.age, difference=difference
        )
        return self._item(question, one.name, worked.removeprefix(one.name), (str(difference),))

    def twodiff(self, one: Person, other: Person) -> Item:
        """Any two persons with the age difference of two given ones."""
        difference = abs(one.age - other.age)
        begin = self.words["twodiff_begin"]
        worked = self.words["twodiff_read"].format(
            one=one.name, other=other.name, a=one.age, b=other.age, difference=difference
        )
        question = self.words["twodiff"].format(difference=difference)
        return self._item(question, begin, worked.removeprefix(begin), (one.name, other.name))

    def multihop(self, attribute: str, chain: Sequence[Person]) -> Item:
        """An attribute of the last person of a chain; each of the others equals the one before."""
        label, value = self.data.labels[attribute], chain[0].value(attribute)
        link = same_as_frame(self.data, attribute, "third")
        read = [
            link.format(name=later.name, other=earlier.name)
            for earlier, later in zip(chain[-2::-1], chain[:0:-1], strict=True)
        ]
        read.append(self.data.standard[attribute].format(name=chain[0].name, value=value))
        read.append(self.words["so"].format(label=label, name=chain[-1].name, value=value))
        question = self.words["ask"].format(label=label, name=chain[-1].name)
        return self._item(
            question, self._begin(attribute, chain[-1].name), f"{self._gap}{self._gap.join(read)}", (value,)
        )

    def group(self, person: Person, group: str) -> Item:
        """The group of a person whose biography does not say it."""
        question, begin = (self.words[key].format(name=person.name) for key in ("ask_group", "begin_group"))
        return self._item(question, begin, f"{self._gap}{group}", (group,))

    def instruction(self, answers: int, reasoning: bool) -> str:
        """What chat models are told about the form of the answer."""
        return self.words[
            "instruction_reasoning" if reasoning else "instruction" if answers == 1 else "instruction_many"
        ]

    def _begin(self, attribute: str, name: str) -> str:
        label = self.data.labels[attribute]
        return self.words["begin"].format(label=label, Label=label[0].upper() + label[1:], name=name)

    def _item(self, question: str, begin: str, worked: str, answers: tuple[str, ...]) -> Item:
        return Item(f"{self.words['question']}{question}\n", self.words["answer"] + begin, worked, answers)


@dataclass(frozen=True)
class Asked:
    """What a question asks for."""

    names: tuple[str, ...] = ()
    attribute: str = ""
    difference: int = 0


def read_question(question: str, language: str = "en") -> Asked:
    """What the last question of a text with examples asks for."""
    line = question.rstrip("\n").rsplit("\n", 1)[-1]
    words = load_bio_language(language).wording
    for kind in ("calculation", "rank", "twodiff", "ask_group", "ask_many"):
        match = _question(language, kind, "").match(line)
        if match is None:
            continue
        found = match.groupdict()
        if kind == "ask_many":
            names = re.findall(r"\d+\. (.+?)(?=, \d+\. |$)", found["people"])
            return Asked(tuple(names), _attribute_of(found["label"], language))
        if kind == "rank":
            return Asked(tuple(found["people"].split(", ")))
        if kind == "twodiff":
            return Asked(difference=int(found["difference"]))
        return Asked(tuple(found[slot] for slot in ("one", "other", "name") if slot in found))
    for attribute in ATTRIBUTES:
        match = _question(language, "ask", attribute).match(line)
        if match is not None:
            return Asked((match["name"],), attribute)
    raise ValueError(f"no question about biographies: {line!r} ({words['question']})")


def _attribute_of(label: str, language: str) -> str:
    labels = load_bio_language(language).labels
    return next(attribute for attribute in ATTRIBUTES if labels[attribute] == label)


@cache
def _question(language: str, kind: str, attribute: str) -> re.Pattern[str]:
    data = load_bio_language(language)
    template = data.wording[kind]
    if attribute:
        template = template.replace("{label}", data.labels[attribute])
    labels = "|".join(re.escape(data.labels[name]) for name in ATTRIBUTES)
    slots = {"label": f"(?P<label>{labels})", "difference": r"(?P<difference>\d+)"}
    pattern = _SLOT.sub(lambda slot: slots.get(slot[1], f"(?P<{slot[1]}>.+?)"), re.escape(template))
    return re.compile(re.escape(data.wording["question"]) + pattern)
