"""Answers to questions on biographies, from the text alone: every name, value and age is read from sentences.

Source: arXiv 2506.02921, section 3.4.
"""

from __future__ import annotations

from collections.abc import Callable

from farspan.evals.schema import LongSample
from farspan.evals.tasks.bio_people import first_pair
from farspan.evals.tasks.bio_persons import load_bio_language
from farspan.evals.tasks.bio_questions import Asked, read_question
from farspan.evals.tasks.bio_text import AGE, Entry, read_attribute, read_entries
from farspan.evals.tasks.longbiobench_tasks import TASKS, Kind


class _Reader:
    """The biographies of a text by name."""

    def __init__(self, text: str, language: str) -> None:
        self.language = language
        self.entries = read_entries(text, language)
        self.by_name = {entry.name: entry for entry in self.entries}

    def value(self, name: str, attribute: str) -> str:
        """What the text says of a person, through any chain of equalities; empty if it does not."""
        seen: set[str] = set()
        while name in self.by_name and name not in seen:
            seen.add(name)
            stated = read_attribute(self.by_name[name], attribute, self.language)
            if stated is None or stated.value:
                return stated.value if stated else ""
            name = stated.same_as
        return ""

    def ages(self) -> list[tuple[str, int]]:
        """Everybody whose age the text says, in its order."""
        found = [(entry.name, read_attribute(entry, AGE, self.language)) for entry in self.entries]
        return [(name, int(stated.value)) for name, stated in found if stated is not None]

    def group(self, entry: Entry) -> str:
        """The group behind a biography; empty if there is none."""
        data = load_bio_language(self.language)
        ends = {group: data.wording["group"].format(value=group) for group in data.groups}
        return next((group for group, end in ends.items() if end in entry.body), "")


def solve_bios(sample: LongSample) -> list[str]:
    """The answers, or one refusal where the text does not say what they need."""
    language = str(sample.metadata.get("language", "en"))
    reader, asked = _Reader(sample.text, language), read_question(sample.question, language)
    found = _SOLVERS[TASKS[sample.task].kind](reader, asked)
    return found if found and all(found) else [load_bio_language(language).refusals[0]]


def _values(reader: _Reader, asked: Asked) -> list[str]:
    return [reader.value(name, asked.attribute) for name in asked.names]


def _citations(reader: _Reader, asked: Asked) -> list[str]:
    values = _values(reader, asked)
    if not all(values):
        return []
    return [f"{value} [{reader.by_name[name].number}]" for name, value in zip(asked.names, values, strict=True)]


def _rank(reader: _Reader, asked: Asked) -> list[str]:
    ages = {name: reader.value(name, AGE) for name in asked.names}
    return sorted(asked.names, key=lambda name: int(ages[name])) if all(ages.values()) else []


def _calculation(reader: _Reader, asked: Asked) -> list[str]:
    ages = [reader.value(name, AGE) for name in asked.names]
    return [str(abs(int(ages[0]) - int(ages[1])))] if all(ages) else []


def _twodiff(reader: _Reader, asked: Asked) -> list[str]:
    return list(first_pair(reader.ages(), asked.difference))


def _group(reader: _Reader, asked: Asked) -> list[str]:
    (name,) = asked.names
    letter = reader.value(name, "university")[:1]
    for entry in reader.entries:
        stated = read_attribute(entry, "university", reader.language)
        group = reader.group(entry)
        if letter and group and stated is not None and stated.value.startswith(letter):
            return [group]
    return []


_SOLVERS: dict[Kind, Callable[[_Reader, Asked], list[str]]] = {
    "value": _values,
    "idk": _values,
    "multihop": _values,
    "citation": _citations,
    "rank": _rank,
    "calculation": _calculation,
    "twodiff": _twodiff,
    "icl": _group,
}
