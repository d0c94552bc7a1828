"""Who a context is about: the persons that questions, examples and traps need, and their biographies.

Places and the rest of the haystack are decided elsewhere.

Source: arXiv 2506.02921, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from farspan.evals.generate.rng import derive_seed
from farspan.evals.tasks.bio_haystacks import Groups, Manner
from farspan.evals.tasks.bio_persons import Person, PersonPool, crowd
from farspan.evals.tasks.bio_questions import Item, Questions
from farspan.evals.tasks.bio_text import Biography, Rendered
from farspan.evals.tasks.longbiobench_tasks import AGE_KINDS, Kind, LongBioKnobs

SAME_LETTER = 2
"""Biographies with a group that share the first letter with the one asked for."""


@dataclass(frozen=True)
class Removed:
    """A sentence that was cut out of a biography, with the gap beside it, and where in the biography it stood."""

    text: str
    start: int


@dataclass(frozen=True)
class Member:
    """A person of the cast with the biography that stands in the context.

    sentence : where its sentence on the asked attribute stands; None where it has none (any more)
    """

    person: Person
    text: str
    sentence: tuple[int, int] | None
    removed: Removed | None = None


@dataclass(frozen=True)
class Cast:
    """Members in order: those of each question, those of each example, then others that only stand there.

    size : members of one question
    """

    members: tuple[Member, ...]
    size: int
    questions: int
    examples: int
    groups: Groups | None = None

    @property
    def asked(self) -> int:
        """Members of questions and examples."""
        return self.size * (self.questions + self.examples)

    def persons(self, part: int) -> list[Person]:
        """Persons of a question, or behind the questions of an example."""
        return [member.person for member in self.members[part * self.size : (part + 1) * self.size]]

    def item(self, kind: Kind, words: Questions, attribute: str, part: int, places: Sequence[int]) -> Item:
        """The question or example number `part`; `places` are those of all members among the biographies."""
        persons = self.persons(part)
        if kind == "rank":
            return words.rank(persons)
        if kind == "calculation":
            return words.calculation(*persons)
        if kind == "twodiff":
            return words.twodiff(persons[0], persons[1])
        if kind == "multihop":
            return words.multihop(attribute, persons)
        if kind == "citation":
            return words.citation(attribute, persons, places[part * self.size : (part + 1) * self.size])
        if self.groups is not None:
            return words.group(persons[0], self.groups.of(persons[0]))
        return words.value(attribute, persons, "idk" if kind == "idk" else "")


def draw_cast(kind: Kind, manner: Manner, knobs: LongBioKnobs, seed: int) -> Cast:
    """Draw all persons of a context and write them down; neither length nor places have a part in it."""
    pool, rng = crowd(manner.language), Random(derive_seed(seed, "persons"))
    size, questions, examples = knobs.n_retrieval, knobs.questions_per_context, knobs.fewshot
    groups = Groups(manner.language, rng) if kind == "icl" else None
    if groups is None:
        persons = pool.asked(rng, size * (questions + examples), distinct_ages=kind in AGE_KINDS)
        others: list[Person] = []
    else:
        persons, others = _same_letters(pool, rng, questions + examples)
    for person in persons[: size * questions] * knobs.near_names:
        others.append(pool.near(person, rng, [known.name for known in (*persons, *others)]))
    members = []
    for number, person in enumerate(persons):
        place = number % size
        link = (manner.asked, persons[number - 1].name) if kind == "multihop" and place else None
        member = _write(manner, person, Random(derive_seed(seed, "text", number)), link)
        members.append(_without(member, manner) if kind == "idk" and number < size * questions else member)
    for number, person in enumerate(others):
        other = _write(manner, person, Random(derive_seed(seed, "other", number)), None)
        members.append(other if groups is None else Member(person, groups.label(other.text, person), other.sentence))
    return Cast(tuple(members), size, questions, examples, groups)


def _write(manner: Manner, person: Person, rng: Random, link: tuple[str, str] | None) -> Member:
    drop = manner.drops(Random(rng.getrandbits(63)), keep_asked=True)
    written: Rendered = Biography(manner.language).render(person, manner.style, manner.use_age, drop, link, rng)
    return Member(person, written.text, written.spans.get(manner.asked))


def _without(member: Member, manner: Manner) -> Member:
    """A member whose biography lacks the sentence asked for, and one gap beside it."""
    assert member.sentence is not None
    start, end = member.sentence
    gap = len(Biography(manner.language).language.joiner)
    if end < len(member.text):
        end += gap
    else:
        start -= gap
    text = member.text
    return Member(member.person, text[:start] + text[end:], None, Removed(text[start:end], start))


def _same_letters(pool: PersonPool, rng: Random, count: int) -> tuple[list[Person], list[Person]]:
    """Persons to be asked for, and for each some others whose universities start with the same letter."""
    asked: list[Person] = []
    others: list[Person] = []
    while len(asked) < count:
        (person,) = pool.asked(rng, 1)
        if person.name in {known.name for known in asked}:
            continue
        asked.append(person)
        names = {known.name for known in (*asked, *others)}
        alike = 0
        while alike < SAME_LETTER:
            (other,) = pool.asked(rng, 1)
            if other.university[0] == person.university[0] and other.name not in names:
                others.append(other)
                names.add(other.name)
                alike += 1
    return asked, others
