"""The tasks of RULER as data: what each sets, how many tokens it may generate, and how it is scored.

A new variant is a new row. Texts and construction are in the files of the four kinds.

Source: arXiv 2404.06654, section 3 and appendix B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from pydantic import Field

from farspan.evals.tasks.family import Knobs

Kind = Literal["niah", "vt", "cwe", "fwe", "qa"]
NeedleType = Literal["numbers", "words", "uuids"]
HaystackType = Literal["noise", "essay", "needle"]
SHORT_LENGTH = 4096
"""Below it the suite changes nature; results are called short."""


class RulerKnobs(Knobs):
    """Knobs of all tasks; each task uses those of its kind.

    type_haystack : equal noise lines, prose, or nothing but decoy needles
    type_needle_k, type_needle_v : keys and values of needles
    num_needle_k, num_needle_v, num_needle_q : keys hidden, values each key has, keys a question asks for
    num_chains, num_hops : chains of variables, and copies in each
    freq_cw, freq_ucw, num_cw : repetitions of common and of other words, and number of common words; None repeats
        30 and 3 times, from 4096 tokens on, and 6 times and once below
    alpha : exponent of the word frequencies
    hops : documents an answer needs
    worked_example : a solved small example before the task
    placement : every depth equally often, or the published 40 points without replacement
    data_dir : folder with the published texts, instead of own ones
    """

    type_haystack: HaystackType = "noise"
    type_needle_k: NeedleType = "words"
    type_needle_v: NeedleType = "numbers"
    num_needle_k: int = Field(default=1, ge=1)
    num_needle_v: int = Field(default=1, ge=1)
    num_needle_q: int = Field(default=1, ge=1)
    num_chains: int = Field(default=1, ge=1)
    num_hops: int = Field(default=4, ge=1)
    freq_cw: int | None = Field(default=None, ge=2)
    freq_ucw: int | None = Field(default=None, ge=1)
    num_cw: int = Field(default=10, ge=1)
    alpha: float = Field(default=2.0, gt=1)
    hops: Literal[1, 2] = 1
    worked_example: bool = False
    placement: Literal["stratified", "official"] = "stratified"
    data_dir: str | None = None


@dataclass(frozen=True)
class RulerTask:
    """One task.

    kind : which construction makes it
    category : retrieval, tracing, aggregation or qa
    tokens_to_generate : the published allowance
    metric : all references count, or any one of them
    preset : knobs it sets
    """

    kind: Kind
    category: Literal["retrieval", "tracing", "aggregation", "qa"]
    tokens_to_generate: int
    metric: Literal["all", "part"] = "all"
    preset: Mapping[str, object] = field(default_factory=dict)


def _niah(**preset: object) -> RulerTask:
    return RulerTask("niah", "retrieval", 128, preset=preset)


TASKS: dict[str, RulerTask] = {
    "niah_single_1": _niah(),
    "niah_single_2": _niah(type_haystack="essay"),
    "niah_single_3": _niah(type_haystack="essay", type_needle_v="uuids"),
    "niah_multikey_1": _niah(type_haystack="essay", num_needle_k=4),
    "niah_multikey_2": _niah(type_haystack="needle"),
    "niah_multikey_3": _niah(type_haystack="needle", type_needle_k="uuids", type_needle_v="uuids"),
    "niah_multivalue": _niah(type_haystack="essay", num_needle_v=4),
    "niah_multiquery": _niah(type_haystack="essay", num_needle_k=4, num_needle_q=4),
    "vt": RulerTask("vt", "tracing", 30),
    "cwe": RulerTask("cwe", "aggregation", 120, preset={"worked_example": True}),
    "fwe": RulerTask("fwe", "aggregation", 50),
    "qa_1_gen": RulerTask("qa", "qa", 32, "part", {"hops": 1}),
    "qa_2_gen": RulerTask("qa", "qa", 32, "part", {"hops": 2}),
    "qa_1": RulerTask("qa", "qa", 32, "part", {"hops": 1}),
    "qa_2": RulerTask("qa", "qa", 32, "part", {"hops": 2}),
}


def category_means(scores: Mapping[str, float]) -> dict[str, float]:
    """Mean of each category, and the minimum over tasks, of scores by task: eight of the thirteen are retrieval."""
    categories: dict[str, list[float]] = {}
    for name, score in scores.items():
        categories.setdefault(TASKS[name].category, []).append(score)
    means = {category: fmean(found) for category, found in categories.items()}
    return {**means, "min": min(scores.values())} if scores else {}


PUBLISHED_TEXT_TASKS = ("qa_1", "qa_2")
"""Tasks that exist only with the published texts."""


def suite(data_dir: str | None = None) -> tuple[str, ...]:
    """The 13 tasks of the suite, with own text or with the published one."""
    generated = ("qa_1_gen", "qa_2_gen")
    left_out = generated if data_dir else PUBLISHED_TEXT_TASKS
    return tuple(name for name in TASKS if name not in left_out)
