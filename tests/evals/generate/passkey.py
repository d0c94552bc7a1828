"""A small family for tests: numbers hidden in prose, each asked for by its key."""

from __future__ import annotations

import re
from random import Random
from typing import ClassVar

from farspan.evals.generate import GeneratorBase, LengthTarget, Needle, ProseHaystack, build_context
from farspan.evals.generate.haystack.lines import distinct_pairs
from farspan.evals.schema import LongSample

FORM = "The secret number of {key} is {value}."
NEW_TOKENS = 12


class Passkey(GeneratorBase):
    """Sample i asks question `i % questions` on context `i // questions`."""

    name = "passkey"
    tasks = ("hidden",)
    lengths = (512,)
    defaults: ClassVar[dict[str, object]] = {"depth": 50.0, "questions": 1}

    def sample(self, task: str, length: int | LengthTarget, index: int, seed: int, **knobs: object) -> LongSample:
        settings = self.settings(task, knobs)
        questions, depth = int(str(settings["questions"])), float(str(settings["depth"]))
        context, asked = divmod(index, questions)
        target = self.target(length, NEW_TOKENS)
        seeds = self.seeds(task, seed, context, length=target.value, depth=depth)
        rng = Random(seeds["needle"])
        keys = [key for key, _ in zip(distinct_pairs(rng), range(questions), strict=False)]
        values = [str(rng.randrange(10**6, 10**7)) for _ in keys]
        needles = [
            Needle(FORM.format(key=key, value=value), key, key=key, value=value, form=FORM)
            for key, value in zip(keys, values, strict=True)
        ]
        tails = [f"Question: what is the secret number of {key}?\nAnswer: the number is" for key in keys]
        built = build_context(
            ProseHaystack(),
            needles,
            target,
            self.counter,
            depths=depth,
            seed=seeds["haystack"],
            placement_seed=seeds["placement"],
            frame=self.frame(preamble="Read this.\n", closing="\n", tails=tails),
        )
        question, cue, prefix = tails[asked].partition("Answer:")
        return self.pack(
            task=task,
            length=target,
            index=index,
            seed=seed,
            built=built,
            question=question,
            answer_prefix=cue + prefix,
            answers=[values[asked]],
            max_new_tokens=NEW_TOKENS,
            depth=depth,
        )

    def solve(self, sample: LongSample) -> list[str]:
        key = re.search(r"number of (\S+)\?", sample.question)
        found = re.search(rf"number of {key[1]} is (\d+)\.", sample.text) if key else None
        return [found[1]] if found else []
