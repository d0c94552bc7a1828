"""Biographies as text: persons written down, and facts read back from what was written.

A biography is one line: a prefix with the name, then one sentence for each attribute in a fixed order. Reading knows
the sentence frames but no list of values, so it finds what the text says and nothing else.

Source: arXiv 2506.02921, section 3; the wording is our own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Literal

from farspan.errors import FarspanError
from farspan.evals.tasks.bio_persons import ATTRIBUTES, BioLanguage, Person, load_bio_language

Style = Literal["standard", "paraphrase", "pronoun"]
STYLES: tuple[Style, ...] = ("standard", "paraphrase", "pronoun")
AGE = "age"

_SLOT = re.compile(r"\\\{(\w+)\\\}")
_VALUE = r"[^.。:\n]+?"


@dataclass(frozen=True)
class Rendered:
    """A biography; `spans` slices each sentence of an attribute (or `age`) out of `text`."""

    text: str
    spans: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Stated:
    """What a biography says of an attribute: a value, or that it equals that of another person."""

    value: str = ""
    same_as: str = ""


@dataclass(frozen=True)
class Entry:
    """A biography found in a text: its number, where there is one, its person, and its text without the prefix."""

    name: str
    body: str
    first_person: bool
    number: int | None = None


class Biography:
    """Writes biographies in one language."""

    def __init__(self, language: str = "en") -> None:
        self.language = load_bio_language(language)

    def render(
        self,
        person: Person,
        style: Style = "standard",
        use_age: bool = False,
        drop: Collection[str] = (),
        same_as: tuple[str, str] | None = None,
        rng: Random | None = None,
    ) -> Rendered:
        """Write a person down.

        Parameters
        ----------
        style : one fixed frame an attribute; a frame drawn for each sentence; or such frames in the first person
        use_age : say the age in place of the date of birth
        drop : attributes (or `age`) that are not mentioned; frames of the others stay as they were drawn
        same_as : an attribute whose sentence says that it equals that of the person with the given name
        rng : draws frames; needed for all styles but the standard one

        Raises
        ------
        FarspanError : an unknown style, or no random stream for a style that draws.
        """
        if style not in STYLES:
            raise FarspanError(f"style is one of {', '.join(STYLES)}, not '{style}'")
        if rng is None and style != "standard":
            raise FarspanError(f"style '{style}' draws its frames, so it needs rng")
        language, person_form = self.language, "first" if style == "pronoun" else "third"
        pieces = [language.prefix[person_form].format(name=person.name)]
        place = len(pieces[0])
        spans: dict[str, tuple[int, int]] = {}
        for attribute in ATTRIBUTES:
            said = AGE if use_age and attribute == "birthdate" else attribute
            frame = self._frame(said, style, rng)
            if said in drop:
                continue
            if same_as is not None and same_as[0] == said:
                frame = same_as_frame(language, said, person_form).replace("{other}", same_as[1])
            sentence = frame.format(name=person.name, value=person.value(said))
            pieces.append(sentence)
            place += len(language.joiner)
            spans[said] = (place, place + len(sentence))
            place += len(sentence)
        return Rendered(language.joiner.join(pieces), spans)

    def _frame(self, attribute: str, style: Style, rng: Random | None) -> str:
        if rng is None or style == "standard":
            return self.language.standard[attribute]
        form = "first" if style == "pronoun" else "third"
        cores, openers = getattr(self.language, form)[attribute], self.language.openers[form]
        return openers[int(rng.random() * len(openers))] + cores[int(rng.random() * len(cores))]  # type: ignore[no-any-return]


def same_as_frame(language: BioLanguage, attribute: str, form: str) -> str:
    """The sentence of a chain, with the slots {name} and {other}."""
    label = language.labels[attribute]
    frame = language.same_as[form].replace("{label}", label)
    return frame.replace("{Label}", label[0].upper() + label[1:])


def read_entries(text: str, language: str = "en") -> list[Entry]:
    """All biographies of a text, in order; what stands between them belongs to the one before."""
    data = load_bio_language(language)
    found = list(_heads(language).finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return [
        Entry(
            name=match["third"] or match["first"],
            body=text[match.end() : end].strip() if data.joiner else text[match.end() : end].rstrip("\n"),
            first_person=match["first"] is not None,
            number=None if match["number"] is None else int(match["number"]),
        )
        for match, end in zip(found, ends, strict=True)
    ]


def read_attribute(entry: Entry, attribute: str, language: str = "en") -> Stated | None:
    """What a biography says of an attribute (or the age), None if it says nothing."""
    form = "first" if entry.first_person else "third"
    for link in _links(language, form, attribute).finditer(entry.body):
        if form == "first" or link["name"] == entry.name:
            return Stated(same_as=link["other"])
    for pattern in _sentences(language, form, attribute):
        for match in pattern.finditer(entry.body):
            if form == "first" or match["name"] == entry.name:
                return Stated(value=match["value"].strip())
    return None


def read_values(text: str, attribute: str, language: str = "en") -> Iterator[tuple[str, Stated]]:
    """Names and what their biographies say of an attribute, in the order of the text."""
    for entry in read_entries(text, language):
        stated = read_attribute(entry, attribute, language)
        if stated is not None:
            yield entry.name, stated


@cache
def _heads(language: str) -> re.Pattern[str]:
    """The start of a biography."""
    prefix = load_bio_language(language).prefix
    forms = [
        _SLOT.sub(lambda slot, form=form: f"(?P<{form}>[^:\\n]+?)", re.escape(prefix[form]))  # type: ignore[misc]
        for form in ("third", "first")
    ]
    return re.compile(rf"(?:\[(?P<number>\d+)\] )?(?:{'|'.join(forms)})")


@cache
def _sentences(language: str, form: str, attribute: str) -> tuple[re.Pattern[str], ...]:
    """The frames of an attribute as patterns with the groups `name` (in the third person) and `value`."""
    data = load_bio_language(language)
    frames = dict.fromkeys([*([data.standard[attribute]] if form == "third" else []), *getattr(data, form)[attribute]])
    name = _name(data)
    value = r"\d+" if attribute == AGE else r"\d{4}-\d{2}-\d{2}" if attribute == "birthdate" else _VALUE
    slots = {"name": name, "value": f"(?P<value>{value})"}
    start = r"(?:^|(?<=[.。:]\s)|(?<=[.。:]))"
    return tuple(re.compile(start + _SLOT.sub(lambda slot: slots[slot[1]], re.escape(frame))) for frame in frames)


@cache
def _links(language: str, form: str, attribute: str) -> re.Pattern[str]:
    """The sentence of a chain, with the groups `name` (in the third person) and `other`."""
    data = load_bio_language(language)
    frame = same_as_frame(data, attribute, form)
    slots = {"name": _name(data), "other": r"(?P<other>[^.。\n]+?)"}
    return re.compile(_SLOT.sub(lambda slot: slots[slot[1]], re.escape(frame)))


def _name(data: BioLanguage) -> str:
    """Three words, or three groups of characters with points between."""
    return r"(?P<name>(?:\S+ ){2}\S+)" if data.name_joiner == " " else r"(?P<name>\w+·\w+?·\w{3})"
