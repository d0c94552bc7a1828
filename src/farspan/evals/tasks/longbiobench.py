"""LongBioBench: needles that are biographies among biographies, so that nothing but their content gives them away.

One knob at a time makes a question harder: more persons, freer wording, the first person, arithmetic, chains,
citations, questions without an answer. Every score is an exact match; no judge. Texts are our own, so scores compare
models and levers with each other, not with published tables; published files are read where the user has them.

Source: arXiv 2506.02921.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import ClassVar

import numpy as np

from farspan.evals.generate.build import BuiltContext, build_context
from farspan.evals.generate.counted import counted_source
from farspan.evals.generate.haystack.base import CorpusHaystack, Haystack
from farspan.evals.generate.length import IntArray, LengthTarget
from farspan.evals.generate.needle import Frame, Needle
from farspan.evals.schema import LongSample
from farspan.evals.tasks.bio_cast import draw_cast
from farspan.evals.tasks.bio_context import BioContext
from farspan.evals.tasks.bio_haystacks import BioCorpus, Manner
from farspan.evals.tasks.bio_people import Order
from farspan.evals.tasks.bio_persons import ATTRIBUTES, Person, PersonPool
from farspan.evals.tasks.bio_text import AGE, Biography, Rendered
from farspan.evals.tasks.family import Ask, Family, KnobError, Made
from farspan.evals.tasks.longbiobench_official import haystack_budget, read_bios
from farspan.evals.tasks.longbiobench_scores import score_bios, score_idk
from farspan.evals.tasks.longbiobench_solve import solve_bios
from farspan.evals.tasks.longbiobench_tasks import (
    AGE_KINDS,
    PAIR_KINDS,
    REASONING_KINDS,
    SUITE,
    TASKS,
    Kind,
    LongBioKnobs,
)

OFFICIAL_TOKENS, REASONING_FACTOR = 50, 5
SKILLS = {"understanding": "retrieval", "reasoning": "reasoning", "trustworthy": "trust", "extra": "trust"}


class LongBioBench(Family[LongBioKnobs]):
    """The family; its fifteen tasks make up the overall score, `rnidk` and `icl` stand beside them."""

    name = "longbiobench"
    tasks: ClassVar[Sequence[str]] = tuple(TASKS)
    lengths = (2048, 8192, 16384, 32768, 65536, 131072)
    samples = 100
    knobs_model = LongBioKnobs
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {name: task.preset for name, task in TASKS.items()}
    skills: ClassVar[Mapping[str, str]] = {name: SKILLS[task.category] for name, task in TASKS.items()}

    def make(self, task: str, length: int | LengthTarget, context: int, seed: int, knobs: LongBioKnobs) -> Made:
        """One context of biographies with its questions.

        Raises
        ------
        KnobError : knobs that do not go with the task, or a `position` in which no biography starts.
        LengthTargetError : what the questions need does not fit.
        """
        kind = TASKS[task].kind
        _check(task, kind, knobs)
        seeds = self.seeds(task, seed, context)
        drawn = ATTRIBUTES[Random(seeds["question"]).randrange(len(ATTRIBUTES))]
        asked = AGE if kind in AGE_KINDS else knobs.attribute or drawn
        manner = Manner(knobs.language, knobs.style, asked == AGE, asked, knobs.density, knobs.random_attr)
        cast = draw_cast(kind, manner, knobs, seeds["needle"])
        made = BioContext(kind, knobs, manner, cast, self.depths(context, knobs))
        haystack = made.haystack()
        # One crowd serves all tasks of a seed and index.
        crowd_seed = self.seeds("crowd", seed, context)["haystack"]
        first = haystack.offset(crowd_seed) if isinstance(haystack, BioCorpus) else 0
        factor = REASONING_FACTOR if kind in REASONING_KINDS else 1
        room = self.room([item.worked for item in made.items()], OFFICIAL_TOKENS * cast.size * factor)
        target = self.target(length, room)
        placement = self.seeds(task, seed, context, length=target.value)["placement"]

        def attempt(frame: Frame) -> tuple[BuiltContext, tuple[Ask, ...]]:
            orders: dict[int, Order] = {}

            def place(n: int, rng: Random) -> list[tuple[int, Needle]]:
                orders[n] = made.order(self._sums(haystack, crowd_seed, n), rng)
                return made.needles(orders[n])

            built = build_context(
                haystack,
                place,
                target,
                self.counter,
                seed=crowd_seed,
                placement_seed=placement,
                frame=frame,
                mode="replace" if made.replacing else "insert",
                min_units=len(cast.members) if made.replacing else 1,
            )
            return built, made.asks(orders[built.units_kept], built, first)

        built, asks = self.settle(attempt, self.frame(preamble=made.header(), closing="\n", tails=made.tails()))
        return Made(target, built, asks, room)

    def _sums(self, haystack: Haystack, seed: int, n: int) -> IntArray:
        """Tokens before each boundary of `n` units; of haystacks that are not counted once, units."""
        if isinstance(haystack, CorpusHaystack):
            window = counted_source(haystack, self.counter).window(seed)
            window.grow(n)
            return window.tokens[: n + 1]
        return np.arange(n + 1, dtype=np.int64)

    def solve(self, sample: LongSample) -> list[str]:
        """The answers, worked out from the sentences of the text; a refusal where it does not say."""
        return solve_bios(sample)

    @classmethod
    def default_tasks(cls, data: str = "") -> Sequence[str]:
        """The fifteen tasks of the overall score."""
        return SUITE

    @classmethod
    def suite(cls, data: str = "") -> Sequence[str]:
        """The fifteen tasks of the overall score."""
        return SUITE

    @classmethod
    def read_published(cls, data: str, task: str) -> Iterable[LongSample]:
        """Samples of a published file; see `longbiobench_official.read_bios`."""
        return read_bios(data, task)

    @classmethod
    def companions(cls, sample: LongSample) -> list[LongSample]:
        """For a question without an answer, the same one on the text that still has it."""
        removed = sample.metadata.get("removed")
        if not isinstance(removed, Mapping):
            return []
        start, text = int(removed["start"]), sample.text
        context = text[:start] + str(removed["text"]) + text[start:]
        metadata = {name: value for name, value in sample.metadata.items() if name != "removed"}
        metadata["shared_context_key"] = f"{sample.shared_context_key}/{start}"
        update = {"id": f"{sample.id}/intact", "context": context, "answers": [str(metadata["value"])]}
        return [sample.model_copy(update={**update, "metadata": metadata})]

    @classmethod
    def scores(cls, sample: LongSample, output: str) -> dict[str, float]:
        """`score`: exact match by the rule of the task; `corrected` for chance; further figures of the task."""
        return score_bios(sample, output)

    @classmethod
    def joint_scores(cls, sample: LongSample, output: str, others: Sequence[str]) -> dict[str, float]:
        """Refusals count only where the question on the intact text was answered right."""
        return score_idk(sample, output, others[0]) if others else cls.scores(sample, output)


def _check(task: str, kind: Kind, knobs: LongBioKnobs) -> None:
    wanted = 2 if kind in PAIR_KINDS else 1 if kind in ("idk", "icl") else None
    if wanted is not None and knobs.n_retrieval != wanted:
        raise KnobError(f"task '{task}' is about {wanted} person(s): n_retrieval={wanted}, not {knobs.n_retrieval}")
    if kind in ("rank", "multihop") and knobs.n_retrieval < 2:
        raise KnobError(f"task '{task}' needs n_retrieval of 2 or more, not {knobs.n_retrieval}")
    if kind == "icl" and (knobs.attribute != "university" or knobs.fewshot or knobs.density < 1 or knobs.random_attr):
        raise KnobError(f"task '{task}' goes by universities that all biographies state, without further examples")
    if kind in AGE_KINDS and knobs.attribute is not None:
        raise KnobError(f"task '{task}' is about ages; leave attribute out")


__all__ = [
    "SUITE",
    "TASKS",
    "Biography",
    "LongBioBench",
    "LongBioKnobs",
    "Person",
    "PersonPool",
    "Rendered",
    "haystack_budget",
]
