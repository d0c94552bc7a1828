"""Scope and dispersion: how much of a context a question needs, and how hard that is to find, as numbers of one sample.

Scope is the share of the context that is evidence. Dispersion grows with evidence that words of the question do not
lead to (obscurity), that lies in pieces (interspersion), that must be found step by step (chain) and that stands there
only once (non-redundancy). Everything here is a plain function of units of text; where units and evidence of a sample
come from is `taxonomy_units`, and no model is asked.

Source: arXiv 2407.00402, sections 3 and 4, for the two axes; the estimators and their weights are ours.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from farspan.errors import FarspanError

FloatArray = NDArray[np.float64]
Quadrant = Literal[
    "low_scope_low_dispersion",
    "low_scope_high_dispersion",
    "high_scope_low_dispersion",
    "high_scope_high_dispersion",
]
EvidenceSource = Literal["spans", "loo", "overlap", "ablation", "manual"]
Ranker = Callable[[Sequence[str], str], Sequence[float]]
"""From units and a query to a score for each unit, higher for what is found more easily."""

HIGH_SCOPE, HIGH_DISPERSION = 0.10, 0.35
OBSCURITY, INTERSPERSION, CHAIN, NON_REDUNDANCY = 0.4, 0.3, 0.2, 0.1
"""Weights of the four parts of dispersion; fixed, so that tasks and versions can be compared."""
BINS = 32
TIE = 1e-12

_CJK = (
    r"\u1100-\u11ff\u2e80-\u2fdf\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff\u3400-\u4dbf"
    r"\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_LEXICAL = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}_])\w)+")


class TaxonomyError(FarspanError):
    """Evidence that does not fit its units, or a sample without any."""


class TaxonomyScore(BaseModel):
    """Where one sample stands.

    scope_tokens, scope_share : tokens of the smallest evidence, and their share of the context
    verification_share : share of what must be read to be sure of the answer
    n_facts, n_evidence_units, n_runs : pieces of information, units that hold them, runs of neighbouring units
    bm25_ranks : of each fact's best unit for the words of the question, 1 is first
    obscurity, interspersion, chain, non_redundancy : the parts of `dispersion`, each in [0, 1]
    chain_depth : facts in the longest chain
    spread_entropy : evenness of the evidence over the context, in [0, 1]; not part of dispersion
    query_overlap : share of the question's words that stand in the evidence
    """

    model_config = ConfigDict(frozen=True)

    scope_tokens: int
    scope_share: float
    verification_share: float
    n_facts: int
    n_evidence_units: int
    n_runs: int
    bm25_ranks: tuple[float, ...]
    obscurity: float
    interspersion: float
    chain_depth: int
    chain: float
    non_redundancy: float
    spread_entropy: float
    query_overlap: float
    dispersion: float
    quadrant: Quadrant
    evidence_source: EvidenceSource = "spans"


def quadrant_of(scope_share: float, dispersion: float) -> Quadrant:
    """The cell of the plane."""
    if scope_share >= HIGH_SCOPE:
        return "high_scope_high_dispersion" if dispersion >= HIGH_DISPERSION else "high_scope_low_dispersion"
    return "low_scope_high_dispersion" if dispersion >= HIGH_DISPERSION else "low_scope_low_dispersion"


def lex_tokens(text: str) -> list[str]:
    """After NFKC and lower case: every Han, Kana or Hangul character, otherwise runs of letters and digits."""
    return _LEXICAL.findall(unicodedata.normalize("NFKC", text).lower())


def bm25(units: Sequence[str], query: str, k1: float = 1.2, b: float = 0.75) -> tuple[FloatArray, FloatArray]:
    """Scores of the units for a query, and their mid-ranks.

    Parameters
    ----------
    units : texts
    query : each of its different words counts once
    k1, b : saturation of repeated words, and weight of a unit's length

    Returns
    -------
    scores : float64 [units]
    midranks : float64 [units]; 1 is first, equal scores share the middle of their ranks
    """
    tokens = [lex_tokens(unit) for unit in units]
    return _bm25(tokens, lex_tokens(query), k1, b)


def _bm25(units: Sequence[Sequence[str]], query: Sequence[str], k1: float, b: float) -> tuple[FloatArray, FloatArray]:
    n = len(units)
    scores = np.zeros(n)
    wanted = dict.fromkeys(query)
    postings: dict[str, dict[int, int]] = {term: {} for term in wanted}
    for number, unit in enumerate(units):
        for term in unit:
            if term in wanted:
                postings[term][number] = postings[term].get(number, 0) + 1
    lengths = np.array([len(unit) for unit in units], dtype=np.float64)
    mean = float(lengths.mean()) if n else 0.0
    for found in postings.values():
        if not found:
            continue
        places = np.fromiter(found, dtype=np.int64)
        counts = np.fromiter(found.values(), dtype=np.float64)
        idf = math.log(1 + (n - len(found) + 0.5) / (len(found) + 0.5))
        scores[places] += idf * counts * (k1 + 1) / (counts + k1 * (1 - b + b * lengths[places] / mean))
    return scores, midranks(scores)


def midranks(scores: FloatArray) -> FloatArray:
    """Ranks from the highest score down, 1 first; scores equal within 1e-12 share the middle of their ranks."""
    ordered = np.sort(scores)
    greater = len(scores) - np.searchsorted(ordered, scores + TIE, side="right")
    equal = np.searchsorted(ordered, scores + TIE, side="right") - np.searchsorted(ordered, scores - TIE, side="left")
    return np.asarray(1 + greater + (equal - 1) / 2, dtype=np.float64)


def analyse(
    units: Sequence[str],
    unit_tokens: Sequence[int],
    query: str,
    facts: Sequence[Sequence[int]],
    parents: Sequence[Sequence[int]] | None = None,
    bins: int = BINS,
    *,
    verification: Sequence[int] = (),
    source: EvidenceSource = "spans",
    ranker: Ranker | None = None,
) -> TaxonomyScore:
    """Scope, dispersion and their parts.

    Parameters
    ----------
    units : the context in its smallest separable pieces, in order
    unit_tokens : tokens of each
    query : the question, without the context
    facts : what is needed together; each fact is the list of units any of which gives it
    parents : for each fact those that must be known before it can be looked for; none if left out
    bins : equal parts of the context, for `spread_entropy`
    verification : units that must be read beside the evidence to be sure of the answer
    source : where the evidence is known from
    ranker : takes the place of BM25, such as an embedder; its results must not be mixed with those of BM25

    Raises
    ------
    TaxonomyError : lengths that differ, a fact without units, a unit that is not there, or facts that wait for each
        other.
    """
    _check(units, unit_tokens, facts, parents, verification)
    tokens = [lex_tokens(unit) for unit in units]
    asked = lex_tokens(query)
    if ranker is None:
        scores, _ = _bm25(tokens, asked, 1.2, 0.75)
    else:
        scores = np.asarray(ranker(units, query), dtype=np.float64)
    evidence = sorted({min(fact, key=lambda unit: (unit_tokens[unit], unit)) for fact in facts})
    total = sum(unit_tokens)
    scope = sum(unit_tokens[unit] for unit in evidence)
    share = scope / total if total else 0.0
    verified = sum(unit_tokens[unit] for unit in {*evidence, *verification})
    ranks = _ranks(scores, facts)
    obscurity = _mean([min(1.0, math.log(rank) / math.log(len(units))) if len(units) > 1 else 0.0 for rank in ranks])
    runs = sum(unit - 1 != before for before, unit in zip([-2, *evidence], evidence, strict=False))
    interspersion = (1 - share) * (1 - 1 / runs) if runs else 0.0
    depth = _longest_chain(facts, parents)
    chain = 1 - 1 / depth if depth else 0.0
    non_redundancy = _mean([1 / len(set(fact)) for fact in facts])
    dispersion = (
        OBSCURITY * (1 - share) * obscurity
        + INTERSPERSION * interspersion
        + CHAIN * chain
        + NON_REDUNDANCY * non_redundancy
    )
    words = set(asked)
    overlap = [max(len(words.intersection(tokens[unit])) for unit in fact) / max(1, len(words)) for fact in facts]
    return TaxonomyScore(
        scope_tokens=scope,
        scope_share=share,
        verification_share=verified / total if total else 0.0,
        n_facts=len(facts),
        n_evidence_units=len(evidence),
        n_runs=runs,
        bm25_ranks=tuple(ranks),
        obscurity=obscurity,
        interspersion=interspersion,
        chain_depth=depth,
        chain=chain,
        non_redundancy=non_redundancy,
        spread_entropy=_spread(unit_tokens, evidence, bins),
        query_overlap=_mean(overlap),
        dispersion=dispersion,
        quadrant=quadrant_of(share, dispersion),
        evidence_source=source,
    )


def _check(
    units: Sequence[str],
    unit_tokens: Sequence[int],
    facts: Sequence[Sequence[int]],
    parents: Sequence[Sequence[int]] | None,
    verification: Sequence[int],
) -> None:
    if len(unit_tokens) != len(units):
        raise TaxonomyError(f"{len(unit_tokens)} token counts for {len(units)} units; give one for each")
    for number, fact in enumerate(facts):
        if not fact:
            raise TaxonomyError(f"fact {number} has no unit; name at least one that gives it")
    for unit in [unit for fact in (*facts, verification) for unit in fact]:
        if not 0 <= unit < len(units):
            raise TaxonomyError(f"unit {unit} does not exist, units are numbered from 0 to {len(units) - 1}")
    if parents is not None and len(parents) != len(facts):
        raise TaxonomyError(f"{len(parents)} lists of parents for {len(facts)} facts; give one for each")
    for parent in [parent for row in parents or () for parent in row]:
        if not 0 <= parent < len(facts):
            raise TaxonomyError(f"parent {parent} does not exist, facts are numbered from 0 to {len(facts) - 1}")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _ranks(scores: FloatArray, facts: Sequence[Sequence[int]]) -> list[float]:
    """The best mid-rank of each fact, its other alternatives left out, so that repeating it cannot make it harder."""
    ordered = np.sort(scores)
    above = len(scores) - np.searchsorted(ordered, scores + TIE, side="right")
    equal = np.searchsorted(ordered, scores + TIE, side="right") - np.searchsorted(ordered, scores - TIE, side="left")
    ranks = []
    for fact in facts:
        own = list(dict.fromkeys(fact))
        best = max(own, key=lambda unit: scores[unit])
        tied = sum(abs(float(scores[unit] - scores[best])) <= TIE for unit in own) - 1
        ranks.append(float(1 + above[best] + (equal[best] - 1 - tied) / 2))
    return ranks


def _longest_chain(facts: Sequence[Sequence[int]], parents: Sequence[Sequence[int]] | None) -> int:
    if not facts:
        return 0
    if parents is None:
        return 1
    waiting = {number: set(row) for number, row in enumerate(parents)}
    depth = 0
    while waiting:
        ready = [number for number, row in waiting.items() if not row]
        if not ready:
            raise TaxonomyError(f"facts {sorted(waiting)} wait for each other; parents must not form a circle")
        depth += 1
        for number in ready:
            del waiting[number]
        for row in waiting.values():
            row.difference_update(ready)
    return depth


def _spread(unit_tokens: Sequence[int], evidence: Sequence[int], bins: int) -> float:
    """Entropy of the evidence's tokens over equal parts of the context, relative to its maximum."""
    ends = np.cumsum(np.asarray(unit_tokens, dtype=np.float64))
    if not evidence or ends[-1] == 0 or bins < 2:
        return 0.0
    edges = np.linspace(0.0, ends[-1], bins + 1)
    chosen = np.asarray(evidence)
    last = ends[chosen]
    first = last - np.asarray(unit_tokens, dtype=np.float64)[chosen]
    inside = np.minimum(last[:, None], edges[None, 1:]) - np.maximum(first[:, None], edges[None, :-1])
    mass = np.maximum(inside, 0.0).sum(axis=0)
    if mass.sum() == 0:
        return 0.0
    shares = mass[mass > 0] / mass.sum()
    return float(max(0.0, -(shares * np.log(shares)).sum() / math.log(bins)))
