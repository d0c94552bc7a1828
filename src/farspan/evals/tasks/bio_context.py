"""One context of biographies: where its cast stands, what is hidden, and what is asked on it.

Source: arXiv 2506.02921, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from farspan.evals.generate.build import BuiltContext
from farspan.evals.generate.haystack.base import Haystack
from farspan.evals.generate.haystack.prose import ProseHaystack
from farspan.evals.generate.length import IntArray
from farspan.evals.generate.needle import Needle
from farspan.evals.schema import Role
from farspan.evals.tasks.bio_cast import Cast, Member
from farspan.evals.tasks.bio_haystacks import BioCorpus, GroupedBios, Manner, NumberedBios, numbered
from farspan.evals.tasks.bio_people import Order, everybody, first_pair, stored_people, valid_pairs
from farspan.evals.tasks.bio_places import allowed_places, draw_places, set_apart
from farspan.evals.tasks.bio_questions import Item, Questions
from farspan.evals.tasks.family import Ask
from farspan.evals.tasks.longbiobench_scores import chance_of
from farspan.evals.tasks.longbiobench_tasks import REASONING_KINDS, Kind, LongBioKnobs

GUESSED_PLACE = 9999
ROOM_FOR_JOINTS = " 0 0 0 0"
"""Tokens that putting a sentence back may cost beside its own."""


@dataclass(frozen=True)
class BioContext:
    """A cast and how it is asked about, before the size of the haystack is known.

    depths : of the persons asked for, one a question; used where a question is about a single one
    """

    kind: Kind
    knobs: LongBioKnobs
    manner: Manner
    cast: Cast
    depths: Sequence[float]

    @property
    def words(self) -> Questions:
        """The wording of its language."""
        return Questions(self.knobs.language)

    @property
    def replacing(self) -> bool:
        """Whether members take the places of others: numbered biographies keep their numbers that way."""
        return self.kind == "citation" and self.knobs.haystack == "bios"

    @property
    def by_depth(self) -> bool:
        """Whether questions stand at depths of a grid."""
        return self.cast.size == 1 and not self.knobs.official_order

    def haystack(self) -> Haystack:
        """What the cast stands in."""
        if self.knobs.haystack == "prose":
            return ProseHaystack(self.knobs.language)
        if self.kind == "citation":
            return NumberedBios(self.manner)
        if self.cast.groups is not None:
            return GroupedBios(self.manner, self.cast.groups)
        return BioCorpus(self.manner)

    def header(self) -> str:
        """What stands before the context."""
        prose = self.knobs.haystack == "prose"
        special = {"citation": "header_numbered", "icl": "header_groups"}
        return self.words.words[special.get(self.kind, "header_prose" if prose else "header")] + "\n"

    # -- places --------------------------------------------------------------------------------------------------

    def order(self, sums: IntArray, rng: Random) -> Order:
        """Places of all members, given the tokens before each boundary."""
        cast, in_order = self.cast, self.kind == "multihop"
        groups: list[tuple[int, float | None, bool]] = [
            (cast.size, self.depths[part] if self.by_depth and part < cast.questions else None, in_order)
            for part in range(cast.questions + cast.examples)
        ]
        if self.knobs.official_order:
            groups = [(cast.asked, None, True)]
        groups.append((len(cast.members) - cast.asked, None, False))
        n, bios = len(sums) - 1, self.knobs.haystack == "bios"
        places = draw_places(sums, self.knobs.position, groups, rng)
        if self.replacing:
            allowed = allowed_places(sums[:-1], self.knobs.position)
            places = set_apart(places, n, allowed, [(count, ordered) for count, _, ordered in groups])
        return Order(n, tuple(places), self.replacing, bios)

    def needles(self, order: Order) -> list[tuple[int, Needle]]:
        """Members at their places; those asked for are needles (in chains: links), all others distractors."""
        asked = self.cast.size * self.cast.questions
        wanted: Role = "chain" if self.kind == "multihop" else "needle"
        needles = []
        for number in order.of_members:
            member = self.cast.members[number]
            text = numbered(order.numbers[number], member.text) if self.kind == "citation" else member.text
            role = wanted if number < asked else "distractor"
            needles.append((order.places[number], Needle(text, fact_id=member.person.name, role=role)))
        return needles

    # -- questions -----------------------------------------------------------------------------------------------

    def items(self, numbers: Sequence[int] | None = None) -> list[Item]:
        """Questions, then examples; `numbers` are those of the biographies, guessed where they are not known."""
        known = [GUESSED_PLACE] * len(self.cast.members) if numbers is None else numbers
        parts = range(self.cast.questions + self.cast.examples)
        return [self.cast.item(self.kind, self.words, self.manner.asked, part, known) for part in parts]

    def tails(self) -> list[str]:
        """What follows the context in prompts, or takes as many tokens: a sentence that is put back is counted in."""
        items = self.items()
        examples = "".join(item.example() for item in items[self.cast.questions :])
        gone = [member.removed.text + ROOM_FOR_JOINTS if member.removed else "" for member in self.cast.members]
        return [
            examples + item.question + item.begin + gone[part * self.cast.size]
            for part, item in enumerate(items[: self.cast.questions])
        ]

    def asks(self, order: Order, built: BuiltContext, first: int) -> tuple[Ask, ...]:
        """The questions on a built context; `first` is the number of the first person of the crowd."""
        items = self.items(order.numbers)
        examples = "".join(item.example() for item in items[self.cast.questions :])
        people = self._people(order, first) if self.kind == "twodiff" else None
        return tuple(
            self._ask(part, item, examples, order, built, people)
            for part, item in enumerate(items[: self.cast.questions])
        )

    def _ask(
        self, part: int, item: Item, examples: str, order: Order, built: BuiltContext, people: dict[str, object] | None
    ) -> Ask:
        size, knobs = self.cast.size, self.knobs
        mine = range(part * size, (part + 1) * size)
        members = [self.cast.members[number] for number in mine]
        answers = item.answers
        metadata: dict[str, object] = {
            "language": knobs.language,
            "style": knobs.style,
            "attribute": self.manner.asked,
            "n_retrieval": size,
            "n_bios": order.bios,
            "people": [member.person.name for member in members],
            "position_in_list": [order.numbers[number] for number in mine],
            "position_in_bios": [list(member.sentence) if member.sentence else None for member in members],
            "reference": [member.text[slice(*member.sentence)] if member.sentence else "" for member in members],
            "instruction": self.words.instruction(len(answers), self.kind in REASONING_KINDS),
        }
        if people is not None:
            named, difference = everybody(people), abs(members[0].person.age - members[1].person.age)
            answers = first_pair(named, difference)
            metadata |= {"difference": difference, "crowd": people, "n_aged": len(named)}
            metadata["n_valid_pairs"] = valid_pairs(named, difference)
        if self.kind == "idk":
            answers = (self.words.data.refusals[0],)
            metadata |= _cut(members[0], self.manner.asked, built)
        crowded = (order.bios - len(self.cast.members)) * knobs.density * (1 - knobs.random_attr)
        metadata["chance"] = chance_of(self.kind, size, metadata, stating=max(1.0, len(self.cast.members) + crowded))
        depth = self.depths[part] if self.by_depth else None
        kind = "set" if people is not None else "ordered" if len(answers) > 1 else "alternatives"
        return Ask(examples + item.question, item.begin, answers, depth, kind, metadata)  # type: ignore[arg-type]

    def _people(self, order: Order, first: int) -> dict[str, object]:
        members = [(member.person.name, member.person.age) for member in self.cast.members]
        stated: dict[int, int] | None = None
        if order.among_bios and not self.manner.complete:
            corpus = BioCorpus(self.manner)
            ages = {unit: corpus.stated_age(first + unit) for unit in range(order.n)}
            stated = {unit: age for unit, age in ages.items() if age is not None}
        return stored_people(order, members, self.knobs.language, first, stated)


def _cut(member: Member, attribute: str, built: BuiltContext) -> dict[str, object]:
    """What was cut out of the context, where, and the value it stated."""
    assert member.removed is not None
    span = next(span for span in built.spans if span.fact_id == member.person.name)
    removed = {"text": member.removed.text, "start": span.start_char + member.removed.start}
    return {"removed": removed, "value": member.person.value(attribute)}
