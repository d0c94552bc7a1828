"""LongIns: sheets with as many errors as stated, each where it belongs, and exercises that solve as they say."""

from __future__ import annotations

from random import Random

import pytest

from farspan.evals.generate import TokenCounter
from farspan.evals.generate.generators import UnknownTaskError
from farspan.evals.metrics.index_list import num_errors
from farspan.evals.schema import LongSample
from farspan.evals.tasks.family import KnobError
from farspan.evals.tasks.longins import ITEM, LongIns
from farspan.evals.tasks.longins_items import FAMILIES, KINDS_OF_ITEMS, solved


@pytest.fixture(scope="module")
def family() -> LongIns:
    return LongIns(TokenCounter(lambda text: range(-(-len(text) // 4)), cache=False))


@pytest.mark.parametrize("made", FAMILIES, ids=lambda made: f"{made.kind}-{made.name}")
def test_exercises_solve_to_their_answer_and_not_to_a_wrong_one(made) -> None:
    for seed in range(300):
        item = made.item(Random(seed), seed)
        assert solved(item.given, item.instruction) == item.answer
        assert item.wrong
        assert item.answer not in item.wrong
        assert "[" not in item.given + item.answer + "".join(item.wrong)


def numbers(sample: LongSample) -> list[int]:
    return [int(number) for number, _, _ in ITEM.findall(sample.text)]


@pytest.mark.parametrize("task", LongIns.tasks)
@pytest.mark.parametrize("length", [256, 1024, 4096])
def test_sheets_count_on_and_hold_one_error_in_each_part(family: LongIns, task: str, length: int) -> None:
    for index in range(4):
        sample = family.sample(task, length, index, 7)
        n, wrong = int(str(sample.metadata["n_items"])), [int(answer) for answer in sample.answers]
        assert numbers(sample) == list(range(n))
        assert len(wrong) == num_errors(n)
        for block, place in enumerate(wrong):
            assert round(block * n / len(wrong)) <= place < round((block + 1) * n / len(wrong))
        assert [int(span.fact_id) for span in sample.evidence_spans] == wrong
        total = sample.metadata["n_total_tokens"]
        assert isinstance(total, int)
        assert total <= length


def test_gist_and_list_share_their_items(family: LongIns) -> None:
    gist, told = family.sample("gist", 2048, 3, 5), family.sample("list", 2048, 3, 5)
    for one, other in zip(ITEM.findall(gist.text), ITEM.findall(told.text), strict=False):
        if one[0] not in gist.answers and other[0] not in told.answers:
            assert other[1].endswith(one[1])
            assert one[2] == other[2]
    assert gist.text.count("Task of every item") == 1
    assert "Task of every item" not in told.text
    assert int(str(gist.metadata["n_items"])) > int(str(told.metadata["n_items"]))


def test_knobs(family: LongIns) -> None:
    many = family.sample("limt", 4096, 0, 1, error_rate=0.5)
    assert len(many.answers) == num_errors(int(str(many.metadata["n_items"])), 0.5)
    assert numbers(family.sample("gist", 1024, 0, 1, index_base=1))[0] == 1
    assert family.sample("limt", 2048, 0, 1, kinds="sense, names").metadata["types"] == ["names", "sense"]
    with pytest.raises(KnobError, match="'poetry'"):
        family.sample("limt", 1024, 0, 1, kinds="poetry")
    with pytest.raises(KnobError, match="error_rate"):
        family.sample("limt", 1024, 0, 1, error_rate=0.9)
    with pytest.raises(KnobError, match="one question a context"):
        family.sample("gist", 1024, 0, 1, questions_per_context=2)
    with pytest.raises(UnknownTaskError):
        family.sample("gists", 1024, 0, 1)
    assert len(KINDS_OF_ITEMS) == 7


def test_answers_are_read_with_and_without_their_own_brackets(family: LongIns) -> None:
    sample = family.sample("gist", 2048, 0, 2)
    numbers_said = ", ".join(sample.answers)
    for output in (numbers_said, f"{numbers_said}] and no others", f"[{numbers_said}]", f"Wrong: [{numbers_said}]."):
        assert family.scores(sample, output)["score"] == 1.0, output
    everything = family.scores(sample, ", ".join(map(str, numbers(sample))))
    assert everything["score"] == pytest.approx(float(str(sample.metadata["chance"])))
    assert everything["balanced"] == 0.5
    assert family.scores(sample, "")["no_answer"] == 1.0


def test_errors_stand_anywhere(family: LongIns) -> None:
    places = [
        int(answer) / int(str(sample.metadata["n_items"]))
        for index in range(60)
        for sample in [family.sample("gist", 512, index, 9)]
        for answer in sample.answers
    ]
    tenths = [sum(tenth / 5 <= place < (tenth + 1) / 5 for place in places) for tenth in range(5)]
    expected = len(places) / 5
    assert sum((count - expected) ** 2 / expected for count in tenths) < 18.5
