"""Training documents out of generated tasks: one context, many questions, loss on the answers alone.

These are document sources for the training room, named in its YAML files by import path. Their seeds live in a stream
of their own, so no evaluation sample is ever trained on.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from farspan.evals.generate.count import TokenCounter
from farspan.evals.generate.generators import generator_class
from farspan.evals.generate.haystack.noise import NOISE_LINE
from farspan.evals.generate.languages import load_language
from farspan.evals.generate.length import LengthTargetError
from farspan.evals.generate.rng import derive_seed
from farspan.evals.schema import LongSample
from farspan.training.data.documents import Document
from farspan.training.data.text import TextFiles

TRAINING_SPLIT = "train"
LAYOUTS = (
    "{key}: {value}\n",
    "{key}={value};",
    "{key} -> {value}\n",
    "({key}, {value}) ",
    '"{key}": "{value}",\n',
    "{key} is {value}. ",
    "{key} {value}\n",
    "set {key} to {value}\n",
    "{key}|{value}|",
    "[{key}] {value}\n",
    "line {key}: REGISTER_CONTENT is <{value}>\n",
    "The secret number of {key} is {value}.\n",
)
RANGES = {"number": (1, 50001), "index": (1, 1000), "digits": (10, 100), "long_number": (10**6, 10**7)}


class FamilyExercise:
    """Samples of a benchmark family with several questions on each context, answers supervised.

    Parameters
    ----------
    family, task, knobs : as `farspan generate` takes them
    completion : what follows the answer prefix; `{answer}` stands for the answers, joined by commas
    questions : fewest and most questions on one context
    shortest : rooms below so many tokens get no document
    bare : share of documents whose questions are only the start of the answer, which leaves room for more of them
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        family: str,
        task: str,
        completion: str = " {answer}\n",
        questions: Sequence[int] = (3, 12),
        shortest: int = 96,
        bare: float = 0.4,
        knobs: Mapping[str, object] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.generator = generator_class(family)(TokenCounter(tokenizer))
        self.task = task
        self.completion = completion
        self.fewest, self.most = questions
        self.shortest = shortest
        self.knobs = dict(knobs or {})
        self.bare = bare
        sample = self.generator.sample(task, 1024, 0, 0, **self.knobs)
        self.costs = {
            bare: len(tokenizer(self._ask(sample, bare) + self._completed(sample))["input_ids"])
            for bare in (False, True)
        }

    def document(self, rng: random.Random, length: int) -> Document:
        """A context of about the length that leaves room for its questions; empty where not even one fits."""
        if length < self.shortest:
            return Document([], [])
        seed = derive_seed(TRAINING_SPLIT, rng.getrandbits(62))
        bare = rng.random() < self.bare
        cost = self.costs[bare]
        asked = max(1, min(rng.randint(self.fewest, self.most), int(length / 2 / cost) + 1))
        while asked:
            target = length - (asked - 1) * cost
            try:
                samples = [
                    self.generator.sample(self.task, target, index, seed, questions_per_context=asked, **self.knobs)
                    for index in range(asked)
                ]
            except LengthTargetError:
                asked //= 2
                continue
            return self._lay_out(rng.sample(samples, asked), length, bare)
        return Document([], [])

    def _ask(self, sample: LongSample, bare: bool) -> str:
        return sample.answer_prefix.removeprefix("Answer: ") if bare else sample.question + sample.answer_prefix

    def _completed(self, sample: LongSample) -> str:
        return self.completion.format(answer=", ".join(sample.answers))

    def _lay_out(self, samples: Sequence[LongSample], length: int, bare: bool) -> Document:
        texts = [samples[0].text]
        for sample in samples:
            texts += [self._ask(sample, bare), self._completed(sample)]
        context, *rest = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        ids, supervised = list(context), [False] * len(context)
        for question, answer in zip(rest[::2], rest[1::2], strict=True):
            if len(ids) + len(question) + len(answer) > length:
                break
            ids += [*question, *answer]
            supervised += [False] * len(question) + [True] * len(answer)
        return Document(ids[:length], supervised[:length])


class KeyValues:
    """Short keys and values in many layouts, then keys again whose values are supervised.

    Without filler the entries are dense: they hold several times more of them in a window than the tasks do, so the
    number of distractors of a longer context is nothing new to a model trained on them.

    Parameters
    ----------
    questions : fewest and most questions on one record
    layouts : forms of an entry, with `{key}` and `{value}`
    keys, values : kinds of both: `words`, `noun`, `capitals`, `number`, `index`, `digits`, `long_number`, `hex`,
        `variable`
    header : opens the record
    question : asks for a `{key}`; the start of its entry follows
    bare : share of documents with neither header nor question
    filler : whether two to eight entries lie scattered in noise, prose or text, in place of a dense record
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        questions: Sequence[int] = (3, 12),
        layouts: Sequence[str] = LAYOUTS,
        keys: Sequence[str] = ("words", "words", "noun", "capitals", "index", "hex", "variable"),
        values: Sequence[str] = ("number", "number", "digits", "noun", "hex", "words"),
        header: str = "",
        question: str = "",
        bare: float = 0.0,
        filler: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.layouts, self.keys, self.values = tuple(layouts), tuple(keys), tuple(values)
        self.words = load_language("en")
        self.fewest, self.most = questions
        self.header, self.question, self.bare = header, question, bare
        self.text = TextFiles(tokenizer) if filler else None

    def document(self, rng: random.Random, length: int) -> Document:
        """As many entries as fit beside the questions; in a third of dense documents only a few."""
        key_kind, value_kind = rng.choice(self.keys), rng.choice(self.values)
        layout = rng.choice(self.layouts)
        bare = rng.random() < self.bare
        candidates = max(4, min(length // 4, 400)) if self.text is None else 8
        keys = list(dict.fromkeys(self._token(key_kind, rng) for _ in range(candidates)))
        cue = layout[: layout.index("{value}")]
        cues = [cue.format(key=key).rstrip(" ") for key in keys]
        lines = [layout.format(key=key, value=self._token(value_kind, rng)) for key in keys]
        answers = [line[len(start) :] for line, start in zip(lines, cues, strict=True)]
        asked = cues if bare else [self.question.format(key=key) + start for key, start in zip(keys, cues, strict=True)]
        encoded = self.tokenizer([*lines, *asked, *answers, "" if bare else self.header], add_special_tokens=False)
        units, rest, ids = (found := encoded["input_ids"])[: len(keys)], found[len(keys) : -1], list(found[-1])
        questions, values = rest[: len(keys)], rest[len(keys) :]
        mean = sum(map(len, rest)) / len(keys)
        room = length - len(ids) - int(min(rng.randint(self.fewest, self.most) * mean, (length - len(ids)) / 2))
        lay_out = self._dense if self.text is None else self._scattered
        count = lay_out(rng, ids, units, room)
        supervised = [False] * len(ids)
        order = [index for _ in range(3) for index in rng.sample(range(count), count)]
        for index in order:
            if len(ids) + len(questions[index]) + len(values[index]) > length:
                break
            ids += [*questions[index], *values[index]]
            supervised += [False] * len(questions[index]) + [True] * len(values[index])
        return Document(ids, supervised)

    def _dense(self, rng: random.Random, ids: list[int], units: Sequence[Sequence[int]], room: int) -> int:
        """Append entries while they fit, and say how many."""
        most = rng.choice((len(units), len(units), rng.randrange(2, 12)))
        count = 0
        for unit in units[:most]:
            room -= len(unit)
            if room < 0:
                break
            ids += unit
            count += 1
        return count

    def _scattered(self, rng: random.Random, ids: list[int], units: Sequence[Sequence[int]], room: int) -> int:
        """Append a few entries at random places of a filler, and say how many."""
        count = min(rng.choice((2, 3, 4, 4, 6, 8)), len(units))
        while count > 1 and sum(map(len, units[:count])) > 0.8 * room:
            count -= 1
        places = sorted(rng.choices(range(1000), k=count))
        filler = self._filler(rng, room - sum(map(len, units[:count])))
        for place, unit in zip(places, units[:count], strict=True):
            at = place * len(filler) // 1000
            filler.insert(at, list(unit))
        ids += [token for part in filler for token in part]
        return count

    def _filler(self, rng: random.Random, tokens: int) -> list[list[int]]:
        """About so many tokens, in parts between which an entry can stand."""
        assert self.text is not None
        kind = rng.choice(("noise", "prose", "text"))
        if kind == "text":
            ids = self.text.document(rng, max(1, tokens)).ids
            return [list(ids[start : start + 16]) for start in range(0, len(ids), 16)]
        sentences = [NOISE_LINE + "\n"] if kind == "noise" else [line + " " for line in self.words.sentences(rng, 24)]
        encoded = self.tokenizer(sentences, add_special_tokens=False)["input_ids"]
        parts: list[list[int]] = []
        while encoded and sum(map(len, parts)) + len(part := rng.choice(encoded)) <= tokens:
            parts.append(list(part))
        return parts

    def _token(self, kind: str, rng: random.Random) -> str:
        if kind == "words":
            return f"{rng.choice(self.words.adjectives)}-{rng.choice(self.words.nouns)}"
        if kind == "noun":
            return rng.choice(self.words.nouns)
        if kind == "capitals":
            return "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=rng.choice((2, 3, 5))))
        if kind == "hex":
            return f"{rng.getrandbits(16):04x}"
        if kind == "variable":
            return rng.choice("abcdefghijkxyz") + str(rng.randrange(100))
        low, high = RANGES[kind]
        return str(rng.randrange(low, high))


class WordCorpus:
    """Text for training a tokenizer: the words and phrasings of the generated tasks.

    It gives words of the tasks tokens of their own, as any tokenizer gives to the frequent words of its corpus.
    """

    def __init__(
        self, tokenizer: None, families: Mapping[str, Sequence[str]], samples: int = 40, repeats: int = 3000
    ) -> None:
        self.families = families
        self.samples = samples
        self.repeats = repeats

    def texts(self) -> list[str]:
        """Every word, often enough to become one token, and samples of the tasks from the training split."""
        words = load_language("en")
        texts = [
            form * self.repeats
            for form in (
                *(f" {word}" for word in (*words.nouns, *words.adjectives, *words.verbs)),
                *(f"-{word}" for word in words.nouns),
            )
        ]
        for family, tasks in self.families.items():
            generator = generator_class(family)(str.split)
            for task in tasks:
                for index in range(self.samples):
                    sample = generator.sample(task, 400, index, derive_seed(TRAINING_SPLIT, "tokenizer"))
                    texts.append(sample.text + sample.question + sample.answer_prefix)
        return texts
