"""ROUGE in the three variants that published tables use, which are three different numbers.

`rouge_set` is that of the Python package `rouge`: sets of n-grams, and an "L" of distinct words on common subsequences;
repeating a word costs nothing. `rouge_google` is that of `rouge-score`: counts, lower case, Latin letters and digits
only. `rouge_words` counts words that need no sentences, as harnesses for Chinese do. No recursion: texts may be long.

Source: W04-1013 (ROUGE); the packages `rouge` 1.0.1, `rouge-score` 0.1.2 and `rouge-chinese` 1.0.3.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from farspan.evals.metrics.chinese import jieba_tokens

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

EPSILON = 1e-8

W = TypeVar("W", bound=Hashable)


class Rouge(NamedTuple):
    """Recall, precision and F1."""

    r: float
    p: float
    f: float


def _rouge(shared: int, reference: int, hypothesis: int) -> Rouge:
    recall = shared / reference if reference else 0.0
    precision = shared / hypothesis if hypothesis else 0.0
    return Rouge(recall, precision, 2.0 * (precision * recall / (precision + recall + EPSILON)))


def _sentences(text: str) -> list[list[str]]:
    """Words of each piece between full stops; a piece of white space alone is one empty word."""
    pieces = [" ".join(piece.split()) for piece in text.split(".") if piece]
    if not pieces:
        raise ValueError("ROUGE needs two texts that hold more than full stops")
    return [piece.split(" ") for piece in pieces]


def rouge_set(hypothesis: str, reference: str) -> dict[str, Rouge]:
    """ROUGE-1, -2 and -L on sets of words; equal texts have an F1 of 1 - 5e-9.

    Returns
    -------
    `{"rouge-1": Rouge, "rouge-2": Rouge, "rouge-l": Rouge}`

    Raises
    ------
    ValueError : one of the texts is empty or holds nothing but full stops.
    """
    given, right = _sentences(hypothesis), _sentences(reference)
    words = [word for sentence in given for word in sentence]
    right_words = [word for sentence in right for word in sentence]
    common: set[str] = set()
    for ours in right:
        for theirs in given:
            common.update(common_subsequence(ours, theirs))
    return {
        "rouge-1": _of_grams(words, right_words, 1),
        "rouge-2": _of_grams(words, right_words, 2),
        "rouge-l": _rouge(len(common), len(set(right_words)), len(set(words))),
    }


def _of_grams(hypothesis: Sequence[str], reference: Sequence[str], order: int) -> Rouge:
    given, right = (
        set(zip(*(words[start:] for start in range(order)), strict=False)) for words in (hypothesis, reference)
    )
    return _rouge(len(given & right), len(right), len(given))


def rouge_set_zh(prediction: str, reference: str) -> float:
    """F1 of `rouge_set`'s L for Chinese, whose words jieba finds.

    Raises
    ------
    ValueError : as `rouge_set`.
    """
    hypothesis, right = (" ".join(jieba_tokens(text)) for text in (prediction, reference))
    return rouge_set(hypothesis, right)["rouge-l"].f


def rouge_words(hypothesis: str, reference: str) -> dict[str, Rouge]:
    """ROUGE-1 and -2 on sets, ROUGE-L by the longest common subsequence over all words, split at single spaces.

    Raises
    ------
    ValueError : one of the texts is empty.
    """
    if not hypothesis or not reference:
        raise ValueError("ROUGE needs two texts that are not empty")
    given, right = hypothesis.split(" "), reference.split(" ")
    length = len(common_subsequence(right, given))
    return {
        "rouge-1": _of_grams(given, right, 1),
        "rouge-2": _of_grams(given, right, 2),
        "rouge-l": _rouge(length, len(right), len(given)),
    }


def rouge_lcs_zh(prediction: str, reference: str) -> float:
    """F1 of the longest common subsequence of Chinese words: unlike `rouge_set_zh`, repetition costs."""
    given, right = jieba_tokens(prediction), jieba_tokens(reference)
    return _rouge(len(common_subsequence(right, given)), len(right), len(given)).f if given and right else 0.0


def rouge_google(hypothesis: str, reference: str, *, use_stemmer: bool = False) -> dict[str, Rouge]:
    """`rouge1`, `rouge2`, `rougeL` and `rougeLsum` of the package `rouge-score`; sentences of the last are lines."""
    scores = _scorer(use_stemmer).score(reference, hypothesis)
    return {name: Rouge(float(s.recall), float(s.precision), float(s.fmeasure)) for name, s in scores.items()}


@cache
def _scorer(use_stemmer: bool) -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=use_stemmer)


def rouge_google_mean(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Mean F1 in percent over samples, the best reference of each by each variant, and the variants' geometric mean.

    Returns
    -------
    `{"rouge1": , "rouge2": , "rougeL": , "geometric_mean": }`

    Source: arXiv 2307.11088, section 4.
    """
    names = ("rouge1", "rouge2", "rougeL")
    best = [
        [max(scores[name].f for scores in found) for name in names]
        for prediction, rights in zip(predictions, references, strict=True)
        for found in [[rouge_google(prediction, right) for right in rights]]
    ]
    means = [100.0 * math.fsum(column) / len(best) if best else 0.0 for column in zip(*best, strict=True)] or [0.0] * 3
    return {**dict(zip(names, means, strict=True)), "geometric_mean": math.prod(means) ** (1 / 3)}


def common_subsequence(reference: Sequence[W], hypothesis: Sequence[W]) -> list[W]:
    """A longest common subsequence; of several, the one that a table walked from its end gives.

    The walk goes up, to less of the reference, only where that keeps strictly more than going left. A row of the table
    is one integer whose bit j says that the length grows at word j of the hypothesis, so a row costs a few operations
    on integers of that many bits, and the bits are all that the walk asks.
    """
    whole = (1 << len(hypothesis)) - 1
    places: dict[W, int] = {}
    for index, word in enumerate(hypothesis):
        places[word] = places.get(word, 0) | 1 << index
    level = whole
    rows = []
    for word in reference:
        hit = level & places.get(word, 0)
        level = ((level + hit) | (level - hit)) & whole
        rows.append(level)
    found = []
    i, j = len(reference) - 1, len(hypothesis) - 1
    while i >= 0 and j >= 0:
        if reference[i] == hypothesis[j]:
            found.append(reference[i])
            i, j = i - 1, j - 1
        elif rows[i] >> j & 1:
            j -= 1
        else:
            i -= 1
    return found[::-1]
