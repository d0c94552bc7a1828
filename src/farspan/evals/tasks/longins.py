"""LongIns: a long sheet of solved exercises, one in ten solved wrongly; the numbers of the wrong ones are asked for.

Every item needs a small judgement, so the score measures how many of them a model carries through a context. It is an
F1 over items, whose floor is what naming all of them scores (`all_wrong`); read curves against that.

Source: arXiv 2406.17588; the exercises are our own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from random import Random
from typing import ClassVar, Literal

from pydantic import Field

from farspan.evals.generate.build import BuiltContext, build_context
from farspan.evals.generate.haystack.base import Haystack
from farspan.evals.generate.length import LengthTarget
from farspan.evals.generate.needle import Frame, Needle
from farspan.evals.generate.rng import derive_seed
from farspan.evals.metrics.index_list import all_wrong_f1, longins_f1, num_errors, q_density
from farspan.evals.schema import LongSample
from farspan.evals.tasks.family import Ask, Family, KnobError, Knobs, Made
from farspan.evals.tasks.longins_items import FAMILIES, KINDS_OF_ITEMS, Item, ItemFamily, solved

REQUIREMENT = "You are a teacher. Each numbered item below is a task with a given answer; some answers are wrong.\n\n"
QUESTION = "\n\nWhich items have a wrong answer? Give their numbers alone, as a list in square brackets.\nWrong items: "
OFFICIAL_NEW_TOKENS = 10_000
SAMPLED_ITEMS = 48
ITEM = re.compile(r"\[(\d+): (.*?) Answer: (.*?)\]", re.DOTALL)
TOLD = re.compile(r"Task of every item: (.*)\n")


class LongInsKnobs(Knobs):
    """Knobs of LongIns.

    error_rate : share of items that are wrong, at least one
    kinds : types of exercises, separated by commas; all where empty
    placement : one error in each of equal parts of the sheet, or anywhere
    index_base : number of the first item
    """

    error_rate: float = Field(default=0.1, gt=0, le=0.5)
    kinds: str = ""
    placement: Literal["stratified", "uniform"] = "stratified"
    index_base: Literal[0, 1] = 0

    @property
    def families(self) -> list[ItemFamily]:
        """The families of exercises that are wanted.

        Raises
        ------
        KnobError : an unknown type.
        """
        wanted = [kind.strip() for kind in self.kinds.split(",") if kind.strip()]
        unknown = [kind for kind in wanted if kind not in KINDS_OF_ITEMS]
        if unknown:
            raise KnobError(f"longins has no exercises of type '{unknown[0]}'; it has {', '.join(KINDS_OF_ITEMS)}")
        return [family for family in FAMILIES if not wanted or family.kind in wanted]


class Sheet(Haystack):
    """Numbered items with right answers; all of them follow from the seed."""

    joiner = "\n"

    def __init__(self, families: Sequence[ItemFamily], told: bool, base: int) -> None:
        self._families, self._told, self._base = list(families), told, base
        self._held: dict[int, list[Item]] = {}

    def items(self, seed: int, n: int) -> list[Item]:
        """The first `n` items."""
        found = self._held.setdefault(seed, [])
        while len(found) < n:
            rng = Random(derive_seed(seed, "item", len(found)))
            found.append(rng.choice(self._families).item(rng, rng.randrange(3)))
        return found[:n]

    def text(self, number: int, item: Item, answer: str) -> str:
        """One item as it stands on the sheet."""
        told = f"{item.instruction} " if self._told else ""
        return f"[{number + self._base}: {told}{item.given} Answer: {answer}]"

    def units(self, seed: int, n: int) -> list[str]:
        return [self.text(number, item, item.answer) for number, item in enumerate(self.items(seed, n))]

    @property
    def kind(self) -> str:
        return f"sheet:{self._told}:{','.join(family.name for family in self._families)}"


class LongIns(Family[LongInsKnobs]):
    """The family: `gist` tells the task once, `list` at every item, `limt` mixes tasks and tells each."""

    name = "longins"
    tasks = ("gist", "list", "limt")
    lengths = (256, 512, 1024, 2048, 4096, 8192, 16384)
    samples = 70
    knobs_model = LongInsKnobs
    instruction = "Answer with the list alone, such as [3, 17]."
    skills: ClassVar[Mapping[str, str]] = dict.fromkeys(tasks, "judging every part")

    def make(self, task: str, length: int | LengthTarget, context: int, seed: int, knobs: LongInsKnobs) -> Made:
        """One sheet with its errors.

        Raises
        ------
        KnobError : several questions on one context, or an unknown type of exercise.
        LengthTargetError : fewer than two items fit.
        """
        if knobs.questions_per_context > 1:
            raise KnobError(f"task '{task}' asks one question a context, not {knobs.questions_per_context}")
        # the same sheet for gist and list: seeds do not depend on which of the two it is
        seeds = self.seeds("sheet", seed, context)
        rng = Random(seeds["needle"])
        families = knobs.families if task == "limt" else [rng.choice(knobs.families)]
        told = task != "gist"
        sheet = Sheet(families, told, knobs.index_base)
        wording = rng.randrange(3)
        head = "" if told else f"Task of every item: {families[0].instructions[wording]}\n\n"
        max_new_tokens = self._room(sheet, seeds["haystack"], length, knobs)
        target = self.target(length, max_new_tokens)

        def attempt(frame: Frame) -> tuple[BuiltContext, tuple[Ask, ...]]:
            chosen: dict[int, list[int]] = {}

            def place(n: int, _: Random) -> list[tuple[int, Needle]]:
                wrong = chosen[n] = _wrong_places(n, knobs, Random(derive_seed(seeds["needle"], "places", n)))
                items = sheet.items(seeds["haystack"], n)
                texts = [sheet.text(i, items[i], _wrong(items[i], i, seeds["needle"])) for i in wrong]
                return [(i, Needle(text, str(i))) for i, text in zip(wrong, texts, strict=True)]

            built = build_context(
                sheet, place, target, self.counter, seed=seeds["haystack"], frame=frame, mode="replace", min_units=2
            )
            wrong = chosen[built.units_kept]
            return built, (self._ask(wrong, built, knobs, families),)

        built, asks = self.settle(attempt, self.frame(preamble=REQUIREMENT + head, tails=[QUESTION + "["]))
        return Made(target, built, asks, max_new_tokens)

    def _ask(
        self, wrong: Sequence[int], built: BuiltContext, knobs: LongInsKnobs, families: Sequence[ItemFamily]
    ) -> Ask:
        n = built.units_kept
        metadata = {
            "n_items": n,
            "density": q_density(n, max(built.n_context_tokens, 1)),
            "index_base": knobs.index_base,
            "types": sorted({family.kind for family in families}),
            "chance": all_wrong_f1(n, len(wrong)),
        }
        answers = tuple(str(index + knobs.index_base) for index in wrong)
        return Ask(QUESTION, "[", answers, None, answer_kind="set", metadata=metadata)

    def _room(self, sheet: Sheet, seed: int, length: int | LengthTarget, knobs: LongInsKnobs) -> int:
        """Tokens for the numbers of all wrong items, estimated from the size of the first items."""
        sizes = self.counter.count_many(sheet.units(seed, SAMPLED_ITEMS))
        value = length.value if isinstance(length, LengthTarget) else length
        most = max(2, int(1.25 * value / (sum(sizes) / len(sizes))))
        if isinstance(length, LengthTarget) and length.unit == "units":
            most = value
        errors = num_errors(most, knobs.error_rate) + 1
        return self.room([f"{most}, " * errors], min(OFFICIAL_NEW_TOKENS, 16 + 6 * (most // 4 + 1)))

    def solve(self, sample: LongSample) -> list[str]:
        """Numbers of the items whose answer is not what solving their text gives."""
        told = TOLD.search(sample.text)
        wrong = []
        for number, text, answer in ITEM.findall(sample.text):
            instruction, given = (told[1], text) if told else _parted(text)
            if solved(given, instruction) != answer:
                wrong.append(number)
        return wrong

    @classmethod
    def default_tasks(cls, data: str = "") -> Sequence[str]:
        """All three, which are read together."""
        return cls.tasks

    @classmethod
    def scores(cls, sample: LongSample, output: str) -> dict[str, float]:
        """`score`: F1 of the named items as published; `lenient` by the last list; precision, recall, over-reporting.

        `balanced` is the mean of the shares of wrong items named and of right items not named: 0.5 for naming all.
        """
        # an answer that goes on with the opened list, or a reply with a list of its own
        text = output if "[" in output.partition("]")[0] else f"[{output}" if "]" in output else f"[{output}]"
        wrong, n = {int(answer) for answer in sample.answers}, int(str(sample.metadata["n_items"]))
        found = longins_f1(text, wrong)
        named = found["predicted"]
        assert isinstance(named, list)
        recall = float(str(found["recall"]))
        false_alarms = len(set(named) - wrong) / max(n - len(wrong), 1)
        return {
            "score": float(str(found["f1"])),
            "lenient": float(str(longins_f1(text, wrong, "lenient")["f1"])),
            "precision": float(str(found["precision"])),
            "recall": recall,
            "over_report": min(len(named) / n, 1.0),
            "balanced": (recall + 1.0 - min(false_alarms, 1.0)) / 2,
            "no_answer": float(not named),
        }


def _wrong_places(n: int, knobs: LongInsKnobs, rng: Random) -> list[int]:
    """Indices of the wrong items among `n`, ascending."""
    errors = min(num_errors(n, knobs.error_rate), n)
    if knobs.placement == "uniform":
        return sorted(rng.sample(range(n), errors))
    edges = [round(block * n / errors) for block in range(errors + 1)]
    return [rng.randrange(first, last) for first, last in pairwise(edges)]


def _wrong(item: Item, index: int, seed: int) -> str:
    return Random(derive_seed(seed, "wrong", index)).choice(item.wrong)


_TOLD_AS = tuple(sorted({told for family in FAMILIES for told in family.instructions}, key=len, reverse=True))


def _parted(text: str) -> tuple[str, str]:
    """An item's instruction and what is given."""
    told = next(told for told in _TOLD_AS if text.startswith(f"{told} "))
    return told, text[len(told) + 1 :]
