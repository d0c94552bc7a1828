"""Needle threading: exact haystacks, structure of lookups and threads, both styles, scores."""

from __future__ import annotations

import json
import re
from collections import Counter
from random import Random

import pytest

from farspan.errors import FarspanError
from farspan.evals.generate import LengthTarget, LengthTargetError, TokenCounter
from farspan.evals.tasks.family import KnobError
from farspan.evals.tasks.needle_threading import NeedleThreading
from farspan.evals.tasks.thread_styles import RoadProse
from farspan.evals.tasks.uuid_threads import follow_thread, parse_pairs, serialize, uuid_haystack

PAIRS = LengthTarget(value=60, unit="units")


@pytest.fixture(scope="module")
def family(byte_counter: TokenCounter) -> NeedleThreading:
    return NeedleThreading(byte_counter)


def test_wording(family: NeedleThreading) -> None:
    single = family.sample("single", PAIRS, 0, 0)
    thread = family.sample("thread", PAIRS, 0, 0)
    key = parse_pairs(single.text)[0][0]
    assert single.question == f'Question: what is the value of the key "{key}"?\n'
    assert single.answer_prefix == thread.answer_prefix == 'Answer: "'
    (start,) = re.findall(r'"([^"]+)"', thread.question)
    assert thread.question == (
        f'Question: start at the key "{start}", use each value as the next key, and give the last value.\n'
    )
    roads, road = (family.sample(task, PAIRS, 0, 0, style="prose") for task in ("thread", "single"))
    (place,) = re.findall(r"from ([A-Z]\w+ [A-Z]\w+)\.", roads.question)
    assert roads.question == f"Question: follow the roads from {place}. Where do they end?\n"
    assert roads.answer_prefix == f"Answer: The roads from {place} end at"
    assert f"The road from {place} leads to " in roads.text
    (place,) = re.findall(r"from ([A-Z]\w+ [A-Z]\w+) lead", road.question)
    assert road.question == f"Question: where does the road from {place} lead?\n"
    assert road.answer_prefix == f"Answer: The road from {place} leads to"


@pytest.mark.parametrize("task", ["single", "multi", "conditional", "thread", "multi_thread", "thread_safe"])
def test_haystack_is_one_json_object_of_eighty_characters_a_pair(family: NeedleThreading, task: str) -> None:
    text = family.sample(task, PAIRS, 0, 0).text.removesuffix("\n")
    assert len(text) == 80 * 60
    assert serialize(list(json.loads(text).items())) == text


def test_character_lengths_count_pairs(family: NeedleThreading) -> None:
    target = LengthTarget(value=2000, unit="chars", semantics="context")
    sample = family.sample("single", LengthTarget(value=25, unit="units"), 0, 0, haystack_seed=0, depth=50)
    assert sample.text == serialize(uuid_haystack(0, 25)) + "\n"
    assert sample.metadata["pair_indices"] == [12]
    assert sample.answers == ["1759edc3-72ae-2244-8b01-63c1cd9d2b7d"]
    assert len(family.sample("single", target, 0, 0).text) <= 2000


def test_one_haystack_serves_all_tasks_of_a_seed(family: NeedleThreading) -> None:
    single, multi = (family.sample(task, PAIRS, 3, 5).text for task in ("single", "multi"))
    assert single == multi
    values = [
        [value for _, value in parse_pairs(family.sample(task, PAIRS, 3, 5).text)] for task in ("single", "thread")
    ]
    assert values[0] == values[1]


@pytest.mark.parametrize("direction", ["forward", "backward", "random"])
@pytest.mark.parametrize("length", [2, 5, 25])
@pytest.mark.parametrize("style", ["json", "prose"])
def test_threads_have_one_start_and_end_at_no_key(
    family: NeedleThreading, direction: str, length: int, style: str
) -> None:
    sample = family.sample("thread", PAIRS, 1, 0, direction=direction, thread_length=length, style=style)
    pairs = family.style(family.knobs("thread", {"style": style})).read(sample.text)
    keys = [key for key, _ in pairs]
    start = family.style(family.knobs("thread", {"style": style})).named(sample.question)[0]
    assert len(set(keys)) == len(keys)
    assert follow_thread(pairs, start) == (sample.answers[0], length)
    assert sample.answers[0] not in keys
    assert sum(value in keys for _, value in pairs) == length - 1 == sample.metadata["hops"]
    order = list(sample.metadata["pair_indices"])  # type: ignore[call-overload]
    if direction == "forward" or (direction == "backward" and length > 1):
        assert order == sorted(order, reverse=direction == "backward")
    elif length > 2:
        assert order not in (sorted(order), sorted(order, reverse=True))


def test_threads_of_one_question_are_disjoint(family: NeedleThreading) -> None:
    sample = family.sample("multi_thread", PAIRS, 0, 0, n_threads=5, thread_length=10)
    places = list(sample.metadata["pair_indices"])  # type: ignore[call-overload]
    assert len(places) == len(set(places)) == 50
    assert len(sample.answers) == 5
    assert sample.answer_kind == "all_required"


@pytest.mark.parametrize("style", ["json", "prose"])
@pytest.mark.parametrize("count", [1, 4])
def test_exactly_the_conditional_keys_carry_the_character(family: NeedleThreading, style: str, count: int) -> None:
    sample = family.sample("conditional", PAIRS, 0, 0, n_needles=count, character="&", style=style)
    pairs = family.style(family.knobs("thread", {"style": style})).read(sample.text)
    assert sum("&" in key for key, _ in pairs) == count
    assert "&" in sample.question
    assert len(sample.answers) == count
    assert not any(answer in sample.question for answer in sample.answers)


def test_clustered_needles_are_neighbours(family: NeedleThreading) -> None:
    sample = family.sample("multi", PAIRS, 0, 0, n_needles=10, placement="clustered")
    places = sorted(sample.metadata["pair_indices"])  # type: ignore[call-overload]
    assert places == list(range(places[0], places[0] + 10))


def test_branched_asks_for_the_longest_or_for_all(family: NeedleThreading) -> None:
    longest = family.sample("branched", PAIRS, 0, 0, branching=3)
    leaves = family.sample("branched", PAIRS, 0, 0, branching=3, leaves="all")
    assert longest.text == leaves.text
    assert len(leaves.answers) == 5
    assert longest.answers[0] in leaves.answers
    keys = Counter(key for key, _ in parse_pairs(longest.text))
    assert sorted(keys.values(), reverse=True)[:3] == [3, 3, 1]


def test_prose_is_prose_with_roads(family: NeedleThreading) -> None:
    sample = family.sample("single", LengthTarget(value=400, unit="units"), 0, 0, style="prose", road_share=0.25)
    sentences = sample.text.strip().split(". ")
    roads = [sentence for sentence in sentences if sentence.startswith("The road from ")]
    assert 60 < len(roads) < 140
    names = [name for pair in RoadProse.SENTENCE.findall(sample.text) for name in pair]
    assert len(set(names)) == len(names)


def test_scores_tell_miscopied_from_missing(family: NeedleThreading) -> None:
    sample = family.sample("single", PAIRS, 0, 0)
    answer = sample.answers[0]
    wrong = answer[:-1] + ("0" if answer[-1] != "0" else "1")
    assert family.score(sample, f'{answer}"') == 1.0
    assert family.scores(sample, wrong)["copy_errors"] == 1.0
    assert family.score(sample, wrong) == 0.0
    assert family.scores(sample, "I do not know")["no_answer"] == 1.0


def test_random_values_score_nothing(family: NeedleThreading) -> None:
    rng = Random(0)
    for index in range(20):
        for task in ("single", "thread", "multi"):
            sample = family.sample(task, PAIRS, index, 0)
            others = [value for _, value in parse_pairs(sample.text) if value not in sample.answers]
            assert family.score(sample, rng.choice(others)) == 0.0


def test_prose_answers_are_names(family: NeedleThreading) -> None:
    sample = family.sample("thread", PAIRS, 0, 0, style="prose")
    assert family.score(sample, f" {sample.answers[0]}.") == 1.0
    assert family.score(sample, f"They end at {sample.answers[0]}, not Nowhere Else.") == 0.0
    assert family.score(sample, "Nowhere Else") == 0.0


def test_refusals(family: NeedleThreading) -> None:
    with pytest.raises(LengthTargetError, match="need 61 pairs"):
        family.sample("thread", PAIRS, 0, 0, thread_length=61)
    with pytest.raises(LengthTargetError, match="smallest feasible length"):
        family.sample("thread", 500, 0, 0, thread_length=61)
    with pytest.raises(KnobError, match="direction"):
        family.sample("thread", PAIRS, 0, 0, direction="sideways")
    for character in ("a", "-", "7"):
        with pytest.raises(FarspanError, match="cannot mark"):
            family.sample("conditional", PAIRS, 0, 0, character=character)
    with pytest.raises(KnobError, match="cannot mark names"):
        family.sample("conditional", PAIRS, 0, 0, character="z", style="prose")
    with pytest.raises(KnobError, match="one question"):
        family.sample("branched", PAIRS, 0, 0, questions_per_context=2)
    with pytest.raises(FarspanError, match="style='json'"):
        family.sample("single", LengthTarget(value=80_000, unit="units"), 0, 0, style="prose")
