"""Question answering over numbered documents: generated ones, or the published questions where their files are given.

Where documents come from is a source; this module numbers them, puts the gold ones at their depth, and asks.

Source: arXiv 2404.06654, section 3; the wording is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from random import Random
from typing import Protocol

from farspan.evals.generate.build import build_context
from farspan.evals.generate.haystack.base import Haystack
from farspan.evals.generate.languages import load_language
from farspan.evals.generate.length import LengthTarget, LengthTargetError
from farspan.evals.generate.needle import Needle
from farspan.evals.generate.rng import derive_seed, sample_indices, shuffled
from farspan.evals.schema import LongSample
from farspan.evals.tasks.family import Ask, Family, KnobError, Made
from farspan.evals.tasks.ruler_documents import answer_from_text, institute, one_hop, town, two_hop
from farspan.evals.tasks.ruler_official import PublishedDocuments
from farspan.evals.tasks.ruler_tasks import PUBLISHED_TEXT_TASKS, TASKS, RulerKnobs
from farspan.evals.tasks.uuid_threads import needle_index

PART = 1024
STARTS = 4 * PART
HEADER = "Read the documents below. A question about them follows.\n"


@dataclass(frozen=True)
class Item:
    """One question with its documents: the gold ones (the first holds the answer) and related wrong ones."""

    question: str
    answer_prefix: str
    answers: tuple[str, ...]
    gold: tuple[str, ...]
    related: tuple[str, ...] = ()


class DocumentSource(Protocol):
    """Where questions and documents come from."""

    def item(self, rng: Random, index: int) -> Item:
        """Question number `index`; generated ones are drawn from `rng`."""

    def documents(self, seed: int, n: int, avoid: Sequence[str]) -> list[str]:
        """The first `n` documents of a seed that are not gold and hold none of the strings to avoid."""


class GeneratedDocuments:
    """Invented institutes and towns; one hop asks an institute, two hops the town where it stands."""

    def __init__(self, hops: int) -> None:
        self.hops = hops
        self._words = _words()

    def item(self, rng: Random, index: int) -> Item:
        """A fresh institute (and town) with a question."""
        home = town(rng, self._words)
        entry = institute(rng, self._words, home.name)
        asked = one_hop(entry, rng) if self.hops == 1 else two_hop(entry, home, rng)
        gold = (entry.text,) if self.hops == 1 else (home.text, entry.text)
        return Item(asked.question, asked.answer_prefix, (asked.answer,), gold)

    def documents(self, seed: int, n: int, avoid: Sequence[str]) -> list[str]:
        """Institutes and towns in turn, from one stream that every seed enters at a place of its own."""
        place = derive_seed(seed, "documents") % STARTS
        found: list[str] = []
        while len(found) < n:
            number, start = divmod(place, PART)
            part = _part(number)[start : start + n - len(found)]
            place += len(part)
            found += [text for text in part if not any(answer in text for answer in avoid)]
        return found


@lru_cache(maxsize=64)
def _part(number: int) -> tuple[str, ...]:
    """Part `number` of the stream of generated documents."""
    words = _words()
    rng = Random(derive_seed("documents", number))
    return tuple((town(rng, words) if i % 2 else institute(rng, words)).text for i in range(PART))


@cache
def _words() -> dict[str, Sequence[str]]:
    words = load_language("en")
    return {"nouns": words.nouns, "adjectives": words.adjectives, "verbs": words.verbs}


class NumberedDocuments(Haystack):
    """Documents "Document i:" from a source; related ones come first in the stream."""

    joiner = "\n"
    recurring = True

    def __init__(self, source: DocumentSource, related: Sequence[str], avoid: Sequence[str], kind: str) -> None:
        self._source, self._related, self._avoid, self._kind = source, list(related), tuple(avoid), kind

    def units(self, seed: int, n: int) -> list[str]:
        related = shuffled(Random(derive_seed(seed, "related")), self._related)[:n]
        others = self._source.documents(seed, n - len(related), self._avoid)
        return [numbered(i, text) for i, text in enumerate([*related, *others])]

    def seam(self, unit: str) -> int:
        return unit.find(":") + 1

    @property
    def kind(self) -> str:
        return self._kind


def numbered(index: int, text: str) -> str:
    """A document as it stands at a place, counted from one."""
    return f"Document {index + 1}:\n{text}"


def make_qa(
    family: Family[RulerKnobs], task: str, length: int | LengthTarget, context: int, seed: int, knobs: RulerKnobs
) -> Made:
    """Put the gold documents of the questions among others.

    Raises
    ------
    KnobError : a task of the published texts without their folder.
    LengthTargetError : fewer documents fit than the questions need.
    """
    if task in PUBLISHED_TEXT_TASKS and knobs.data_dir is None:
        raise KnobError(f"task '{task}' needs the published files, give data_dir; '{task}_gen' needs none")
    published = task in PUBLISHED_TEXT_TASKS and knobs.data_dir is not None
    source: DocumentSource = PublishedSource(str(knobs.data_dir), task) if published else GeneratedDocuments(knobs.hops)
    seeds = family.seeds(task, seed, context)
    rng = Random(seeds["needle"])
    first = context * knobs.questions_per_context
    items = [source.item(rng, first + question) for question in range(knobs.questions_per_context)]
    depths = family.depths(context, knobs)
    max_new_tokens = family.room([answer for item in items for answer in item.answers], TASKS[task].tokens_to_generate)
    target = family.target(length, max_new_tokens)
    gold = [text for item in items for text in item.gold]
    avoid = [answer for item in items for answer in item.answers] if not published else gold
    related = [text for item in items for text in item.related if text not in gold]
    haystack = NumberedDocuments(source, related, avoid, f"documents:{task}:{knobs.hops}")
    asks = tuple(
        Ask(
            item.question,
            item.answer_prefix,
            item.answers,
            depth,
            metadata={"hops": knobs.hops, "comparability": "official" if published else "generated"},
        )
        for item, depth in zip(items, depths, strict=True)
    )

    def place(n: int, placing: Random) -> list[tuple[int, Needle]]:
        if len(gold) > n:
            raise LengthTargetError(f"{n} documents fit but the questions need {len(gold)}; use a longer context")
        taken: dict[int, str] = {}
        for item, depth in zip(items, depths, strict=True):
            wish = needle_index(n, depth)
            free = [place for place in range(n) if place not in taken]
            chosen = [min(free, key=lambda place: (abs(place - wish), place))]
            free.remove(chosen[0])
            chosen += [free[i] for i in shuffled(placing, sample_indices(placing, len(free), len(item.gold) - 1))]
            taken |= dict(zip(chosen, item.gold, strict=True))
        return [(i, Needle(numbered(i, text), fact_id=f"document {i + 1}")) for i, text in sorted(taken.items())]

    built = build_context(
        haystack,
        place,
        target,
        family.counter,
        seed=seeds["haystack"],
        placement_seed=family.seeds(task, seed, context, length=target.value)["placement"],
        frame=family.frame(preamble=HEADER, closing="\n", tails=[ask.tail for ask in asks]),
        mode="replace",
        min_units=len(gold),
    )
    return Made(target, built, asks, max_new_tokens)


class PublishedSource:
    """The published questions and paragraphs."""

    def __init__(self, data_dir: str, task: str) -> None:
        self._documents = PublishedDocuments.read(data_dir, task)

    def item(self, rng: Random, index: int) -> Item:
        """Question number `index`, from the start again after the last."""
        found = self._documents.questions[index % len(self._documents.questions)]
        texts = self._documents.texts
        gold, related = tuple(texts[i] for i in found.gold), tuple(texts[i] for i in found.related)
        return Item(f"Question: {found.question.strip()}\n", "Answer:", found.answers, gold, related)

    def documents(self, seed: int, n: int, avoid: Sequence[str]) -> list[str]:
        """Random paragraphs that are not among those to avoid."""
        return [self._drawn(Random(derive_seed(seed, "document", number)), avoid) for number in range(n)]

    def _drawn(self, rng: Random, avoid: Sequence[str]) -> str:
        texts = self._documents.texts
        text = texts[rng.randrange(len(texts))]
        while text in avoid:
            text = texts[rng.randrange(len(texts))]
        return text


def solve_qa(sample: LongSample) -> list[str]:
    """The answer, read from the documents; published questions have none that a program could read."""
    if sample.task in PUBLISHED_TEXT_TASKS:
        raise KnobError(f"task '{sample.task}' asks about published texts and has no programmatic answer")
    return [answer_from_text(sample.text, sample.question)]


def listed_qa(sample: LongSample, output: str) -> list[str]:
    """The output is one answer."""
    return [output.strip()] if output.strip() else []
