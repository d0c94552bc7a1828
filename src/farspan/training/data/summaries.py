"""Long samples out of short texts with summaries: many texts in one context, all summaries or one of them asked for.

Whether a model trained on such samples summarises texts as long as the context is another question; this only builds
them, to an exact number of tokens.

Source: arXiv 2412.02819.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformers import PreTrainedTokenizerBase

from farspan.errors import FarspanError
from farspan.training.data.documents import Document, step_seed

Ask = Literal["all", "one"]
Pair = tuple[str, str]

CLOSENESS = 0.99
"""Least share of the wanted tokens that a sample has."""


@dataclass(frozen=True)
class _Words:
    text: str
    unasked: str
    every: str
    one: str
    cue: str
    answer: str


WORDS = {
    "zh": _Words(
        "第{n}篇：\n",
        "附文：\n",
        "请依次为以上第1篇到第{n}篇各写一段摘要，不要输出其他内容。\n\n",
        "请为以上第{n}篇写摘要，不要输出其他内容。\n\n",
        "摘要：\n",
        "第{n}篇：",
    ),
    "en": _Words(
        "Text {n}:\n",
        "Appendix:\n",
        "Write a summary of each of the texts 1 to {n} above, in order, and nothing else.\n\n",
        "Write a summary of text {n} above and nothing else.\n\n",
        "Summary:\n",
        "Text {n}: ",
    ),
}


@dataclass(frozen=True)
class LongSummary:
    """One sample.

    order : numbers of the pairs whose texts are in it, in order
    asked : those whose summaries are the answer, in order
    filler : number of the pair whose text's beginning fills the rest and is not asked for; None where nothing does
    document : token ids, the answer and the end of text supervised
    prompt_tokens : those before the answer
    """

    order: tuple[int, ...]
    asked: tuple[int, ...]
    filler: int | None
    document: Document
    prompt_tokens: int


def concat_short_summaries(
    pairs: Sequence[Pair],
    target_tokens: int,
    seed: int,
    *,
    tokenizer: PreTrainedTokenizerBase,
    ask: Ask = "all",
    language: Literal["zh", "en"] = "zh",
) -> Iterator[LongSummary]:
    """Samples of at most `target_tokens` tokens and no more than 1 % fewer, until the pairs are used up.

    Every pair is in at most one sample. Where the next text does not fit, the beginning of one fills the rest, under a
    heading of its own, and is not asked for.

    Parameters
    ----------
    pairs : texts and their summaries
    target_tokens : of prompt and answer together
    seed : decides the order of the pairs, and which summary is asked for
    ask : all summaries in order, or one of them
    language : of what the samples say beside texts and summaries

    Raises
    ------
    FarspanError : no pair fits, or all pairs together do not fill one sample.
    """
    builder = _Builder(pairs, tokenizer, ask, language)
    rng = random.Random(step_seed("summaries", seed))
    waiting = list(range(len(pairs)))
    rng.shuffle(waiting)
    made = 0
    while (sample := builder.take(waiting, target_tokens, rng)) is not None:
        made += 1
        yield sample
    if not made:
        raise FarspanError(
            f"{len(pairs)} texts with summaries make no sample of {target_tokens} tokens: give more of them, or "
            "another length"
        )


class ShortSummaries:
    """A source of training documents: texts of a file put together anew for every document.

    Parameters
    ----------
    path : JSON lines with a text and its summary
    text, summary : the names of these fields
    ask, language : see `concat_short_summaries`

    Raises
    ------
    FarspanError : the file cannot be read, or a row lacks a field.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        path: str,
        text: str = "text",
        summary: str = "summary",
        ask: Ask = "all",
        language: Literal["zh", "en"] = "zh",
    ) -> None:
        self._builder = _Builder(_read(path, text, summary), tokenizer, ask, language)

    def document(self, rng: random.Random, length: int) -> Document:
        """A document of at most `length` tokens and no more than 1 % fewer; empty if the file cannot fill it."""
        waiting = list(range(len(self._builder.pairs)))
        rng.shuffle(waiting)
        sample = self._builder.take(waiting, length, rng)
        return Document([], []) if sample is None else sample.document


class _Builder:
    """Puts samples together; token ids of texts and summaries are kept."""

    def __init__(
        self, pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, ask: Ask, language: Literal["zh", "en"]
    ) -> None:
        if ask not in ("all", "one") or language not in WORDS:
            raise FarspanError(f"ask is all or one and language zh or en, not '{ask}' and '{language}'")
        self.pairs = pairs
        self.tokenizer = tokenizer
        self.ask = ask
        self.words = WORDS[language]
        self._known: dict[str, list[int]] = {}
        end = tokenizer.eos_token_id
        self._end = [] if end is None else [int(end)]

    def take(self, waiting: list[int], target: int, rng: random.Random) -> LongSummary | None:
        """The next sample, whose pairs leave `waiting`; None where what waits does not fill one."""
        order: list[int] = []
        for index in list(waiting):
            if self._most([*order, index]) <= target:
                order.append(index)
            elif order:
                break
        if not order:
            return None
        asked = list(order) if self.ask == "all" else [rng.choice(order)]
        rest = [index for index in waiting if index not in set(order)]
        filler, more = self._filled(rest, target - self._length(order, asked))
        prompt = [*self._passages(order), *more, *self._question(order, asked)]
        answer = [*self._answer(order, asked), *self._end]
        if len(prompt) + len(answer) < CLOSENESS * target:
            return None
        used = {*order, *(() if filler is None else (filler,))}
        waiting[:] = [index for index in waiting if index not in used]
        document = Document([*prompt, *answer], [False] * len(prompt) + [True] * len(answer))
        return LongSummary(tuple(order), tuple(asked), filler, document, len(prompt))

    def _filled(self, rest: Sequence[int], room: int) -> tuple[int | None, list[int]]:
        """The beginning of a text that is not asked for, in `room` tokens or a few fewer."""
        frame = len(self._ids(self.words.unasked)) + len(self._ids("\n\n"))
        wanted = room - frame
        if wanted < 1 or not rest:
            return None, []
        long = (index for index in rest if len(self._ids(self.pairs[index][0])) >= wanted)
        chosen = next(long, None)
        if chosen is None:
            chosen = max(rest, key=lambda index: len(self._ids(self.pairs[index][0])))
        # A character in several tokens is not cut, so a few tokens can be missing.
        ids = self._ids(self.pairs[chosen][0])[:wanted]
        while ids and str(self.tokenizer.decode(ids)).endswith("\ufffd"):
            ids = ids[:-1]
        return chosen, [*self._ids(self.words.unasked), *ids, *self._ids("\n\n")]

    def _most(self, order: Sequence[int]) -> int:
        """Tokens of a sample of these texts, whichever summary is asked for."""
        if self.ask == "all":
            return self._length(order, order)
        texts = sum(map(len, self._parts(order)))
        return texts + len(self._end) + max(self._asked_length(order, [index]) for index in order)

    def _length(self, order: Sequence[int], asked: Sequence[int]) -> int:
        return sum(map(len, self._parts(order))) + self._asked_length(order, asked) + len(self._end)

    def _asked_length(self, order: Sequence[int], asked: Sequence[int]) -> int:
        return len(self._question(order, asked)) + len(self._answer(order, asked))

    def _parts(self, order: Sequence[int]) -> list[list[int]]:
        return [
            self._ids(part)
            for number, index in enumerate(order, 1)
            for part in (self.words.text.format(n=number), self.pairs[index][0], "\n\n")
        ]

    def _passages(self, order: Sequence[int]) -> list[int]:
        return [token for part in self._parts(order) for token in part]

    def _question(self, order: Sequence[int], asked: Sequence[int]) -> list[int]:
        every = self.words.every.format(n=len(order))
        text = every if self.ask == "all" else self.words.one.format(n=order.index(asked[0]) + 1)
        return [*self._ids(text), *self._ids(self.words.cue)]

    def _answer(self, order: Sequence[int], asked: Sequence[int]) -> list[int]:
        if self.ask == "one":
            return self._ids(self.pairs[asked[0]][1])
        parts = []
        for number, index in enumerate(order, 1):
            parts += [self.words.answer.format(n=number), self.pairs[index][1], "\n"]
        return [token for part in parts[:-1] for token in self._ids(part)]

    def _ids(self, text: str) -> list[int]:
        if text not in self._known:
            found = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            self._known[text] = [int(token) for token in found]
        return self._known[text]


def _read(path: str, text: str, summary: str) -> list[Pair]:
    """The pairs of a file."""
    found = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found.append((str(row[text]), str(row[summary])))
        except (ValueError, KeyError, TypeError) as error:
            raise FarspanError(f"{path}, line {number} is no object with '{text}' and '{summary}'") from error
    if not found:
        raise FarspanError(f"{path} holds no text with a summary")
    return found
