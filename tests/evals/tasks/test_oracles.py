"""Every family of the table against two models: one that solves each sample from its text, one that only guesses.

Both are driven by the table of tasks alone, so a new family is covered as soon as it has its row.
"""

from __future__ import annotations

import re
from contextlib import suppress
from random import Random
from statistics import fmean
from warnings import catch_warnings, simplefilter

import pytest

from farspan.evals.generate import LengthTargetError, TokenCounter
from farspan.evals.generate.rng import derive_seed
from farspan.evals.schema import LongSample
from farspan.evals.tasks import TASKS
from farspan.evals.tasks.family import Family, Knobs, family_class, score_sample
from tests.evals.replies import said

CASES = [(family, task) for family in TASKS for task in family_class(family).suite()]
SHORT, LONG, LONGEST = 2048, 32_768, 1 << 20

every_task = pytest.mark.parametrize(("family", "task"), CASES, ids=str)


@pytest.fixture(scope="module")
def fours() -> TokenCounter:
    """Four characters a token, about what tokenizers of today's models make of these texts; it adds up to nothing."""
    return TokenCounter(lambda text: range(-(-len(text) // 4)), cache=False)


def made(family: str, counter: TokenCounter) -> Family[Knobs]:
    """The family on a tokenizer."""
    return family_class(family)(counter)


def sample_at(one: Family[Knobs], task: str, length: int, index: int, seed: int) -> LongSample:
    """A sample of the length, or of the shortest one the task has: five-step chains with examples start at 2.1k."""
    with suppress(LengthTargetError):
        return one.sample(task, length, index, seed)
    with pytest.raises(LengthTargetError) as refused:
        one.sample(task, length, index, seed)
    (needed,) = re.findall(r"smallest feasible length is (\d+)", str(refused.value))
    assert int(needed) < 1.25 * length
    return one.sample(task, int(needed) + 64, index, seed)


def assert_solved(one: Family[Knobs], sample: LongSample) -> None:
    """The solver finds the answers in the text, and saying them scores full."""
    assert one.solve(sample) == sample.answers
    heard = [said(other, one.solve(other)) for other in one.companions(sample)]
    figures = score_sample(sample, said(sample), heard)
    assert figures["score"] == 1.0, figures


@every_task
def test_the_oracle_scores_full_at_two_thousand_tokens(family: str, task: str, fours: TokenCounter) -> None:
    one = made(family, fours)
    for index in range(3):
        assert_solved(one, sample_at(one, task, SHORT, index, 11))


@every_task
def test_the_oracle_scores_full_at_thirty_two_thousand_tokens(
    family: str, task: str, byte_counter: TokenCounter
) -> None:
    one = made(family, byte_counter)
    sample = one.sample(task, LONG, 5, 12)
    assert_solved(one, sample)
    counted = byte_counter.count(sample.text + sample.question + sample.answer_prefix)
    assert counted + (sample.max_new_tokens or 0) <= LONG


@pytest.mark.slow
@every_task
def test_the_oracle_scores_full_at_a_million_tokens(family: str, task: str, byte_counter: TokenCounter) -> None:
    one = made(family, byte_counter)
    sample = one.sample(task, LONGEST, 7, 13)
    assert_solved(one, sample)
    total = sample.metadata["n_total_tokens"]
    assert isinstance(total, int)
    assert total <= LONGEST


def guessed(sample: LongSample, rng: Random) -> str:
    """As many different words of the text, each as likely as any other, as the answers have."""
    words = sorted(set(re.findall(r"\S+", sample.text)))
    return said(sample, [" ".join(rng.choice(words) for _ in answer.split() or [""]) for answer in sample.answers])


@every_task
def test_guessing_stays_near_chance(family: str, task: str, fours: TokenCounter) -> None:
    one = made(family, fours)
    rng = Random(derive_seed("guesses", family, task))
    scores, chances = [], []
    with catch_warnings():
        simplefilter("ignore")
        for index in range(12):
            sample = sample_at(one, task, SHORT, index, 14)
            heard = [guessed(other, rng) for other in one.companions(sample)]
            scores.append(score_sample(sample, guessed(sample, rng), heard)["score"])
            chance = sample.metadata.get("chance", 0.0)
            chances.append(float(chance) if isinstance(chance, int | float) else 0.0)
    assert fmean(scores) <= fmean(chances) + 0.25


@every_task
def test_silence_scores_nothing(family: str, task: str, fours: TokenCounter) -> None:
    one = made(family, fours)
    sample = sample_at(one, task, SHORT, 1, 15)
    assert score_sample(sample, "", [""] * len(one.companions(sample)))["score"] == 0.0
