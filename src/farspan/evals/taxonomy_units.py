"""Units and evidence of a sample: the context cut into its smallest separable pieces, and which of them are needed.

Generated samples say where their evidence stands; where nobody says, it is found by leaving units out and solving
again, or guessed from the words of the answer. Estimating anything from it is the business of `taxonomy`.

Source: arXiv 2407.00402, section 3, for what counts as needed information; the rules are ours.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from farspan.errors import FarspanError
from farspan.evals.generate.generators import Generator
from farspan.evals.schema import EvidenceSpan, LongSample
from farspan.evals.taxonomy import EvidenceSource, TaxonomyError, bm25, lex_tokens

UnitKind = Literal["auto", "line", "sentence", "word", "pair", "paragraph", "document"]
UNIT_KINDS: tuple[UnitKind, ...] = get_args(UnitKind)
Span = tuple[int, int]
Verification = Literal["evidence", "distractors", "all"]

SHORT_LINES = 400
"""Mean number of characters up to which lines are taken as units."""
FEWEST_LINES = 8
LONG_SENTENCES = 1000
SHORTEST_ANSWER, SHORTEST_NUMBER = 4, 3
"""Characters of an answer, or digits of a number, below which its mentions are mostly accidental."""

_PATTERNS: Mapping[str, re.Pattern[str]] = {
    "line": re.compile(r"[^\n]*\S[^\n]*"),
    "word": re.compile(r"\S+"),
    "pair": re.compile(r'"(?:[^"\\]|\\.)*"\s*:\s*"(?:[^"\\]|\\.)*"'),
    "sentence": re.compile(r"\S(?:[^\n]*?[.!?\u3002\uff01\uff1f\u0964\u061f][\"')\u201d\u300d]*(?=\s|$)|[^\n]*)"),
    "paragraph": re.compile(r"\S(?:.*?(?=\n\s*\n|\Z))", re.DOTALL),
    "document": re.compile(
        r"^Document \d+:.*?(?=^Document \d+:|\Z)|^(?!Document \d+:)[^\n]+", re.DOTALL | re.MULTILINE
    ),
}
_UNSPACED = re.compile(r"\S(?:[^\n]*?[.!?\u3002\uff01\uff1f][\u201d\u300d\u300f]*|[^\n]*)")
_UNSPACED_LANGUAGES = ("zh", "ja")


@dataclass(frozen=True)
class Evidence:
    """A context in units, and what is needed of it.

    context : the text
    spans : characters of each unit
    query : the question alone
    facts, parents, verification : see `taxonomy.analyse`
    source : where it is known from
    """

    context: str
    spans: tuple[Span, ...]
    query: str
    facts: tuple[tuple[int, ...], ...]
    parents: tuple[tuple[int, ...], ...] = ()
    verification: tuple[int, ...] = ()
    source: EvidenceSource = "spans"

    @property
    def units(self) -> list[str]:
        """Texts of the units."""
        return [self.context[start:end] for start, end in self.spans]


def segment_units(context: str, language: str = "en", kind: UnitKind = "auto") -> list[Span]:
    """Cut a context into units.

    Parameters
    ----------
    context : the text
    language : Chinese and Japanese sentences end without a space
    kind : what a unit is; `auto` takes pairs of a JSON object, short lines, sentences or words, whichever fits first

    Returns
    -------
    spans : characters of each unit, in order; nothing but white space and joiners lies between them

    Raises
    ------
    TaxonomyError : an unknown kind.
    """
    if kind not in UNIT_KINDS:
        raise TaxonomyError(f"unknown kind of units '{kind}'; it is one of {', '.join(UNIT_KINDS)}")
    chosen = _guess(context, language) if kind == "auto" else kind
    pattern = _UNSPACED if chosen == "sentence" and language in _UNSPACED_LANGUAGES else _PATTERNS[chosen]
    return [_trimmed(context, *match.span()) for match in pattern.finditer(context)]


def _trimmed(context: str, start: int, end: int) -> Span:
    text = context[start:end]
    return start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())


def _guess(context: str, language: str) -> UnitKind:
    if context.lstrip().startswith("{") and len(_PATTERNS["pair"].findall(context)) > 1:
        return "pair"
    lines = _PATTERNS["line"].findall(context)
    if len(lines) >= FEWEST_LINES and len(context) <= SHORT_LINES * len(lines):
        return "line"
    sentences = segment_units(context, language, "sentence")
    return "sentence" if len(context) <= LONG_SENTENCES * max(1, len(sentences) - 1) else "word"


def question_of(sample: LongSample) -> str:
    """The question alone: its last block, without the solved examples that may stand before it."""
    blocks = [block.strip() for block in re.split(r"\n\s*\n", sample.question) if block.strip()]
    return blocks[-1] if blocks else ""


def evidence_spans(
    sample: LongSample,
    kind: UnitKind = "auto",
    *,
    chain: bool = False,
    verification: Verification = "evidence",
) -> Evidence:
    """Evidence as a generated sample states it.

    A span over several units makes each of them a fact. Spans of one name and one text are alternatives; all of one
    name are where the sample's `alternative_evidence` says so. Spans of the role `chain` wait for each other as their
    names lead from one to the next, starting from what the question names.

    Parameters
    ----------
    sample : with `evidence_spans`
    kind : what a unit is
    chain : the facts form a chain though their spans do not say so; the one nearest to the question is first
    verification : what must be read to be sure: the evidence alone, the spans of distractors too, or everything

    Raises
    ------
    TaxonomyError : a span that covers no unit.
    """
    text, query = sample.text, question_of(sample)
    spans = segment_units(text, sample.language, kind)
    loose = bool(sample.metadata.get("alternative_evidence"))
    grouped: dict[tuple[object, ...], list[int]] = {}
    names: dict[tuple[object, ...], EvidenceSpan] = {}
    beside: set[int] = set(range(len(spans))) if verification == "all" else set()
    for number, span in enumerate(sample.evidence_spans):
        covered = _covered(spans, span)
        if span.role == "distractor":
            beside.update(covered if verification == "distractors" else ())
            continue
        if not covered:
            raise TaxonomyError(f"evidence '{span.fact_id}' of sample {sample.id} lies in no unit of kind '{kind}'")
        for unit in covered:
            words = text[slice(*spans[unit])]
            key: tuple[object, ...] = (span.fact_id,) if loose else (span.fact_id, words)
            if len(covered) > 1:
                key = (number, unit)
            grouped.setdefault(key, []).append(unit)
            names[key] = span
    facts = tuple(tuple(units) for units in grouped.values())
    base = Evidence(text, tuple(spans), query, facts, tuple(() for _ in facts), tuple(sorted(beside)))
    if chain and len(facts) > 1:
        return replace(base, parents=_in_order(base))
    if any(span.role == "chain" for span in names.values()):
        return replace(base, parents=_by_names(base, [span.fact_id for span in names.values()]))
    return base


def _covered(spans: Sequence[Span], evidence: EvidenceSpan) -> list[int]:
    """Units that lie in a piece of evidence, at least by half, or that hold it."""
    found = []
    low, high = 0, len(spans)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if spans[middle][1] <= evidence.start_char else (low, middle)
    for number in range(low, len(spans)):
        start, end = spans[number]
        if start >= evidence.end_char:
            break
        shared = min(end, evidence.end_char) - max(start, evidence.start_char)
        if 2 * shared >= min(end - start, evidence.end_char - evidence.start_char):
            found.append(number)
    return found


def _in_order(evidence: Evidence) -> tuple[tuple[int, ...], ...]:
    _, ranks = bm25(evidence.units, evidence.query)
    order = sorted(range(len(evidence.facts)), key=lambda fact: min(ranks[unit] for unit in evidence.facts[fact]))
    before = dict(zip(order[1:], order, strict=False))
    return tuple((before[fact],) if fact in before else () for fact in range(len(order)))


def _by_names(evidence: Evidence, names: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Breadth-first from the facts that the question names along names that stand in each other's units."""
    units = evidence.units
    texts = [" ".join(units[unit] for unit in fact) for fact in evidence.facts]
    everyone = range(len(names))
    linked = [
        [other for other in everyone if other != fact and (names[other] in texts[fact] or names[fact] in texts[other])]
        for fact in everyone
    ]
    roots = [fact for fact, name in enumerate(names) if name in evidence.query]
    if not roots:
        _, ranks = bm25(units, evidence.query)
        roots = [min(everyone, key=lambda fact: min(ranks[unit] for unit in evidence.facts[fact]))]
    parents: dict[int, tuple[int, ...]] = dict.fromkeys(roots, ())
    waiting = deque(roots)
    while waiting:
        fact = waiting.popleft()
        for other in linked[fact]:
            # Equal names are branches of one step: they are reached from the step before, not from each other.
            if other not in parents and names[other] != names[fact]:
                parents[other] = (fact,)
                waiting.append(other)
    return tuple(parents.get(fact, ()) for fact in everyone)


def evidence_loo(sample: LongSample, generator: Generator, kind: UnitKind = "auto") -> Evidence:
    """Evidence by leaving out: units without which the family's solver gives another answer, or none.

    Units of equal text are left out together and are alternatives of one fact. One call of the solver for each.
    """
    text = sample.text
    spans = segment_units(text, sample.language, kind)
    groups: dict[str, list[int]] = {}
    for number, (start, end) in enumerate(spans):
        groups.setdefault(" ".join(lex_tokens(text[start:end])), []).append(number)
    answers = _solved(sample, generator, text)
    facts = sorted(
        tuple(units) for units in groups.values() if _solved(sample, generator, _without(text, spans, units)) != answers
    )
    return Evidence(text, tuple(spans), question_of(sample), tuple(facts), tuple(() for _ in facts), source="loo")


def _without(text: str, spans: Sequence[Span], gone: Sequence[int]) -> str:
    """The text without some units, each with the joiner behind it, or before it at the end of the text."""
    kept, place = [], 0
    last = len(spans) - 1
    dropped = set(gone)
    for number in sorted(dropped):
        start = spans[number][0]
        end = spans[number + 1][0] if number < last else spans[number][1]
        if number == last and last - 1 not in dropped and last > 0:
            start = spans[last - 1][1]
        kept.append(text[place:start])
        place = end
    return "".join(kept) + text[place:]


def _solved(sample: LongSample, generator: Generator, context: str) -> list[str] | None:
    try:
        return generator.solve(sample.model_copy(update={"context": context}))
    except (FarspanError, KeyError, IndexError, ValueError):
        return None


def evidence_overlap(sample: LongSample, kind: UnitKind = "auto") -> Evidence:
    """Evidence guessed from the answers: units that hold the words of one, else the unit nearest to the question.

    Short answers and numbers of one or two digits stand in too many places by accident and are not looked for.
    """
    text, query = sample.text, question_of(sample)
    spans = segment_units(text, sample.language, kind)
    if not spans:
        return Evidence(text, (), query, (), (), source="overlap")
    units = [f" {' '.join(lex_tokens(text[start:end]))} " for start, end in spans]
    wanted = sample.answers if sample.answer_kind != "alternatives" else [""]
    facts: list[tuple[int, ...]] = []
    for one in wanted:
        given = sample.answers if not one else [one]
        spoken = [" ".join(lex_tokens(answer)) for answer in given if _telling(answer)]
        found = [number for number, unit in enumerate(units) if any(f" {words} " in unit for words in spoken)]
        if not found:
            scores, _ = bm25([text[start:end] for start, end in spans], " ".join([query, *given]))
            found = [int(scores.argmax())]
        facts.append(tuple(found))
    facts = list(dict.fromkeys(facts))
    return Evidence(text, tuple(spans), query, tuple(facts), tuple(() for _ in facts), source="overlap")


def _telling(answer: str) -> bool:
    plain = answer.strip()
    if plain.replace(",", "").isdigit():
        return len(plain.replace(",", "")) >= SHORTEST_NUMBER
    return len(plain) >= SHORTEST_ANSWER
