"""RULER: thirteen tasks of retrieval, tracing, aggregation and question answering at any token length.

With own text its scores are "RULER-style": they compare models and levers with each other, not with published tables;
the published texts are used where the user has them. The tasks are rows of `ruler_tasks`, their construction is in
the files of the four kinds.

Source: arXiv 2404.06654.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

from farspan.evals.generate.length import LengthTarget
from farspan.evals.metrics import match_any, match_share, postprocess_pred
from farspan.evals.schema import LongSample
from farspan.evals.tasks.family import Family, Made
from farspan.evals.tasks.ruler_counts import THRESHOLDS, cwe_counts, ruler_summary, zeta_counts
from farspan.evals.tasks.ruler_niah import listed_niah, make_niah, solve_niah
from farspan.evals.tasks.ruler_official import read_samples_of
from farspan.evals.tasks.ruler_qa import listed_qa, make_qa, solve_qa
from farspan.evals.tasks.ruler_tasks import (
    PUBLISHED_TEXT_TASKS,
    SHORT_LENGTH,
    TASKS,
    Kind,
    RulerKnobs,
    category_means,
    suite,
)
from farspan.evals.tasks.ruler_vt import listed_vt, make_vt, solve_vt
from farspan.evals.tasks.ruler_words import listed_words, make_cwe, make_fwe, solve_cwe, solve_fwe

Maker = Callable[[Family[RulerKnobs], str, "int | LengthTarget", int, int, RulerKnobs], Made]
Solver = Callable[[LongSample], list[str]]
Lister = Callable[[LongSample, str], list[str]]

KINDS: Mapping[Kind, tuple[Maker, Solver, Lister]] = {
    "niah": (make_niah, solve_niah, listed_niah),
    "vt": (make_vt, solve_vt, listed_vt),
    "cwe": (make_cwe, solve_cwe, listed_words),
    "fwe": (make_fwe, solve_fwe, listed_words),
    "qa": (make_qa, solve_qa, listed_qa),
}


class Ruler(Family[RulerKnobs]):
    """The suite; `qa_1` and `qa_2` need the published files, `qa_1_gen` and `qa_2_gen` take their place without."""

    name = "ruler"
    tasks: ClassVar[Sequence[str]] = tuple(TASKS)
    lengths = (4096, 8192, 16384, 32768, 65536, 131072)
    samples = 100
    knobs_model = RulerKnobs
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {name: task.preset for name, task in TASKS.items()}
    instruction = "Answer with the value alone."
    skills: ClassVar[Mapping[str, str]] = {
        name: "question answering" if task.category == "qa" else task.category for name, task in TASKS.items()
    }

    def make(self, task: str, length: int | LengthTarget, context: int, seed: int, knobs: RulerKnobs) -> Made:
        """One context of a task with its questions; what its kind raises."""
        return KINDS[TASKS[task].kind][0](self, task, length, context, seed, knobs)

    def solve(self, sample: LongSample) -> list[str]:
        """The answers, computed from the sample's text."""
        return KINDS[TASKS[sample.task].kind][1](sample)

    @classmethod
    def default_tasks(cls, data: str = "") -> Sequence[str]:
        """The whole suite."""
        return cls.suite(data)

    @classmethod
    def suite(cls, data: str = "") -> Sequence[str]:
        """The 13 tasks, with generated or with published question answering."""
        return suite(data or None)

    @classmethod
    def read_published(cls, data: str, task: str) -> Iterable[LongSample]:
        """Samples of whole published files; see `ruler_official.read_samples_of`."""
        return read_samples_of(data, task)

    @classmethod
    def scores(cls, sample: LongSample, output: str) -> dict[str, float]:
        """`score`: the share of the answers that stand in the output, or for questions whether any does.

        The figure is recall: `precision` (of the items the output names), `answer_chars` and `all_correct` stand
        beside it because listing everything scores full.
        """
        prediction = postprocess_pred(output)
        score = match_any if TASKS[sample.task].metric == "part" else match_share
        value = score(prediction, sample.answers)
        listed = dict.fromkeys(KINDS[TASKS[sample.task].kind][2](sample, prediction))
        gold = [answer.lower() for answer in sample.answers]
        right = sum(any(answer in item.lower() for answer in gold) for item in listed)
        return {
            "score": value,
            "all_correct": float(value == 1),
            "precision": right / len(listed) if listed else 0.0,
            "answer_chars": float(len(prediction)),
            "no_answer": float(not prediction),
        }


__all__ = [
    "PUBLISHED_TEXT_TASKS",
    "SHORT_LENGTH",
    "TASKS",
    "THRESHOLDS",
    "Ruler",
    "RulerKnobs",
    "category_means",
    "cwe_counts",
    "ruler_summary",
    "suite",
    "zeta_counts",
]
