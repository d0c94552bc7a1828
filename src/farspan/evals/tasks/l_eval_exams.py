"""Scores of L-Eval's closed sets: choices, numbers, printed output, and whether something is true.

Source: arXiv 2307.11088.
"""

from __future__ import annotations

from collections.abc import Sequence

from farspan.evals.documents.base import Reading
from farspan.evals.metrics import exam_answers as exams
from farspan.evals.metrics.normalize import normalize_squad_cased

PARTIAL_CREDIT = 0.25


def exact_match_score(prediction: str, reference: str) -> float:
    """1 for the right letters, the right number, or an answer that holds the reference.

    Letters get a quarter where they are a part of the right ones, as nothing at all is.
    """
    letters = normalize_squad_cased(reference)
    if set(letters) <= set(exams.CHOICES):
        if prediction == reference:
            return 1.0
        return PARTIAL_CREDIT if set(prediction) <= set(letters) else 0.0
    try:
        return float(float(prediction) == float(reference))
    except ValueError:
        return float(_dense(reference) in _dense(prediction))


def compute_exact_match(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean of the best `exact_match_score` over each sample's references, in percent."""
    best = [
        max(exact_match_score(prediction, right) for right in rights)
        for prediction, rights in zip(predictions, references, strict=True)
    ]
    return 100.0 * sum(best) / len(best) if best else 0.0


def _dense(text: str) -> str:
    return text.lower().replace(" ", "")


def exam_figures(name: str, prediction: str, reference: str, reading: Reading) -> dict[str, float]:
    """Scores of an answer in a closed set; choices that can be read are told beside them."""
    if name in ("tpo", "quality", "coursera"):
        right = exams.clean_choice_reference(reference)
        several = name == "coursera"
        strict = exams.parsed_choice(prediction, several=several)
        if reading == "fixed":
            partial = PARTIAL_CREDIT if several and strict and set(strict) < set(right) else 0.0
            return {"score": 1.0 if strict == right else partial, "parsed": float(bool(strict))}
        read = exams.extract_multi_choice(prediction) if several else exams.extract_single_choice(prediction)
        return {"score": exact_match_score(read, right), "parsed": float(bool(strict))}
    if name == "gsm100":
        read, right = exams.extract_math_answer(prediction), exams.extract_math_answer(reference) or reference
        return {"score": float(read == right) if reading == "fixed" else exact_match_score(read, right)}
    if name == "codeU":
        right = exams.clean_code_reference(reference)
        return {"score": exact_match_score(exams.extract_code_output(prediction, reference), right)}
    return {"score": exact_match_score(prediction, reference)}


def true_and_fact(prediction: str, reference: str) -> dict[str, float]:
    """Whether an answer keeps to the story, whether it is true of the world, and the mean of both."""
    answered, right = exams.extract_true_false_pair(prediction), exams.extract_true_false_pair(reference)
    loyal, fact = (float(one == other) for one, other in zip(answered, right, strict=True))
    return {"score": (loyal + fact) / 2, "loyalty": loyal, "fact": fact}
