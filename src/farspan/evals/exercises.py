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
from farspan.evals.generate.languages import load_language
from farspan.evals.generate.length import LengthTargetError
from farspan.evals.generate.rng import derive_seed
from farspan.evals.schema import LongSample
from farspan.training.data.documents import Document

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
        context, *rest = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        ids, supervised = list(context), [False] * len(context)
        for question, answer in zip(rest[::2], rest[1::2], strict=True):
            if len(ids) + len(question) + len(answer) > length:
                break
            ids += [*question, *answer]
            supervised += [False] * len(question) + [True] * len(answer)
        return Document(ids[:length], supervised[:length])


class KeyValues:
    """Dense records of short keys and values in many layouts, then keys again whose values are supervised.

    They hold several times more entries in a window than the tasks do, so the number of distractors of a longer
    context is nothing new to a model trained on them.

    Parameters
    ----------
    questions : fewest and most questions on one record
    layouts : forms of an entry, with `{key}` and `{value}`
    keys, values : kinds of both: `words`, `noun`, `capitals`, `number`, `digits`, `hex`, `variable`
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        questions: Sequence[int] = (3, 12),
        layouts: Sequence[str] = LAYOUTS,
        keys: Sequence[str] = ("words", "words", "noun", "capitals", "number", "hex", "variable"),
        values: Sequence[str] = ("number", "number", "digits", "noun", "hex", "words"),
    ) -> None:
        self.tokenizer = tokenizer
        self.layouts, self.keys, self.values = tuple(layouts), tuple(keys), tuple(values)
        self.words = load_language("en")
        self.fewest, self.most = questions

    def document(self, rng: random.Random, length: int) -> Document:
        """As many entries as fit beside the questions; in a third of documents only a few."""
        key_kind, value_kind = rng.choice(self.keys), rng.choice(self.values)
        layout = rng.choice(self.layouts)
        keys = list(dict.fromkeys(self._token(key_kind, rng) for _ in range(max(4, min(length // 4, 400)))))
        cue = layout[: layout.index("{value}")]
        asked = [cue.format(key=key).rstrip(" ") for key in keys]
        lines = [layout.format(key=key, value=self._token(value_kind, rng)) for key in keys]
        answers = [line[len(question) :] for line, question in zip(lines, asked, strict=True)]
        encoded = self.tokenizer([*lines, *asked, *answers], add_special_tokens=False)["input_ids"]
        units, questions, values = encoded[: len(keys)], encoded[len(keys) : 2 * len(keys)], encoded[2 * len(keys) :]
        mean = sum(map(len, units)) / len(units)
        room = length - int(min(rng.randint(self.fewest, self.most) * mean, length / 2))
        most = rng.choice((len(units), len(units), rng.randrange(2, 12)))
        ids: list[int] = []
        count = 0
        for unit in units[:most]:
            if len(ids) + len(unit) > room:
                break
            ids += unit
            count += 1
        supervised = [False] * len(ids)
        order = [index for _ in range(3) for index in rng.sample(range(count), count)]
        for index in order:
            if len(ids) + len(questions[index]) + len(values[index]) > length:
                break
            ids += [*questions[index], *values[index]]
            supervised += [False] * len(questions[index]) + [True] * len(values[index])
        return Document(ids, supervised)

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
        return str(rng.randrange(10, 100) if kind == "digits" else rng.randrange(1, 50001))


class WordCorpus:
    """Text for training a tokenizer: the words and phrasings of the generated tasks.

    It gives words of the tasks tokens of their own, as any tokenizer gives to the frequent words of its corpus.
    """

    def __init__(
        self, tokenizer: None, families: Mapping[str, Sequence[str]], samples: int = 40, repeats: int = 100
    ) -> None:
        self.families = families
        self.samples = samples
        self.repeats = repeats

    def texts(self) -> list[str]:
        """Every word, plain and joined, and samples of the tasks from the training split."""
        words = load_language("en")
        texts = [
            f" {word}" * self.repeats + f"-{word}" * self.repeats + f"\n{word} {word.capitalize()}" * self.repeats
            for word in (*words.nouns, *words.adjectives, *words.verbs)
        ]
        for family, tasks in self.families.items():
            generator = generator_class(family)(str.split)
            for task in tasks:
                for index in range(self.samples):
                    sample = generator.sample(task, 400, index, derive_seed(TRAINING_SPLIT, "tokenizer"))
                    texts.append(sample.text + sample.question + sample.answer_prefix)
        return texts
