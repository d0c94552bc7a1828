from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from farspan.errors import FarspanError
from farspan.evals.generate import (
    Generator,
    LengthTarget,
    TokenCounter,
    UnknownKnobError,
    UnknownTaskError,
    generator_class,
)
from farspan.evals.schema import LongSample
from tests.evals.generate.passkey import Passkey


@pytest.fixture(params=["byte_level", "metaspace"])
def passkey(request: pytest.FixtureRequest, counters: dict[str, TokenCounter]) -> Passkey:
    """The test family on each tokenizer."""
    return Passkey(counters[request.param], template_tokens=7)


def without_evidence(sample: LongSample) -> LongSample:
    """The sample with its needles cut out."""
    text = sample.text
    for span in sorted(sample.evidence_spans, key=lambda span: -span.start_char):
        text = text[: span.start_char] + text[span.end_char :]
    return sample.model_copy(update={"context": text})


def test_a_family_meets_the_protocol(passkey: Passkey) -> None:
    assert isinstance(passkey, Generator)
    assert generator_class("tests.evals.generate.passkey:Passkey") is Passkey


@pytest.mark.parametrize("index", range(6))
def test_samples_are_solved_from_their_text_and_only_with_their_needle(passkey: Passkey, index: int) -> None:
    sample = passkey.sample("hidden", 700, index, 0)
    assert passkey.solve(sample) == sample.answers
    assert passkey.solve(without_evidence(sample)) != sample.answers
    assert (sample.text + sample.question).count(sample.answers[0]) == 1


def test_needles_are_the_same_at_every_length_and_depth(passkey: Passkey) -> None:
    samples = [
        passkey.sample("hidden", length, 3, 0, depth=depth) for length in (500, 900, 2000) for depth in (0.0, 60.0)
    ]
    assert len({sample.answers[0] for sample in samples}) == 1
    assert len({sample.text[s.start_char : s.end_char] for sample in samples for s in sample.evidence_spans}) == 1
    assert len({sample.text for sample in samples}) == 6
    assert passkey.sample("hidden", 500, 4, 0).answers != samples[0].answers
    assert passkey.sample("hidden", 500, 3, 1).answers != samples[0].answers


def test_questions_on_one_context_share_it(passkey: Passkey) -> None:
    samples = [passkey.sample("hidden", 800, index, 0, questions=4) for index in range(8)]
    assert len({sample.text for sample in samples}) == 2
    assert len({sample.shared_context_key for sample in samples}) == 2
    for sample in samples:
        same = [other for other in samples if other.shared_context_key == sample.shared_context_key]
        assert {other.text for other in same} == {sample.text}
        assert passkey.solve(sample) == sample.answers
    assert len({sample.question for sample in samples}) == 8
    for sample in samples:
        counter = passkey.counter
        total = counter.count(sample.text + sample.question + sample.answer_prefix)
        assert total + 7 + (sample.max_new_tokens or 0) <= 800


def test_metadata_is_complete(passkey: Passkey) -> None:
    sample = passkey.sample("hidden", 700, 2, 5, depth=30.0)
    counter = passkey.counter
    assert (sample.length, sample.depth, sample.metadata["task"]) == (700, 30.0, "hidden")
    assert sample.metadata["length_unit"] == f"tokens:{counter.tokenizer_id}"
    assert sample.metadata["n_context_tokens"] == counter.count(sample.text)
    assert sample.metadata["n_chars"] == len(sample.text)
    assert sample.metadata["counted"] in ("predicted", "verified")
    assert sample.metadata["count_mode"] in ("additive", "affine", "verify")
    assert sample.id == "passkey/hidden/700/30/5/2"


def test_reference_tokenizers_are_counted_too(counters: dict[str, TokenCounter]) -> None:
    other = counters["metaspace"]
    family = Passkey(counters["byte_level"], references=[other])
    sample = family.sample("hidden", 700, 0, 0)
    assert sample.metadata["n_context_tokens_by"] == {other.tokenizer_id: other.count(sample.text)}
    with pytest.raises(FarspanError, match="at most 3"):
        Passkey(counters["byte_level"], references=[other] * 4)


def test_a_tokenizer_itself_is_taken(tokenizers_by_kind: dict[str, Tokenizer]) -> None:
    assert Passkey(tokenizers_by_kind["byte_level"]).sample("hidden", 300, 0, 0).answers


def test_targets_keep_room_for_the_answer(passkey: Passkey) -> None:
    assert passkey.target(500, 12) == LengthTarget(value=500, reserve=12)
    assert passkey.target(LengthTarget(value=500), 12).reserve == 12
    assert passkey.target(LengthTarget(value=500, reserve=3), 12).reserve == 3
    assert passkey.target(LengthTarget(value=500, unit="chars"), 12).reserve == 0


def test_answers_longer_than_the_room_are_warned_of(passkey: Passkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.evals.generate.passkey.NEW_TOKENS", 1)
    with pytest.warns(UserWarning, match="only 1 may be generated"):
        passkey.sample("hidden", 500, 0, 0)


def test_unknown_names_are_refused(passkey: Passkey) -> None:
    with pytest.raises(UnknownKnobError, match=r"no knob 'deep'; it has: depth=50\.0, questions=1"):
        passkey.sample("hidden", 500, 0, 0, deep=3)
    with pytest.raises(UnknownTaskError, match="no task 'hiden'; did you mean hidden"):
        passkey.sample("hiden", 500, 0, 0)
    with pytest.raises(UnknownTaskError, match="unknown task family 'linse'; did you mean lines"):
        generator_class("linse")
    with pytest.raises(UnknownTaskError, match="cannot be imported"):
        generator_class("no.such.module:Thing")
    with pytest.raises(UnknownTaskError, match="not a subclass"):
        generator_class("random:Random")
