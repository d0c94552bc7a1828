"""Needles in a haystack: sentences that give a key its value, among noise, prose, or other such sentences.

Source: arXiv 2404.06654, section 3; the wording is ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from random import Random
from uuid import UUID

from farspan.evals.generate.build import build_context
from farspan.evals.generate.haystack.base import Haystack, HaystackError
from farspan.evals.generate.haystack.lines import distinct_pairs, pair_order
from farspan.evals.generate.haystack.noise import NoiseHaystack
from farspan.evals.generate.haystack.prose import ProseHaystack
from farspan.evals.generate.length import LengthTarget
from farspan.evals.generate.needle import Needle
from farspan.evals.generate.placement import draw_depths
from farspan.evals.generate.rng import derive_seed
from farspan.evals.schema import LongSample
from farspan.evals.tasks.family import Ask, Family, Made, joined
from farspan.evals.tasks.ruler_official import essay_haystack
from farspan.evals.tasks.ruler_tasks import TASKS, NeedleType, RulerKnobs

DECOYS = 4096
DECOY_STARTS = 2 * DECOYS

KIND_WORDS: dict[NeedleType, str] = {"numbers": "number", "words": "word", "uuids": "code"}
HEADER = "Some secret {kind}s are hidden in the text below. Remember them all.\n"
NEEDLE = "The secret {kind} of {key} is {value}."
FOUND = re.compile(r"The secret (?:number|word|code) of (\S+) is (\S+?)\.(?=\s|$)")
ASKED = re.compile(r"secret \w+ of (.+)\?")
VALUES: dict[NeedleType, re.Pattern[str]] = {
    "numbers": re.compile(r"\d+"),
    "words": re.compile(r"[a-z]+-[a-z]+"),
    "uuids": re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
}


def texts(kind: NeedleType, rng: Random, avoid: Sequence[str] = ()) -> Iterator[str]:
    """Distinct keys or values of one kind, none of them to be avoided."""
    seen = set(avoid)
    draws: Iterator[str]
    if kind == "words":
        draws = distinct_pairs(rng)
    elif kind == "numbers":
        draws = (str(rng.randrange(10**6, 10**7)) for _ in iter(int, 1))
    else:
        draws = (str(UUID(int=rng.getrandbits(128), version=4)) for _ in iter(int, 1))
    for draw in draws:
        if draw not in seen:
            seen.add(draw)
            yield draw


class NeedleHaystack(Haystack):
    """Nothing but decoys: sentences of the needle's form with other keys and values, one a line.

    All seeds read one stream of decoys, each from its own place on; those that hold a key or value of the sample are
    left out.
    """

    joiner = "\n"
    recurring = True

    def __init__(self, key: NeedleType, value: NeedleType, keys: Sequence[str], values: Sequence[str]) -> None:
        self.key, self.value = key, value
        self._keys, self._values = frozenset(keys), frozenset(values)

    def units(self, seed: int, n: int) -> list[str]:
        place = derive_seed(seed, "decoys") % DECOY_STARTS
        found: list[str] = []
        while len(found) < n:
            number, start = divmod(place, DECOYS)
            part = _decoys(self.key, self.value, number)[start : start + n - len(found)]
            place += len(part)
            found += [text for key, value, text in part if key not in self._keys and value not in self._values]
        return found

    @property
    def kind(self) -> str:
        return f"needles:{self.key}:{self.value}"


@lru_cache(maxsize=64)
def _decoys(key: NeedleType, value: NeedleType, number: int) -> tuple[tuple[str, str, str], ...]:
    """Part `number` of the stream of decoys: keys, values and sentences."""
    rng = Random(derive_seed("decoys", key, value, number))
    keys: Iterator[str] = islice(pair_order(), number * DECOYS, None) if key == "words" else texts(key, rng)
    kind, values = KIND_WORDS[value], texts(value, rng)
    made = list(zip(islice(keys, DECOYS), values, strict=False))
    if not made:
        raise HaystackError(f"decoys with two words as keys end at {number * DECOYS} lines; use keys of kind 'uuids'")
    return tuple((one, other, NEEDLE.format(kind=kind, key=one, value=other)) for one, other in made)


def make_niah(
    family: Family[RulerKnobs], task: str, length: int | LengthTarget, context: int, seed: int, knobs: RulerKnobs
) -> Made:
    """Hide the keys and their values, and ask for some; with several questions there are keys for each."""
    per_question, questions = knobs.num_needle_q, knobs.questions_per_context
    count = max(knobs.num_needle_k, per_question * questions)
    seeds = family.seeds(task, seed, context)
    rng = Random(seeds["needle"])
    keys = list(islice(texts(knobs.type_needle_k, rng), count))
    values = list(islice(texts(knobs.type_needle_v, rng, keys), count * knobs.num_needle_v))
    values_of = {key: values[i * knobs.num_needle_v : (i + 1) * knobs.num_needle_v] for i, key in enumerate(keys)}
    kind = KIND_WORDS[knobs.type_needle_v]
    single = per_question * knobs.num_needle_v == 1
    grid = family.depths(context, knobs)
    asks = []
    for question in range(questions):
        asked = keys[question * per_question : (question + 1) * per_question]
        gold = tuple(value for key in asked for value in values_of[key])
        depth = grid[question] if single and knobs.placement == "stratified" else None
        asks.append(_ask(kind, asked, gold, depth))
    max_new_tokens = family.room([", ".join(ask.answers) for ask in asks], TASKS[task].tokens_to_generate)
    target = family.target(length, max_new_tokens)
    placement_seed = family.seeds(task, seed, context, length=target.value)["placement"]
    needles = [
        Needle(NEEDLE.format(kind=kind, key=key, value=value), key, "needle" if asked else "distractor")
        for key, asked in zip(keys, [True] * (per_question * questions) + [False] * count, strict=False)
        for value in values_of[key]
    ]
    placing = Random(derive_seed(placement_seed, "depths"))
    depths = draw_depths("uniform" if knobs.placement == "official" else "random", len(needles), placing)
    if single and knobs.placement == "stratified":
        depths[:questions] = grid
    # Values of one key stand in the text in the order of the answers.
    each = knobs.num_needle_v
    depths = [depth for i in range(0, len(depths), each) for depth in sorted(depths[i : i + each])]
    built = build_context(
        _haystack(knobs, keys, values),
        needles,
        target,
        family.counter,
        depths=depths,
        seed=seeds["haystack"],
        placement_seed=placement_seed,
        frame=family.frame(preamble=HEADER.format(kind=kind), closing="\n", tails=[ask.tail for ask in asks]),
    )
    return Made(target, built, tuple(asks), max_new_tokens)


def _ask(kind: str, keys: Sequence[str], answers: tuple[str, ...], depth: float | None) -> Ask:
    listed = joined(keys)
    metadata = {"value_kind": kind}
    if len(answers) == 1:
        question = f"Question: what is the secret {kind} of {listed}?\n"
        return Ask(question, f"Answer: The secret {kind} of {listed} is", answers, depth, metadata=metadata)
    question = f"Question: what are the secret {kind}s of {listed}?\n"
    metadata["instruction"] = f"Answer with the {kind}s alone, separated by commas."
    return Ask(question, f"Answer: The secret {kind}s of {listed} are", answers, depth, "all_required", metadata)


def _haystack(knobs: RulerKnobs, keys: Sequence[str], values: Sequence[str]) -> Haystack:
    makers: dict[str, Callable[[], Haystack]] = {
        "noise": NoiseHaystack,
        "essay": lambda: ProseHaystack("en") if knobs.data_dir is None else essay_haystack(knobs.data_dir),
        "needle": lambda: NeedleHaystack(knobs.type_needle_k, knobs.type_needle_v, keys, values),
    }
    return makers[knobs.type_haystack]()


def solve_niah(sample: LongSample) -> list[str]:
    """All values of the keys asked for, read from the needles of the text in the order of the keys."""
    asked = ASKED.search(sample.question)
    keys = re.split(r", | and ", asked[1]) if asked else []
    found = FOUND.findall(sample.text)
    return [value for key in keys for name, value in found if name == key]


def listed_niah(sample: LongSample, output: str) -> list[str]:
    """All values of the right kind an output names."""
    kinds = {word: kind for kind, word in KIND_WORDS.items()}
    return VALUES[kinds[str(sample.metadata.get("value_kind", "number"))]].findall(output.lower())
