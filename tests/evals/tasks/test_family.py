"""Promises of every generated family: answered by its text, exact lengths, pairing, determinism, one-line refusals."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from farspan.errors import FarspanError
from farspan.evals.generate import LengthTarget, LengthTargetError, TokenCounter, UnknownKnobError, UnknownTaskError
from farspan.evals.tasks import TASKS
from farspan.evals.tasks.family import Family, KnobError, Knobs, family_class, joined, score_sample
from farspan.evals.tasks.holo_queries import QUERIES
from farspan.evals.tasks.longgenbench_banks import READ_BANKS
from farspan.evals.tasks.ruler_tasks import PUBLISHED_TEXT_TASKS
from tests.evals.replies import said

CASES = [
    (family, task, knobs)
    for family in TASKS
    for task in family_class(family).tasks
    if task not in (*PUBLISHED_TEXT_TASKS, *READ_BANKS)
    for knobs in ([{"style": "json"}, {"style": "prose"}] if family == "needle_threading" else [{}])
]
NAMES = [f"{family}-{task}-{knobs.get('style', '')}" for family, task, knobs in CASES]
LENGTH = 4500
FREE_FORM = ("graph_tracing", "longins", "longgenbench")
"""Families whose question is no labelled line behind the text."""

LENGTHS = {"longbiobench": 24_000, "holobench": 12_000, "longgenbench": 6_000}
"""Families whose units are long, or many of which a question needs."""
DERIVED = (
    *(
        "cwe",
        "fwe",
        "calculation",
        "twodiff",
        "citation_1",
        "citation_2",
        "idk",
        "rnidk",
        "icl",
        "gen_math",
        "gen_choice",
    ),
    *QUERIES,
)
"""Tasks whose answers stand in no piece of evidence as they are."""
every_task = pytest.mark.parametrize(("family", "task", "knobs"), CASES, ids=NAMES)


@every_task
def test_text_alone_gives_the_answers_within_the_length(
    family: str, task: str, knobs: dict[str, object], counter: TokenCounter
) -> None:
    generator = family_class(family)(counter)
    for index in (0, 4):
        sample = generator.sample(task, LENGTHS.get(family, LENGTH), index, 1, **knobs)
        text = sample.text
        assert generator.solve(sample) == sample.answers
        assert generator.score(sample, said(sample)) == 1.0
        assert score_sample(sample, "")["score"] == 0.0
        total = counter.count(text + sample.question + sample.answer_prefix) + (sample.max_new_tokens or 0)
        assert total == sample.metadata["n_total_tokens"] - counter.template_tokens()
        assert counter.count(text) == sample.metadata["n_context_tokens"]
        assert total <= LENGTHS.get(family, LENGTH)
        if family not in FREE_FORM:
            assert text.endswith("\n")
            assert sample.question.startswith("Question: ")
            assert sample.question.endswith("\n")
            assert sample.answer_prefix.startswith("Answer: ")
        assert max(map(counter.count, sample.answers)) < (sample.max_new_tokens or 0)
        assert {"length", "depth", "task", "shared_context_key", "evidence_spans"} <= set(sample.metadata)
        for span in sample.evidence_spans:
            assert 0 <= span.start_char < span.end_char <= len(text)


@every_task
def test_evidence_spans_hold_the_evidence(
    family: str, task: str, knobs: dict[str, object], byte_counter: TokenCounter
) -> None:
    generator = family_class(family)(byte_counter)
    sample = generator.sample(task, LENGTHS.get(family, LENGTH), 2, 0, **knobs)
    pieces = [sample.text[span.start_char : span.end_char] for span in sample.evidence_spans]
    assert pieces
    for piece, span in zip(pieces, sample.evidence_spans, strict=True):
        assert piece == piece.strip()
        if span.start_token is not None:
            before = byte_counter.count(sample.text[: span.end_char])
            assert before == span.end_token
    if task == "cwe" or task not in DERIVED:
        assert all(any(answer in piece for piece in pieces) for answer in sample.answers)


@every_task
def test_without_its_evidence_the_answer_changes(
    family: str, task: str, knobs: dict[str, object], byte_counter: TokenCounter
) -> None:
    if task in DERIVED:
        pytest.skip("no single piece of evidence holds the answer")
    generator = family_class(family)(byte_counter)
    sample = generator.sample(task, LENGTHS.get(family, LENGTH), 2, 0, **knobs)
    spans = [span for span in sample.evidence_spans if span.role != "distractor"]
    text, span = sample.text, next(s for s in spans if sample.answers[-1] in sample.text[s.start_char : s.end_char])
    if text.startswith("{"):
        start = span.start_char if span.start_char == 1 else span.start_char - 2
        end = span.end_char + 2 if span.start_char == 1 else span.end_char
    else:
        start, end = span.start_char, span.end_char
    without = sample.model_copy(update={"context": text[:start] + text[end:]})
    try:
        found = generator.solve(without)
    except (FarspanError, KeyError):
        return
    assert found != sample.answers


@every_task
def test_equal_arguments_give_equal_bytes_and_indices_differ(
    family: str, task: str, knobs: dict[str, object], byte_counter: TokenCounter
) -> None:
    make = family_class(family)
    first, second = make(byte_counter), make(byte_counter)
    length = LENGTHS.get(family, LENGTH)
    second.sample(task, length, 7, 3, **knobs)
    one, two = first.sample(task, length, 1, 0, **knobs), second.sample(task, length, 1, 0, **knobs)
    assert one.model_dump_json() == two.model_dump_json()
    assert first.sample(task, length, 2, 0, **knobs).text != one.text
    assert first.sample(task, length, 1, 1, **knobs).text != one.text


@pytest.mark.parametrize(
    ("family", "task"), [("lines", "single"), ("ruler", "niah_multikey_1"), ("ruler", "vt"), ("ruler", "qa_2_gen")]
)
def test_needles_are_the_same_at_every_length_and_depth(family: str, task: str, byte_counter: TokenCounter) -> None:
    generator = family_class(family)(byte_counter)
    samples = [generator.sample(task, length, 3, 0, depth=depth) for length in (1500, 6000) for depth in (0, 80)]
    assert len({(sample.question, tuple(sample.answers)) for sample in samples}) == 1
    assert len({sample.text for sample in samples}) == (2 if task == "vt" else 4)


@pytest.mark.parametrize(
    ("family", "task", "knobs"),
    [
        ("needle_threading", "single", {}),
        ("needle_threading", "thread", {"thread_length": 3}),
        ("needle_threading", "thread", {"thread_length": 3, "style": "prose"}),
        ("needle_threading", "multi", {"n_needles": 3}),
        ("lines", "single", {}),
        ("lines", "update", {}),
        ("lines", "multi", {"targets": 2}),
        ("ruler", "niah_single_2", {}),
        ("ruler", "niah_multikey_2", {}),
        ("ruler", "vt", {"num_hops": 2}),
        ("ruler", "qa_1_gen", {}),
        ("longbiobench", "standard", {}),
        ("longbiobench", "multihop_2", {}),
        ("longbiobench", "citation_1", {}),
        ("longbiobench", "idk", {}),
        ("holobench", "comparison_easy", {}),
        ("holobench", "join_easy", {}),
    ],
)
def test_questions_share_a_context(
    family: str, task: str, knobs: dict[str, object], byte_counter: TokenCounter
) -> None:
    generator = family_class(family)(byte_counter)
    length = LENGTHS.get(family, LENGTH)
    samples = [generator.sample(task, length, index, 0, questions_per_context=4, **knobs) for index in range(8)]
    keys = [sample.shared_context_key for sample in samples]
    assert keys == [keys[0]] * 4 + [keys[4]] * 4
    assert keys[0] != keys[4]
    assert len({sample.text for sample in samples}) == 2
    assert len({sample.id for sample in samples}) == 8
    assert len({sample.question for sample in samples}) == 8
    for sample in samples:
        assert generator.solve(sample) == sample.answers
        tokens = byte_counter.count(sample.text + sample.question + sample.answer_prefix) + (sample.max_new_tokens or 0)
        assert tokens <= length


def test_depths_are_walked_with_the_index(byte_counter: TokenCounter) -> None:
    generator = family_class("lines")(byte_counter)
    depths = [generator.sample("single", 1000, index, 0, depths=5).depth for index in range(10)]
    assert depths == [0, 25, 50, 75, 100] * 2
    assert generator.sample("single", 1000, 3, 0, depth=40).depth == 40
    assert Knobs(depths=1).depth_of(3) == 50


def test_answers_of_chat_models_get_the_official_room(byte_counter: TokenCounter) -> None:
    base = family_class("ruler")(byte_counter)
    chat = family_class("ruler")(byte_counter, template_tokens=20, chat=True)
    assert chat.sample("niah_single_1", 2000, 0, 0).max_new_tokens == 128
    assert 0 < (base.sample("niah_single_1", 2000, 0, 0).max_new_tokens or 0) < 30


def test_refusals_name_what_there_is(byte_counter: TokenCounter) -> None:
    generator = family_class("lines")(byte_counter)
    with pytest.raises(UnknownTaskError, match="single"):
        generator.sample("singel", 1000, 0, 0)
    with pytest.raises(UnknownKnobError, match="distinct_values"):
        generator.sample("single", 1000, 0, 0, colour="red")
    with pytest.raises(KnobError, match="targets"):
        generator.sample("single", 1000, 0, 0, targets=0)
    with pytest.raises(LengthTargetError, match="smallest feasible length"):
        generator.sample("single", 40, 0, 0)
    with pytest.raises(UnknownTaskError, match="needle_threading"):
        family_class("needle_treading")
    with pytest.raises(KnobError, match="no published data"):
        list(Family.read_published.__func__(generator, "folder", "single"))
    assert joined(["a"]) == "a"
    assert joined(["a", "b", "c"]) == "a, b and c"


def test_characters_are_counted_too(byte_counter: TokenCounter) -> None:
    generator = family_class("ruler")(byte_counter)
    for task in ("niah_single_2", "fwe", "cwe"):
        target = LengthTarget(value=8000, unit="chars", semantics="context")
        sample = generator.sample(task, target, 0, 0)
        assert 7500 < len(sample.text) <= 8000
        assert generator.solve(sample) == sample.answers


SCRIPT = """
import hashlib, json, sys
from farspan.evals.generate import TokenCounter
from farspan.evals.tasks import TASKS
from farspan.evals.tasks.family import family_class
counter, digest, lengths = TokenCounter(sys.argv[1], cache=False), hashlib.sha256(), json.loads(sys.argv[2])
for family in TASKS:
    generator = family_class(family)(counter)
    for task in generator.tasks:
        if task not in ("qa_1", "qa_2", "gsm8k", "mmlu", "csqa"):
            digest.update(generator.sample(task, lengths.get(family, 4500), 1, 0).model_dump_json().encode())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_process(byte_file: Path, byte_counter: TokenCounter) -> None:
    found = set()
    for hash_seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", SCRIPT, str(byte_file), json.dumps(LENGTHS)]
        found.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip())
    digest = hashlib.sha256()
    for family, task, knobs in CASES:
        if knobs.get("style") != "prose":
            sample = family_class(family)(byte_counter).sample(task, LENGTHS.get(family, LENGTH), 1, 0)
            digest.update(sample.model_dump_json().encode())
    assert found == {digest.hexdigest()}
