"""Free-form questions on one long document, with the answer at a chosen place, and with numbers that were altered.

`ffqa` asks for a fact of an invented encyclopaedia. `intact` and `altered` ask for a number that everybody knows, woven
into it: as it is, or changed wherever it stands. A model that answers the changed number reads, one that answers the
known one remembers. The three test use of a text, not search: names in questions stand in the text as asked.

Source: arXiv 2308.10882, section 4; documents and facts are ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from random import Random
from typing import ClassVar, Literal

from pydantic import Field

from farspan.evals.generate.build import build_context
from farspan.evals.generate.haystack.encyclopaedia import FACTS, EncyclopaediaHaystack, draw_value, entry
from farspan.evals.generate.length import LengthTarget
from farspan.evals.generate.needle import Needle
from farspan.evals.generate.rng import derive_seed
from farspan.evals.metrics import bleu, presence, whole_number_pattern
from farspan.evals.rows import RowError, read_rows
from farspan.evals.schema import LongSample
from farspan.evals.tasks.altered_numbers import altered_range, replace_number, wikiqa_row_labels
from farspan.evals.tasks.family import Ask, Family, KnobError, Knobs, Made

HEADER = "Below is a document. A question about it is asked.\n"
OFFICIAL_NEW_TOKENS = 50
PREFIX = "Answer: The answer is"
BANDS = {"start": (0.0, 10.0), "random": (10.0, 90.0), "end": (90.0, 100.0)}

KNOWN: Mapping[str, tuple[str, str]] = {
    "atomic_number": ("what is the atomic number of {name}", "The atomic number of {name} is {value}."),
    "count": ("what is the number of {name}", "The number of {name} is {value}."),
    "year": ("in which year was it that {name}", "The year in which {name} was {value}."),
}


class WikiQAKnobs(Knobs):
    """Knobs of the documents.

    answer_position : part of the document in which the answer stands; `grid` walks all depths
    question_position : before or behind the document
    mentions : times the answer's sentence stands in the document
    """

    answer_position: Literal["grid", "start", "random", "end"] = "grid"
    question_position: Literal["start", "end"] = "end"
    mentions: int = Field(default=1, ge=1)


@dataclass(frozen=True)
class Fact:
    """A fact as it stands in the document, and its number as everybody knows it, if it was changed."""

    question: str
    sentence: str
    prefix: str
    value: str
    known: str = ""


class WikiQA(Family[WikiQAKnobs]):
    """The family: `ffqa`, `intact`, `altered`."""

    name = "wikiqa"
    tasks = ("ffqa", "intact", "altered")
    lengths = (2048, 4096, 8192, 16384)
    samples = 100
    knobs_model = WikiQAKnobs
    skills: ClassVar[Mapping[str, str]] = dict.fromkeys(tasks, "question answering")
    instruction = "Answer with the name or number alone."

    def make(self, task: str, length: int | LengthTarget, context: int, seed: int, knobs: WikiQAKnobs) -> Made:
        """One document with one question.

        Raises
        ------
        KnobError : several questions a context, or a part of the document too short for the answer's sentence.
        """
        if knobs.questions_per_context > 1:
            raise KnobError(f"task '{task}' asks one question a document, not {knobs.questions_per_context}")
        # Intact and altered documents are pairs: the same fact, the same document, other numbers.
        shared = "ffqa" if task == "ffqa" else "known"
        seeds = self.seeds(shared, seed, context)
        rng = Random(seeds["needle"])
        fact = _invented(rng) if task == "ffqa" else _known(rng, context, seed)
        other = fact if task == "ffqa" else _altered(fact, rng)
        chosen = other if task == "altered" else fact
        longer = max((fact, other), key=lambda one: self.counter.count(one.sentence))
        question = f"Question: {fact.question}?\n"
        ahead = knobs.question_position == "start"
        frame = self.frame(
            preamble=HEADER + (question if ahead else ""),
            closing="\n",
            tails=[("" if ahead else question) + fact.prefix],
        )
        room = self.room([fact.value, other.value], OFFICIAL_NEW_TOKENS)
        target = self.target(length, room)
        placing = Random(self.seeds(shared, seed, context, length=target.value)["placement"])
        depth = self._depth(context, knobs, placing)
        depths = [depth, *(placing.random() * 100 for _ in range(knobs.mentions - 1))]
        built = build_context(
            EncyclopaediaHaystack([fact.value, other.value]),
            [Needle(longer.sentence, fact_id=f"fact {i + 1}") for i in range(knobs.mentions)],
            target,
            self.counter,
            depths=depths,
            seed=seeds["haystack"],
            placement_seed=derive_seed(seeds["placement"], target.value),
            frame=frame,
        )
        _check(built.depths, knobs)
        saved = knobs.mentions * (self.counter.count(longer.sentence) - self.counter.count(chosen.sentence))
        built = replace(
            built,
            text=built.text.replace(longer.sentence, chosen.sentence),
            n_context_tokens=built.n_context_tokens - saved,
            n_total_tokens=built.n_total_tokens - saved,
        )
        metadata: dict[str, object] = {
            "answer_position": knobs.answer_position,
            "question_position": knobs.question_position,
            "mentions": knobs.mentions,
            "asked": fact.question,
        }
        if task != "ffqa":
            metadata["memory_answer"] = fact.value
        ask = Ask("" if ahead else question, fact.prefix, (chosen.value,), depth, metadata=metadata)
        return Made(target, built, (ask,), room)

    def _depth(self, context: int, knobs: WikiQAKnobs, rng: Random) -> float:
        if knobs.answer_position == "grid" or knobs.depth is not None:
            return self.depths(context, knobs)[0]
        low, high = BANDS[knobs.answer_position]
        # Boundaries of units are met, not every depth: keep away from the band's inner ends.
        inner = (high - low) / 4
        low, high = low + (inner if low else 0), high - (inner if high < 100 else 0)
        return low + rng.random() * (high - low)

    def solve(self, sample: LongSample) -> list[str]:
        """The value that the sentence on what is asked states."""
        asked = str(sample.metadata["asked"])
        for question, sentence in _frames():
            match = re.fullmatch(_pattern(question, name="(?P<name>.+)"), asked)
            if match is None:
                continue
            value = re.search(
                _pattern(sentence, name=re.escape(match["name"]), value=r"(?P<value>[\w ]+?)"), sample.text
            )
            if value is not None:
                return [value["value"]]
        return []

    @classmethod
    def default_tasks(cls, data: str = "") -> Sequence[str]:
        """Free-form questions and altered numbers."""
        return ("ffqa", "altered")

    @classmethod
    def read_published(cls, data: str, task: str) -> Iterable[LongSample]:
        """Samples of a published file, or of own documents; see `read_wikiqa`."""
        return read_wikiqa(data, task)

    @classmethod
    def scores(cls, sample: LongSample, output: str) -> dict[str, float]:
        """`score`: whether the answer stands in the output as a word or whole number of its own.

        `official` and `normalised` are the other two rules, `memory` whether the output says the known number and not
        the one of the document, `answer_chars` the output's length, since long outputs find everything.
        """
        gold = sample.answers[0]
        score = float(presence(gold, output, "token"))
        known = str(sample.metadata.get("memory_answer", ""))
        said = bool(known) and known != gold and whole_number_pattern(known).search(output) is not None
        return {
            "score": score,
            "official": float(presence(gold, output)),
            "normalised": float(presence(gold, output, "normalised")),
            "bleu": bleu(gold, output),
            "memory": float(said and not score),
            "answer_chars": float(len(output.strip())),
            "no_answer": float(not output.strip()),
        }


def context_reliance(scores: float, memory: float) -> float | None:
    """Of the answers that say one of the two numbers, the share that says the document's; None if none does."""
    return scores / (scores + memory) if scores + memory > 0 else None


def read_wikiqa(data: str, task: str, tok_limit: int | None = None) -> Iterator[LongSample]:
    """Samples of a published set (`conversations` of a prompt and an answer) or of own `document, question, answer`.

    Parameters
    ----------
    tok_limit : leaves out prompts with more tokens than this, by the count in the file

    Raises
    ------
    RowError : a row has neither form.
    """
    for number, row in enumerate(read_rows(data)):
        turns = row.get("conversations")
        metadata: dict[str, object] = {"task": task, "depth": None, "length": 0, "length_unit": "tokens"}
        metadata |= {"shared_context_key": "", "evidence_spans": [], "comparability": "official", "asked": ""}
        if isinstance(turns, list) and len(turns) == 2 and all(isinstance(turn, dict) for turn in turns):
            size = int(str(turns[0].get("tok_len", 0)))
            if tok_limit is not None and size > tok_limit:
                continue
            labels = wikiqa_row_labels(number)
            metadata |= {"length": size, "raw": row, **{f"{name}_position": place for name, place in labels.items()}}
            text, question, answer = str(turns[0].get("value", "")), "", str(turns[1].get("value", ""))
        elif {"document", "question", "answer"} <= row.keys():
            text, question, answer = (
                f"{HEADER}{row['document']}\n",
                f"Question: {row['question']}\n",
                str(row["answer"]),
            )
        else:
            raise RowError(f"{data}, row {number} has neither 'conversations' nor 'document', 'question' and 'answer'")
        yield LongSample(
            id=f"wikiqa/{task}/{number}",
            benchmark="wikiqa",
            task=task,
            context=text,
            question=question,
            answers=[answer.strip()],
            answer_prefix="Answer:" if question else "",
            max_new_tokens=OFFICIAL_NEW_TOKENS,
            metadata=metadata,
        )


def _invented(rng: Random) -> Fact:
    name, facts = entry(rng)
    kind, question, sentence = rng.choice(list(facts.values()))
    value = draw_value(kind, rng)
    return Fact(question.format(name=name), sentence.format(name=name, value=value), PREFIX, value)


def _known(rng: Random, context: int, seed: int) -> Fact:
    """A known fact; all of them are gone through before one comes again."""
    facts = _known_facts()
    order = list(range(len(facts)))
    Random(derive_seed("known", seed, context // len(facts))).shuffle(order)
    return facts[order[context % len(facts)]]


def _altered(fact: Fact, rng: Random) -> Fact:
    limits = altered_range(fact.value)
    value = fact.value
    while value == fact.value:
        value = str(rng.randint(limits["lo"], limits["hi"]))
    return replace(fact, sentence=replace_number(fact.sentence, fact.value, value), value=value, known=fact.value)


@cache
def _known_facts() -> tuple[Fact, ...]:
    """All known facts, from `known_numbers.json`."""
    text = files("farspan.evals.tasks").joinpath("known_numbers.json").read_text(encoding="utf-8")
    found = []
    for kind, rows in json.loads(text).items():
        question, sentence = KNOWN[kind]
        for name, value in rows:
            found.append(Fact(question.format(name=name), sentence.format(name=name, value=value), PREFIX, value))
    return tuple(found)


def _check(depths: Sequence[float], knobs: WikiQAKnobs) -> None:
    if knobs.answer_position == "grid" or knobs.depth is not None or knobs.mentions > 1:
        return
    low, high = BANDS[knobs.answer_position]
    if not low <= depths[0] <= high:
        raise KnobError(
            f"the answer's sentence is longer than the part '{knobs.answer_position}' of the document; use a longer one"
        )


@cache
def _frames() -> tuple[tuple[str, str], ...]:
    invented = [(question, sentence) for facts in FACTS.values() for _, question, sentence in facts.values()]
    return (*KNOWN.values(), *invented)


def _pattern(frame: str, **slots: str) -> str:
    return re.sub(r"\\\{(\w+)\\\}", lambda slot: slots[slot[1]], re.escape(frame))
