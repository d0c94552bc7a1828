"""Lines: one number out of a record of thousands of equal lines.

Exact retrieval at every length and depth, and little else: no reading, no reasoning. Every line is one unit, so a
context of n lines stays one of n lines wherever the asked line stands.

Source: arXiv 2308.10882, section 4; the wording is ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import ClassVar

from pydantic import Field

from farspan.evals.generate.build import BuiltContext, build_context
from farspan.evals.generate.haystack.lines import VALUE_LIMIT, KeyKind, LinesHaystack, line_text
from farspan.evals.generate.length import LengthTarget, LengthTargetError
from farspan.evals.generate.needle import Frame, Needle
from farspan.evals.metrics import line_number
from farspan.evals.rows import read_rows, required
from farspan.evals.schema import LongSample
from farspan.evals.tasks.family import Ask, Family, KnobError, Knobs, Made, joined
from farspan.evals.tasks.line_keys import FIXED_OPTIONS, line_keys
from farspan.evals.tasks.uuid_threads import needle_index

HEADER = "Below is a record of lines. Each line has a key and a register that holds a number. Remember them all.\n"
UPDATE_HEADER = HEADER + "A line that comes again replaces the number it held before.\n"
OFFICIAL_NEW_TOKENS = 100
LINE = re.compile(r"^line (\S+): REGISTER_CONTENT is <(\d+)>$", re.MULTILINE)
ASKED = re.compile(r"lines? (.+) hold\?")


class LinesKnobs(Knobs):
    """Knobs of the lines.

    key : kind of keys: `nl` words, `lrt` numbers, `abc` letters, `uuid`
    n_lines : number of lines, where the length shall not decide
    distinct_values : no two lines hold the same number
    update : an earlier line gives each asked key a number that is replaced later
    targets : lines a question asks for
    decoys : lines per asked line whose key differs from its key in one character
    """

    key: KeyKind = "nl"
    n_lines: int | None = Field(default=None, ge=1)
    distinct_values: bool = True
    update: bool = False
    targets: int = Field(default=1, ge=1)
    decoys: int = Field(default=0, ge=0)


class OtherLines(LinesHaystack):
    """Lines that hold none of some keys and, where values are distinct, none of some values."""

    def __init__(self, key: KeyKind, distinct_values: bool, keys: Sequence[str], values: Sequence[int]) -> None:
        super().__init__(key, distinct_values=distinct_values)
        self._keys, self._values = frozenset(keys), frozenset(values) if distinct_values else frozenset()

    def entries(self, seed: int, n: int) -> list[tuple[str, int]]:
        drawn = super().entries(seed, n + len(self._keys) + len(self._values)) if n else []
        return [entry for entry in drawn if entry[0] not in self._keys and entry[1] not in self._values][:n]


class Lines(Family[LinesKnobs]):
    """The family of lines: `single`, `multi` (four lines at once), `update` and `decoy`."""

    name = "lines"
    tasks = ("single", "multi", "update", "decoy")
    lengths = (4915, 7270, 9625, 12083, 14438, 16281)
    knobs_model = LinesKnobs
    presets: ClassVar[dict[str, dict[str, object]]] = {
        "multi": {"targets": 4},
        "update": {"update": True},
        "decoy": {"decoys": 2},
    }
    instruction = "Answer with the number alone."
    skills: ClassVar[dict[str, str]] = dict.fromkeys(tasks, "retrieval")

    def make(self, task: str, length: int | LengthTarget, context: int, seed: int, knobs: LinesKnobs) -> Made:
        """One record of lines and its questions.

        Raises
        ------
        KnobError : updates or decoys of keys that only count.
        LengthTargetError : too few lines fit.
        """
        if knobs.key in FIXED_OPTIONS and (knobs.update or knobs.decoys):
            raise KnobError(f"keys of kind '{knobs.key}' only count; use key='nl' or 'uuid' with update and decoys")
        asked = knobs.questions_per_context * knobs.targets
        seeds = self.seeds(task, seed, context)
        hidden = _hide(knobs, asked, Random(seeds["needle"]))
        max_new_tokens = self.room(
            [f"{VALUE_LIMIT}>, <" * (knobs.targets - 1) + f"{VALUE_LIMIT}>"], OFFICIAL_NEW_TOKENS
        )
        if knobs.n_lines is not None:
            length = LengthTarget(value=knobs.n_lines, unit="units")
        target = self.target(length, max_new_tokens)
        haystack = OtherLines(knobs.key, knobs.distinct_values, *hidden.reserved())
        depths = self.depths(context, knobs)

        def attempt(frame: Frame) -> tuple[BuiltContext, tuple[Ask, ...]]:
            tried: dict[int, list[int]] = {}

            def place(n: int, rng: Random) -> list[tuple[int, Needle]]:
                tried[n], needles = hidden.place(n, depths, rng)
                return needles

            built = build_context(
                haystack,
                place,
                target,
                self.counter,
                seed=seeds["haystack"],
                placement_seed=self.seeds(task, seed, context, length=target.value)["placement"],
                frame=frame,
                mode="replace",
                min_units=hidden.lines,
            )
            questions, places = range(knobs.questions_per_context), tried[built.units_kept]
            return built, tuple(hidden.ask(question, places, depths[question], built) for question in questions)

        header = UPDATE_HEADER if knobs.update else HEADER
        guess = [hidden.tail(question, [0] * asked) for question in range(knobs.questions_per_context)]
        built, asks = self.settle(attempt, self.frame(preamble=header, closing="\n", tails=guess))
        return Made(target, built, asks, max_new_tokens)

    def solve(self, sample: LongSample) -> list[str]:
        """The numbers asked for, read from the lines; of equal keys the last line counts."""
        numbers = dict(LINE.findall(sample.text))
        asked = ASKED.search(sample.question)
        keys = re.split(r", | and ", asked[1]) if asked else []
        return [numbers[key] for key in keys]

    @classmethod
    def read_published(cls, data: str, task: str) -> Iterable[LongSample]:
        """Samples of a published file; see `read_longeval`."""
        return read_longeval(data)

    @classmethod
    def scores(cls, sample: LongSample, output: str) -> dict[str, float]:
        """For one line: whether the last number of the output is right (`score`) and whether the first is (`first`).

        For several lines: the share of the numbers found (`score`) and whether all are (`all_correct`).
        """
        gold = [int(answer) for answer in sample.answers]
        if len(gold) == 1:
            last, first = line_number(output, "last"), line_number(output, "first")
            return {"score": float(last == gold[0]), "first": float(first == gold[0]), "no_answer": float(last < 0)}
        found = {int(run) for run in re.findall(r"\d+", output)}
        share = sum(number in found for number in gold) / len(gold)
        return {"score": share, "all_correct": float(share == 1), "no_answer": float(not found)}


class _Hidden:
    """The lines that are asked for, with their decoys and outdated versions, before their places are known."""

    def __init__(
        self,
        knobs: LinesKnobs,
        keys: Sequence[str],
        values: Sequence[int],
        old: Sequence[int],
        decoys: Sequence[tuple[str, int]],
    ) -> None:
        self.knobs, self.keys, self.values, self.old, self.decoys = knobs, list(keys), values, old, decoys

    @property
    def lines(self) -> int:
        """Lines the questions need."""
        return len(self.values) + len(self.old) + len(self.decoys)

    def reserved(self) -> tuple[list[str], list[int]]:
        """Keys and values the other lines must not have."""
        keys = [*self.keys, *(key for key, _ in self.decoys)]
        return keys, [*self.values, *self.old, *(value for _, value in self.decoys)]

    def key(self, number: int, place: int) -> str:
        """The key of asked line `number` at a place; keys that only count follow from the place."""
        if self.knobs.key in FIXED_OPTIONS:
            return line_keys(self.knobs.key, place + 1, Random(0))[place]
        return self.keys[number]

    def place(self, n: int, depths: Sequence[float], rng: Random) -> tuple[list[int], list[tuple[int, Needle]]]:
        """Places of the asked lines among n, and all lines to put in with their places."""
        if self.lines > n:
            raise LengthTargetError(f"{n} lines are too few, the questions need {self.lines}; take more or ask less")
        taken: set[int] = set()
        wishes = [needle_index(n, depth) for depth in depths] if self.knobs.targets == 1 else []
        places = [_nearest_free(wish, taken, n) for wish in wishes or [rng.randrange(n) for _ in self.values]]
        needles: list[tuple[int, Needle]] = []
        for number, value in enumerate(self.old):
            free = [place for place in range(places[number]) if place not in taken]
            other = _nearest_free(free[rng.randrange(len(free))] if free else places[number], taken, n)
            earlier, places[number] = sorted((other, places[number]))
            line = line_text(self.keys[number], value)
            needles.append((earlier, Needle(line, fact_id=f"{self.keys[number]} (old)", role="distractor")))
        for number, value in enumerate(self.values):
            key = self.key(number, places[number])
            needles.append((places[number], Needle(line_text(key, value), fact_id=key)))
        for key, value in self.decoys:
            place = _nearest_free(rng.randrange(n), taken, n)
            needles.append((place, Needle(line_text(key, value), fact_id=key, role="distractor")))
        return places, sorted(needles, key=lambda needle: needle[0])

    def tail(self, question: int, places: Sequence[int]) -> str:
        """What follows the context in a prompt."""
        return "".join(self._wording(question, places))

    def ask(self, question: int, places: Sequence[int], depth: float, built: BuiltContext) -> Ask:
        """The question on built lines."""
        wording, prefix = self._wording(question, places)
        mine = slice(question * self.knobs.targets, (question + 1) * self.knobs.targets)
        answers = tuple(str(value) for value in self.values[mine])
        metadata: dict[str, object] = {"n_lines": built.units_kept, "line_numbers": list(places[mine])}
        if len(answers) == 1:
            return Ask(wording, prefix, answers, depth, metadata=metadata)
        metadata["instruction"] = "Answer with the numbers alone, in the order of the question, separated by commas."
        return Ask(wording, prefix, answers, None, "all_required", metadata)

    def _wording(self, question: int, places: Sequence[int]) -> tuple[str, str]:
        first = question * self.knobs.targets
        keys = [self.key(number, places[number]) for number in range(first, first + self.knobs.targets)]
        if len(keys) == 1:
            prefix = f"Answer: line {keys[0]}: REGISTER_CONTENT is <"
            return f"Question: which number does line {keys[0]} hold?\n", prefix
        prefix = f"Answer: lines {joined(keys)}: REGISTER_CONTENT is <"
        return f"Question: which numbers do lines {joined(keys)} hold?\n", prefix


def _hide(knobs: LinesKnobs, asked: int, rng: Random) -> _Hidden:
    """Draw the asked lines; only the knobs decide them, not the length."""
    keys = [] if knobs.key in FIXED_OPTIONS else line_keys(knobs.key, asked, rng)
    used = set(keys)
    decoy_keys: list[str] = []
    for key in keys:
        for _ in range(knobs.decoys):
            decoy_keys.append(_near(key, knobs.key, used, rng))
            used.add(decoy_keys[-1])
    olds = asked if knobs.update else 0
    values: dict[int, None] = {}
    while len(values) < asked + olds + len(decoy_keys):
        values[rng.randint(1, VALUE_LIMIT)] = None
    numbers = list(values)
    decoys = list(zip(decoy_keys, numbers[asked + olds :], strict=True))
    return _Hidden(knobs, keys, numbers[:asked], numbers[asked : asked + olds], decoys)


def _near(key: str, kind: KeyKind, used: set[str], rng: Random) -> str:
    """A key that differs in one letter (of the noun) or digit."""
    letters = "0123456789abcdef" if kind == "uuid" else "abcdefghijklmnopqrstuvwxyz"
    first = 0 if kind == "uuid" else key.index("-") + 1
    places = [place for place in range(first, len(key)) if key[place] != "-"]
    while True:
        place = rng.choice(places)
        near = key[:place] + rng.choice(letters) + key[place + 1 :]
        if near not in used:
            return near


def _nearest_free(wish: int, taken: set[int], n: int) -> int:
    """The free place nearest to a wish, now taken."""
    candidates = (wish + sign * step for step in range(n) for sign in (1, -1))
    place = next(place for place in candidates if 0 <= place < n and place not in taken)
    taken.add(place)
    return place


def read_longeval(path: str | Path) -> list[LongSample]:
    """Read a file of published cases (jsonl or parquet, one file a size) as samples.

    Raises
    ------
    FarspanError : unreadable rows or rows without `prompt` and `expected_number`.
    """
    samples = []
    for number, row in enumerate(read_rows(path)):
        get = partial(required, row, path=path, row_number=number)
        samples.append(
            LongSample(
                id=f"lines/{Path(path).stem}/{number}",
                benchmark="lines",
                task="single",
                context=str(get("prompt")),
                question="",
                answers=[str(int(str(get("expected_number"))))],
                max_new_tokens=OFFICIAL_NEW_TOKENS,
                metadata={
                    "length": int(str(row.get("num_lines", 0))),
                    "length_unit": "units",
                    "depth": None,
                    "task": "single",
                    "shared_context_key": "",
                    "evidence_spans": [],
                    "comparability": "official",
                    "raw": {key: value for key, value in row.items() if key != "prompt"},
                },
            )
        )
    return samples
