"""Where tasks stand on the plane of scope and dispersion, estimated from their own samples, and what they claim.

A task's expected cell and its unit are rows of `annotations.json`; a family without rows is placed all the same, with
units guessed and its claim read from the skill it names. Pictures are the report's business.

Source: arXiv 2407.00402, table 1, for the classes of known tasks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from statistics import fmean, median

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from farspan.errors import FarspanError
from farspan.evals.generate.count import TokenCounter
from farspan.evals.rows import read_rows, required
from farspan.evals.schema import LongSample
from farspan.evals.tasks import TASKS
from farspan.evals.tasks.family import Family, Knobs, family_class
from farspan.evals.taxonomy import (
    HIGH_DISPERSION,
    HIGH_SCOPE,
    EvidenceSource,
    Quadrant,
    Ranker,
    TaxonomyError,
    TaxonomyScore,
    analyse,
    quadrant_of,
)
from farspan.evals.taxonomy_units import (
    Evidence,
    UnitKind,
    Verification,
    evidence_overlap,
    evidence_spans,
    question_of,
    segment_units,
)

LOW, HIGH, VARIES = "low", "high", "varies"
CLAIMS: Mapping[str, tuple[str, str]] = {
    "retrieval": (LOW, LOW),
    "tracing": (VARIES, HIGH),
    "reasoning": (VARIES, HIGH),
    "aggregation": (HIGH, VARIES),
}
"""Scope and dispersion that a task claims by the skill it names."""


class Annotation(BaseModel):
    """What is known of a task before any sample is seen.

    unit : its smallest separable piece
    expected_scope, expected_dispersion : `low`, `high` or `varies`
    paper_class : its cell in the position paper, if it stands there
    chain : its evidence forms a chain that the spans do not show
    verification : see `taxonomy_units.evidence_spans`
    plane : False for tasks without evidence
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmark: str
    task: str
    unit: UnitKind = "auto"
    expected_scope: str = VARIES
    expected_dispersion: str = VARIES
    evidence_source: EvidenceSource = "spans"
    paper_class: Quadrant | None = None
    note: str = ""
    chain: bool = False
    verification: Verification = "evidence"
    plane: bool = True


class Spread(BaseModel):
    """Median and quartiles over samples."""

    model_config = ConfigDict(frozen=True)

    median: float
    lo: float
    hi: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """From at least one value."""
        lo, hi = np.quantile(values, [0.25, 0.75])
        return cls(median=median(values), lo=float(lo), hi=float(hi))


class TaskPlace(BaseModel):
    """A task on the plane.

    skill : what it says it takes; empty where there is no family behind it
    length : total tokens of the samples, 0 if they differ
    scope, verification, dispersion : over samples
    scores : of every sample
    """

    model_config = ConfigDict(frozen=True)

    annotation: Annotation
    skill: str = ""
    length: int = 0
    scope: Spread
    verification: Spread
    dispersion: Spread
    scores: tuple[TaxonomyScore, ...] = Field(repr=False)

    @property
    def name(self) -> str:
        """`family:task`."""
        return f"{self.annotation.benchmark}:{self.annotation.task}"

    @property
    def n(self) -> int:
        """Samples."""
        return len(self.scores)

    @property
    def estimated(self) -> bool:
        """Whether the evidence was guessed rather than known."""
        return any(score.evidence_source in ("overlap", "ablation", "manual") for score in self.scores)

    @property
    def quadrant(self) -> Quadrant:
        """The cell of the medians."""
        return quadrant_of(self.scope.median, self.dispersion.median)

    def mean(self, part: str) -> float:
        """Mean over samples of a part of the score, such as `obscurity`."""
        return fmean(float(getattr(score, part)) for score in self.scores)

    def in_expected_cell(self) -> float:
        """Share of the samples in the expected cell; 1 where the expectation leaves everything open."""
        expected = (self.annotation.expected_scope, self.annotation.expected_dispersion)
        return fmean(_fits(score.scope_share, score.dispersion, expected) for score in self.scores)

    def differences(self) -> list[str]:
        """Where the claim of its skill, its expected cell and the paper differ from its place, in words."""
        found = []
        claimed = CLAIMS.get(self.skill, (VARIES, VARIES))
        where = (self.scope.median, self.dispersion.median)
        for word, wanted, got in zip(("scope", "dispersion"), claimed, _levels(*where), strict=True):
            if wanted not in (VARIES, got):
                found.append(f"called {self.skill}, but {word} is {got}")
        expected = (self.annotation.expected_scope, self.annotation.expected_dispersion)
        for word, wanted, got in zip(("scope", "dispersion"), expected, _levels(*where), strict=True):
            if wanted not in (VARIES, got):
                found.append(f"{word} expected {wanted}, is {got}")
        paper = self.annotation.paper_class
        if self.annotation.plane and paper is not None and paper != self.quadrant:
            found.append(f"the paper has it under {paper.replace('_', ' ')}")
        return found if self.annotation.plane else []


def _levels(scope: float, dispersion: float) -> tuple[str, str]:
    return (HIGH if scope >= HIGH_SCOPE else LOW, HIGH if dispersion >= HIGH_DISPERSION else LOW)


def _fits(scope: float, dispersion: float, expected: tuple[str, str]) -> bool:
    return all(wanted in (VARIES, got) for wanted, got in zip(expected, _levels(scope, dispersion), strict=True))


@cache
def known_annotations() -> Mapping[tuple[str, str], Annotation]:
    """The rows of `annotations.json` by benchmark and task."""
    rows = json.loads(files("farspan.evals").joinpath("annotations.json").read_text(encoding="utf-8"))
    return {(row["benchmark"], row["task"]): Annotation.model_validate(row) for row in rows}


def annotation_of(benchmark: str, task: str) -> Annotation:
    """The row of a task; one that leaves everything open if it has none."""
    return known_annotations().get((benchmark, task)) or Annotation(benchmark=benchmark, task=task)


def score_sample_place(
    sample: LongSample, counter: TokenCounter, annotation: Annotation | None = None, ranker: Ranker | None = None
) -> TaxonomyScore:
    """Scope and dispersion of one sample, from its evidence spans, or from its answers where it has none.

    counter : counts the tokens of units
    annotation : of its task; looked up if left out
    """
    known = annotation or annotation_of(sample.benchmark, sample.task)
    if sample.evidence_spans:
        evidence = evidence_spans(sample, known.unit, chain=known.chain, verification=known.verification)
        if not known.plane:
            needed = tuple(unit for fact in evidence.facts for unit in fact)
            evidence = Evidence(evidence.context, evidence.spans, evidence.query, (), (), needed)
    else:
        evidence = evidence_overlap(sample, known.unit)
    return score_evidence(evidence, counter, ranker)


def score_evidence(evidence: Evidence, counter: TokenCounter, ranker: Ranker | None = None) -> TaxonomyScore:
    """`analyse` on evidence, with tokens of units as `counter` counts them."""
    units = evidence.units
    different = list(dict.fromkeys(units))
    sizes = dict(zip(different, counter.count_many(different), strict=True))
    tokens = [int(sizes[unit]) for unit in units]
    return analyse(
        units,
        tokens,
        evidence.query,
        evidence.facts,
        evidence.parents,
        verification=evidence.verification,
        source=evidence.source,
        ranker=ranker,
    )


def place(annotation: Annotation, scores: Sequence[TaxonomyScore], *, skill: str = "", length: int = 0) -> TaskPlace:
    """A task's place from the scores of its samples.

    Raises
    ------
    TaxonomyError : no sample.
    """
    if not scores:
        raise TaxonomyError(f"{annotation.benchmark}:{annotation.task} has no sample to place it by")
    return TaskPlace(
        annotation=annotation,
        skill=skill,
        length=length,
        scope=Spread.of([score.scope_share for score in scores]),
        verification=Spread.of([score.verification_share for score in scores]),
        dispersion=Spread.of([score.dispersion for score in scores]),
        scores=tuple(scores),
    )


def named_tasks(names: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Families and tasks of `family`, `family:task`; every family of the table where none is named.

    Raises
    ------
    UnknownTaskError : a name that is neither.
    """
    found: dict[tuple[str, str], None] = {}
    for name in names or TASKS:
        family, _, task = name.partition(":")
        made_by = family_class(family)
        if task:
            made_by(list).settings(task, {})
        found.update(((family, each), None) for each in ([task] if task else made_by.suite()))
    return list(found)


def place_task(made_by: Family[Knobs], task: str, length: int, n: int = 5, seed: int = 0, **knobs: object) -> TaskPlace:
    """A generated task's place, from `n` samples of a length; equal arguments give equal places.

    Raises
    ------
    LengthTargetError : the length is too short for the task.
    """
    known = annotation_of(made_by.name, task)
    scores = [
        score_sample_place(made_by.sample(task, length, index, seed, **knobs), made_by.counter, known)
        for index in range(n)
    ]
    return place(known, scores, skill=made_by.skill(task), length=length)


def user_samples(path: str | Path) -> Iterator[tuple[LongSample, tuple[tuple[str, ...], ...] | None]]:
    """Samples of a user's file, with their evidence as texts where rows have it.

    A row has `context`, `question` and `answers` (or `answer`); `evidence` is a list of texts that are all needed, each
    of them a text or a list of alternatives. Files that `farspan generate` wrote are read as they are.

    Raises
    ------
    RowError, TaxonomyError : rows that lack a field or hold something else.
    """
    for number, row in enumerate(read_rows(path)):
        if "benchmark" in row and "metadata" in row:
            yield LongSample.model_validate(row), None
            continue
        context, question = (str(required(row, key, path=path, row_number=number)) for key in ("context", "question"))
        given = row.get("answers", row.get("answer", []))
        answers = [str(answer) for answer in given] if isinstance(given, list) else [str(given)]
        stated = row.get("evidence")
        evidence = None
        if stated is not None:
            if not isinstance(stated, list):
                raise TaxonomyError(f"{path}, row {number}: 'evidence' is a list of texts, not {stated!r}")
            evidence = tuple(tuple(map(str, one)) if isinstance(one, list) else (str(one),) for one in stated)
        sample = LongSample(
            id=str(row.get("id", number)),
            benchmark=str(row.get("benchmark", Path(path).stem)),
            task=str(row.get("task", "all")),
            language=str(row.get("language", "en")),
            context=context,
            question=question,
            answers=answers,
        )
        yield sample, evidence


def stated_evidence(sample: LongSample, texts: Sequence[Sequence[str]], kind: UnitKind = "auto") -> Evidence:
    """Evidence given as texts: for each needed text, or each of its alternatives, the first unit it starts in.

    Raises
    ------
    TaxonomyError : a text that stands nowhere in the context.
    """
    context = sample.text
    spans = segment_units(context, sample.language, kind)
    facts = []
    for alternatives in texts:
        units = []
        for text in alternatives:
            start = context.find(text)
            if start < 0:
                raise TaxonomyError(f"sample {sample.id}: the evidence {text[:60]!r} does not stand in the context")
            units.append(next(number for number, span in enumerate(spans) if span[1] > start))
        facts.append(tuple(dict.fromkeys(units)))
    return Evidence(context, tuple(spans), question_of(sample), tuple(facts), tuple(() for _ in facts))


def place_file(path: str | Path, counter: TokenCounter, kind: UnitKind = "auto") -> list[TaskPlace]:
    """The tasks of a user's file.

    Raises
    ------
    FarspanError : the file cannot be read, or holds no sample.
    """
    grouped: dict[tuple[str, str], list[TaxonomyScore]] = {}
    for sample, texts in user_samples(path):
        known = annotation_of(sample.benchmark, sample.task)
        if known.unit == "auto":
            known = known.model_copy(update={"unit": kind})
        score = (
            score_sample_place(sample, counter, known)
            if texts is None
            else score_evidence(stated_evidence(sample, texts, known.unit), counter)
        )
        grouped.setdefault((sample.benchmark, sample.task), []).append(score)
    if not grouped:
        raise FarspanError(f"{path} holds no sample")
    return [place(annotation_of(*name), scores) for name, scores in grouped.items()]


def select_balanced(samples: Iterable[tuple[LongSample, TaxonomyScore]], per_quadrant: int) -> list[LongSample]:
    """The first samples of every quadrant and length, equally many of each: as many as the rarest has, at most so many.

    Lengths at which a quadrant that occurs elsewhere has no sample are left out.
    """
    cells: dict[object, dict[Quadrant, list[LongSample]]] = {}
    for sample, score in samples:
        cells.setdefault(sample.metadata.get("length"), {}).setdefault(score.quadrant, []).append(sample)
    wanted = {quadrant for row in cells.values() for quadrant in row}
    full = [row for row in cells.values() if set(row) == wanted]
    count = min([per_quadrant, *(len(found) for row in full for found in row.values())])
    return [sample for row in full for quadrant in sorted(row) for sample in row[quadrant][:count]]
