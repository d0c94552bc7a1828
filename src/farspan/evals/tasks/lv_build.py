"""Levels of length out of one's own questions and documents: the same questions in ever longer mixtures.

Every level holds the documents of the shorter one, so that only what was added can change a score. Keywords can be
replaced everywhere, so that nothing can be known by heart, and confusing facts put between sentences.

Source: arXiv 2402.05136, section 3.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from farspan.errors import FarspanError
from farspan.evals.generate.rng import derive_seed
from farspan.evals.schema import LongSample, text_sha256

_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s*")
HEADING = "### Passage {number}\n"


class LevelError(FarspanError):
    """Documents, facts or replacements that levels cannot be built from."""


class Question(BaseModel):
    """A question on documents of one's own.

    documents : those that hold the evidence
    confusing_facts : sentences that look like the evidence and are not
    replacements : words to replace everywhere, in documents, question, answers and keywords
    """

    model_config = ConfigDict(frozen=True)

    question: str
    answers: tuple[str, ...] = Field(min_length=1)
    documents: tuple[str, ...] = Field(min_length=1)
    keywords: str = ""
    confusing_facts: tuple[str, ...] = ()
    replacements: Mapping[str, str] = {}


Counter = Callable[[str], int]


def count_words(text: str) -> int:
    """Words, punctuation counted with them and white space not."""
    return len(text.split())


def count_chars(text: str) -> int:
    """Characters without white space."""
    return sum(not char.isspace() for char in text)


def build_leveled(
    questions: Sequence[Question],
    distractors: Sequence[str],
    levels: Mapping[str, int],
    *,
    count: Counter = count_words,
    seed: int = 0,
    confusing_facts: bool = True,
    replace_keywords: bool = True,
    language: str = "en",
) -> Iterator[LongSample]:
    """The questions at every level, shortest first.

    Parameters
    ----------
    distractors : documents that answer nothing, drawn until a level is full
    levels : names and lengths in what `count` counts
    confusing_facts, replace_keywords : what of the two makes it into the contexts

    Returns
    -------
    Samples with `length_level`, and in `metadata["positions"]` the number of each supporting document among all.

    Raises
    ------
    LevelError : too few distractors, evidence longer than a level, or a replacement that is in the text already.
    """
    for number, given in enumerate(questions):
        own = _replaced(given, distractors) if replace_keywords else given
        rng = random.Random(derive_seed(seed, "levels", number))
        order = list(distractors)
        rng.shuffle(order)
        documents = [_with_facts(text, own, index, rng, confusing_facts) for index, text in enumerate(own.documents)]
        places = [rng.random() for _ in (*documents, *order)]
        taken = 0
        for name, length in sorted(levels.items(), key=lambda level: level[1]):
            taken = _filled(documents, order, taken, length, count, name)
            texts = [*documents, *order[:taken]]
            # A place drawn once for each document keeps the order of all that a shorter level holds.
            chosen = sorted(range(len(texts)), key=lambda index: places[index])
            context = "\n\n".join(HEADING.format(number=i) + texts[index] for i, index in enumerate(chosen, 1))
            yield LongSample(
                id=f"{name}-{number}",
                benchmark="lv_build",
                task=name,
                language=language,
                context=context,
                question=own.question,
                answers=list(own.answers),
                answer_keywords=own.keywords or None,
                metadata={
                    "length": length,
                    "length_level": name,
                    "depth": None,
                    "task": name,
                    "shared_context_key": text_sha256(context)[:16],
                    "positions": [chosen.index(index) for index in range(len(documents))],
                    "documents": len(texts),
                    "confusing_facts": list(own.confusing_facts) if confusing_facts else [],
                    "replaced": dict(given.replacements) if replace_keywords else {},
                    "evidence_spans": [],
                },
            )


def build_recall(
    fact: str,
    question: str,
    answers: Sequence[str],
    haystack: Sequence[str],
    length: int,
    *,
    positions: int = 200,
    count: Counter = count_words,
    language: str = "en",
) -> Iterator[LongSample]:
    """One fact at evenly spaced places of the same text, from its beginning to its end.

    Parameters
    ----------
    haystack : sentences, taken in order until `length` is reached
    positions : places; the share of the text before the fact is `index / (positions - 1)`

    Raises
    ------
    LevelError : the sentences are too few, or there are fewer than two places.
    """
    if positions < 2:
        raise LevelError(f"{positions} places make no scale; give two or more")
    taken = _filled([fact], list(haystack), 0, length, count, "text")
    sentences = list(haystack[:taken])
    for index in range(positions):
        at = round(index / (positions - 1) * len(sentences))
        context = " ".join([*sentences[:at], fact, *sentences[at:]])
        yield LongSample(
            id=f"recall-{index}",
            benchmark="lv_build",
            task="recall",
            language=language,
            context=context,
            question=question,
            answers=list(answers),
            metadata={
                "length": length,
                "depth": 100.0 * index / (positions - 1),
                "task": "recall",
                "shared_context_key": text_sha256(context)[:16],
                "evidence_spans": [],
            },
        )


def build_walking(
    questions: Sequence[Question],
    documents: Sequence[str],
    levels: Mapping[str, int],
    *,
    positions: int = 200,
    count: Counter = count_words,
    language: str = "en",
) -> Iterator[LongSample]:
    """`build_recall` for every question, whose one document is the fact, at every level, in the documents' sentences.

    Raises
    ------
    LevelError : a question with several documents, or see `build_recall`.
    """
    sentences = [part for text in documents for part in _SENTENCE_END.split(text) if part]
    for name, length in sorted(levels.items(), key=lambda level: level[1]):
        for number, given in enumerate(questions):
            if len(given.documents) != 1:
                raise LevelError(f"question {number + 1} has {len(given.documents)} documents; a fact is one")
            for sample in build_recall(
                given.documents[0],
                given.question,
                given.answers,
                sentences,
                length,
                positions=positions,
                count=count,
                language=language,
            ):
                yield sample.model_copy(
                    update={
                        "id": f"{name}-{number}-{sample.id}",
                        "answer_keywords": given.keywords or None,
                        "metadata": {**sample.metadata, "length_level": name},
                    }
                )


def _filled(fixed: Sequence[str], more: Sequence[str], taken: int, length: int, count: Counter, name: str) -> int:
    """How many of `more` fit beside `fixed` without going over the length; those taken already stay."""
    total = sum(map(count, fixed)) + sum(map(count, more[:taken]))
    if total > length:
        raise LevelError(f"level '{name}' has room for {length}, the documents in it already have {total}")
    while taken < len(more) and total + count(more[taken]) <= length:
        total += count(more[taken])
        taken += 1
    if taken == len(more):
        raise LevelError(f"level '{name}' of {length} needs more text than all {len(more)} further documents hold")
    return taken


def _with_facts(text: str, own: Question, index: int, rng: random.Random, wanted: bool) -> str:
    """The document with its share of the confusing facts, each between two sentences."""
    if not wanted:
        return text
    sentences = [part for part in _SENTENCE_END.split(text) if part]
    for fact in own.confusing_facts[index :: len(own.documents)]:
        sentences.insert(rng.randint(1, max(len(sentences) - 1, 1)), fact)
    return " ".join(sentences)


def _replaced(own: Question, distractors: Sequence[str]) -> Question:
    if not own.replacements:
        return own
    everything = "\n".join((*own.documents, *distractors, own.question, *own.confusing_facts))
    for new in own.replacements.values():
        if _pattern([new]).search(everything):
            raise LevelError(f"'{new}' stands in the text already, so it cannot replace a word unseen")
    pattern = _pattern(list(own.replacements))

    def change(text: str) -> str:
        return pattern.sub(lambda found: own.replacements[found.group()], text)

    return own.model_copy(
        update={
            "question": change(own.question),
            "answers": tuple(map(change, own.answers)),
            "documents": tuple(map(change, own.documents)),
            "keywords": change(own.keywords),
            "confusing_facts": tuple(map(change, own.confusing_facts)),
        }
    )


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Whole words, the longest first; where a word begins or ends in a letter of a script without spaces, any place."""
    return re.compile(
        "|".join(
            (r"\b" if word[0].isascii() else "") + re.escape(word) + (r"\b" if word[-1].isascii() else "")
            for word in sorted(words, key=len, reverse=True)
        )
    )
