"""Scores of LongBioBench by kind of question, and what guessing would score.

Source: arXiv 2506.02921, section 3.7; subtracting chance is our own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import comb, factorial

from farspan.evals.metrics.bio import bio_hit, citation_hits, idk_score, twodiff_hit
from farspan.evals.schema import LongSample
from farspan.evals.tasks.bio_people import everybody
from farspan.evals.tasks.bio_persons import FIRST_YEAR, LAST_YEAR, load_bio_language
from farspan.evals.tasks.longbiobench_tasks import TASKS, Kind

OFFICIAL_REFUSAL = "not explicitly stated"
_CITATION = re.compile(r"\[\d+\]")


def chance_of(kind: Kind, n: int, facts: Mapping[str, object], stating: float) -> float:
    """What guessing scores: values, names or numbers of the context drawn at random.

    Parameters
    ----------
    n : persons asked for
    facts : `n_bios`, and for pairs `n_valid_pairs` and `n_aged`
    stating : biographies that state a value of the attribute
    """
    if kind == "rank":
        return 1 / factorial(n)
    if kind == "calculation":
        return 1 / (LAST_YEAR - FIRST_YEAR)
    if kind == "twodiff":
        return int(str(facts["n_valid_pairs"])) / max(comb(int(str(facts["n_aged"])), 2), 1)
    if kind == "idk":
        return 0.0
    if kind == "icl":
        return 1 / 10
    if kind == "citation":
        return float(max(1, int(str(facts["n_bios"]))) ** -float(n))
    return float(stating ** -float(1 if kind == "multihop" else n))


def score_bios(sample: LongSample, output: str) -> dict[str, float]:
    """All figures of an output.

    `score` is what counts, `corrected` the same with guessing at 0, `no_answer` whether the output is empty or a
    refusal. Citations are scored by their numbers and also give `answer`, the values.
    """
    kind = TASKS[sample.task].kind
    figures: dict[str, float] = {}
    if kind == "idk":
        if "removed" not in sample.metadata:
            return _finished(sample, output, {"score": float(bio_hit(output, str(sample.metadata.get("value", ""))))})
        figures["score"] = float(refuses(output, _language(sample)))
        return _finished(sample, output, figures)
    if kind == "calculation":
        figures["score"] = float(bio_hit(output, int(sample.answers[0])))
    elif kind == "twodiff":
        pair = twodiff_hit(output, everybody(sample.metadata["crowd"]), int(str(sample.metadata["difference"])))
        figures |= {"score": float(pair.hit), "two_named": float(pair.pred_age_diff is not None)}
    elif kind == "citation":
        values = [_CITATION.sub("", answer).strip() for answer in sample.answers]
        hits = citation_hits(output, values, [_CITATION.findall(answer)[-1] for answer in sample.answers])
        figures |= {"score": float(hits.citation_hit), "answer": float(hits.answer_hit)}
    elif kind == "rank":
        # Names also stand in the ages that are read out first; only what follows the last mark is the order.
        end = load_bio_language(_language(sample)).wording["rank_end"]
        figures["score"] = float(bio_hit(output.rsplit(end, 1)[-1], sample.answers))
        figures["anywhere"] = float(bio_hit(output, sample.answers))
    else:
        figures["score"] = float(bio_hit(output, sample.answers))
    return _finished(sample, output, figures)


def score_idk(sample: LongSample, output: str, intact_output: str) -> dict[str, float]:
    """A refusal on the text without the answer, counted only where the intact text was answered right."""
    refused = refuses(output, _language(sample))
    intact = bio_hit(intact_output, str(sample.metadata["value"]))
    figures = {"score": float(idk_score(intact, refused)), "intact": float(intact), "refused": float(refused)}
    figures["refused_intact"] = float(refuses(intact_output, _language(sample)))
    return _finished(sample, output, figures)


def refuses(output: str, language: str = "en") -> bool:
    """Whether an output says that the text does not say it."""
    lowered = output.lower()
    return any(phrase in lowered for phrase in (*load_bio_language(language).refusals, OFFICIAL_REFUSAL))


def _finished(sample: LongSample, output: str, figures: dict[str, float]) -> dict[str, float]:
    chance = float(str(sample.metadata.get("chance", 0.0)))
    score = figures["score"]
    figures["corrected"] = (score - chance) / (1 - chance) if chance < 1 else score
    figures["no_answer"] = float(not output.strip() or refuses(output, _language(sample)))
    return figures


def _language(sample: LongSample) -> str:
    return str(sample.metadata.get("language", "en"))
