"""Variable tracking: chains of assignments scattered over noise; which variables hold a value in the end?

Source: arXiv 2404.06654, section 3; the wording is ours.
"""

from __future__ import annotations

import re
from itertools import pairwise
from random import Random

from farspan.evals.generate.build import build_context
from farspan.evals.generate.haystack.noise import NOISE_LINE, NoiseHaystack
from farspan.evals.generate.length import LengthTarget
from farspan.evals.generate.needle import Needle
from farspan.evals.schema import LongSample
from farspan.evals.tasks.family import Ask, Family, Made
from farspan.evals.tasks.ruler_counts import interleave
from farspan.evals.tasks.ruler_tasks import TASKS, RulerKnobs

HEADER = "Follow the assignments of variables in the text below.\n"
STATEMENT = re.compile(r"^VAR ([A-Z]+) = (?:VAR ([A-Z]+)|(\d+))$", re.MULTILINE)
ASKED = re.compile(r"hold the value (\d+)\?")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NAME_LETTERS, EXAMPLE_NAME_LETTERS = 5, 3


def make_vt(
    family: Family[RulerKnobs], task: str, length: int | LengthTarget, context: int, seed: int, knobs: RulerKnobs
) -> Made:
    """Scatter the chains over noise lines and ask for the variables of one value.

    With several questions on a context there is at least one chain for each.
    """
    seeds = family.seeds(task, seed, context)
    rng = Random(seeds["needle"])
    chains = max(knobs.num_chains, knobs.questions_per_context)
    names = _names(rng, chains * (knobs.num_hops + 1), NAME_LETTERS)
    values = _values(rng, chains + 1)
    each = knobs.num_hops + 1
    bound = [names[i * each : (i + 1) * each] for i in range(chains)]
    statements = [
        [(line, name) for line, name in zip(_chain(own, value), own, strict=True)]
        for own, value in zip(bound, values, strict=False)
    ]
    placement_rng = Random(seeds["placement"])
    needles = [Needle(line, fact_id=name, role="chain") for line, name in interleave(statements, placement_rng)]
    asks = tuple(_ask(bound[question], values[question]) for question in range(knobs.questions_per_context))
    max_new_tokens = family.room([", ".join(own) for own in bound], TASKS[task].tokens_to_generate)
    target = family.target(length, max_new_tokens)
    preamble = (_example(rng, values[-1]) if knobs.worked_example else "") + HEADER
    built = build_context(
        NoiseHaystack(),
        needles,
        target,
        family.counter,
        depths="uniform" if knobs.placement == "official" else "random",
        seed=seeds["haystack"],
        placement_seed=family.seeds(task, seed, context, length=target.value)["placement"],
        frame=family.frame(preamble=preamble, closing="\n", tails=[ask.tail for ask in asks]),
        in_order=True,
    )
    return Made(target, built, asks, max_new_tokens)


def solve_vt(sample: LongSample) -> list[str]:
    """The variables that hold the asked value, by carrying out the assignments of the text in order."""
    text = sample.text[sample.text.rfind(HEADER) :]
    holds: dict[str, str] = {}
    for name, other, number in STATEMENT.findall(text):
        holds[name] = number or holds.get(other, "")
    asked = ASKED.search(sample.question)
    return [name for name, value in holds.items() if asked and value == asked[1]]


def listed_vt(sample: LongSample, output: str) -> list[str]:
    """All variable names an output holds."""
    return re.findall(rf"\b[A-Z]{{{NAME_LETTERS}}}\b", output)


def _chain(names: list[str], value: str) -> list[str]:
    """The statements of one chain: a value for the first name, then each name takes the one before it."""
    first = [f"VAR {names[0]} = {value}"]
    return first + [f"VAR {name} = VAR {before}" for before, name in pairwise(names)]


def _ask(names: list[str], value: str) -> Ask:
    metadata = {"hops": len(names) - 1, "instruction": "Answer with the names of the variables alone."}
    question = f"Question: which variables hold the value {value}?\n"
    return Ask(question, f"Answer: The variables that hold {value} are", tuple(names), None, "all_required", metadata)


def _example(rng: Random, value: str) -> str:
    """A solved small task with names shorter than those of the task."""
    names = _names(rng, 5, EXAMPLE_NAME_LETTERS)
    ask = _ask(names, value)
    lines = [f"{line}\n{NOISE_LINE}\n" for line in _chain(names, value)]
    return HEADER + "".join(lines) + ask.tail + f" {', '.join(names)}.\n\n"


def _names(rng: Random, count: int, letters: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        names["".join(LETTERS[rng.randrange(26)] for _ in range(letters))] = None
    return list(names)


def _values(rng: Random, count: int) -> list[str]:
    values: dict[str, None] = {}
    while len(values) < count:
        values[str(rng.randrange(10_000, 99_999))] = None
    return list(values)
