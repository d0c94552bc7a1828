"""Sentence BLEU against a second implementation."""

from __future__ import annotations

import warnings
from random import Random

import pytest

from farspan.evals.metrics import bleu


def test_equals_the_standard_library_of_the_field() -> None:
    translate = pytest.importorskip("nltk.translate.bleu_score")
    rng = Random(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(300):
            ref = [rng.choice("abcde") for _ in range(rng.randint(1, 7))]
            output = [rng.choice("abcde") for _ in range(rng.randint(1, 9))]
            orders = min(len(ref), 4)
            expected = translate.sentence_bleu([ref], output, weights=[1 / orders] * orders)
            assert bleu(" ".join(ref), " ".join(output)) == pytest.approx(expected, abs=1e-12)


def test_extremes() -> None:
    assert bleu("one two", "one two") == 1.0
    assert bleu("one two", "three") == 0.0
    assert bleu("", "three") == bleu("one", "") == 0.0
    assert 0.0 < bleu("a b c", "a b x") < 1e-70
