"""Evaluations compared question by question, what became of questions, skills, and published scores beside them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.evals.asking import Cell, cells_of, rounded, without_reasoning
from farspan.evals.comparison import comparable, compare, paired_differences
from farspan.evals.core import SUITES, Probe, resolve
from farspan.evals.evaluation import account_of
from farspan.evals.forecast import Shape, forecast
from farspan.evals.generate import TokenCounter, UnknownTaskError
from farspan.evals.published import landmarks, published_tables
from farspan.evals.tasks import TASKS
from farspan.evals.tasks.family import family_class
from farspan.evals.trust import doubts
from tests.evals.results import LENGTHS, answer, evaluation, task


def test_a_better_model_is_better_where_it_is() -> None:
    a, b = task((1.0, 0.6, 0.1)), task((1.0, 0.95, 0.1))
    differences = paired_differences(a, b)
    assert [one.length for one in differences] == list(LENGTHS)
    assert [one.clear for one in differences] == [False, True, False]
    assert differences[1].mean == pytest.approx(
        sum(x.score for x in b.answers[40:80]) / 40 - sum(x.score for x in a.answers[40:80]) / 40
    )
    assert (differences[0].n, differences[0].contexts) == (40, 10)
    (found,) = compare(evaluation(a), evaluation(b))
    assert found.effective is not None
    assert found.effective.ratio > 1
    assert not compare(evaluation(a), evaluation(b, tokenizer="def"))
    assert "different tokenizers" in comparable(evaluation(a), evaluation(b, tokenizer="def"))
    assert "seeds, 0 and 1" in comparable(evaluation(a), evaluation(b, seed=1))
    assert "no task in common" in comparable(evaluation(a), evaluation(task(name="lines:multi")))


def test_pairing_is_sharper_than_two_intervals() -> None:
    a, b = task((0.5, 0.5, 0.5)), task((0.7, 0.7, 0.7))
    other = task((0.7, 0.7, 0.7), seed=1)
    paired, unpaired = paired_differences(a, b)[0], paired_differences(a, other)[0]
    assert paired.hi - paired.lo < unpaired.hi - unpaired.lo


def test_failed_questions_count_nowhere() -> None:
    whole = task((1.0, 1.0, 1.0))
    lost = tuple(one.model_copy(update={"error": "no reply", "score": 0.0}) for one in whole.answers[:10])
    part = whole.model_copy(update={"answers": lost + whole.answers[10:]})
    assert part.by_length()[0].mean == 1
    assert part.by_length()[0].n == 30
    assert paired_differences(whole, part)[0].n == 30
    assert part.account.failed == 10
    assert any("10 of 120 questions got no reply" in problem for problem in evaluation(part).problems())
    nothing = whole.model_copy(
        update={"answers": tuple(one.model_copy(update={"error": "x"}) for one in whole.answers)}
    )
    assert not nothing.lengths
    assert doubts(evaluation(nothing))


@settings(max_examples=50, deadline=None)
@given(
    kinds=st.lists(
        st.sampled_from(
            [
                {},
                {"truncated": True},
                {"output": ""},
                {"output": "", "truncated": True},
                {"error": "e"},
                {"error": "e", "too_long": True},
            ]
        ),
        max_size=30,
    )
)
def test_every_question_is_of_one_kind(kinds: list[dict[str, object]]) -> None:
    count = account_of([answer(i, 1024, 0.0, **kind) for i, kind in enumerate(kinds)])
    assert count.asked == len(kinds)
    assert count.asked == count.answered + count.truncated + count.empty + count.too_long + count.failed


def test_skills_are_read_over_their_tasks() -> None:
    found = evaluation(task((1, 1, 0)), task((1, 0, 0), name="lines:multi"), task((0, 0, 0), name="x:thread"))
    skills = found.skills()
    assert list(skills) == ["retrieval", "tracing"]
    assert skills["retrieval"].means == (1.0, 0.5, 0.0)
    assert skills["tracing"].censoring == "left"


@settings(max_examples=60, deadline=None)
@given(
    limit=st.integers(1, 200),
    n=st.integers(1, 30),
    shared=st.lists(st.integers(1, 8), min_size=1, max_size=4),
)
def test_a_limit_is_met_exactly_and_spread_evenly(limit: int, n: int, shared: list[int]) -> None:
    probes = [
        Probe(name=str(i), title="", family="lines", task="single", questions_per_context=count)
        for i, count in enumerate(shared)
    ]
    every = sum(rounded(n, probe) for probe in probes) * len(LENGTHS)
    cells = cells_of(probes, LENGTHS, n, limit)
    assert sum(cell.n for cell in cells) == min(limit, every)
    taken = {(cell.probe.name, cell.length): cell.n for cell in cells}
    for probe in probes:
        of_probe = [taken.get((probe.name, length), 0) for length in LENGTHS]
        assert max(of_probe) - min(of_probe) <= probe.questions_per_context


def test_names_stand_for_usual_tasks_whole_suites_and_everything() -> None:
    assert [probe.name for probe in resolve("lines")[0]] == ["lines:single"]
    assert [probe.task for probe in resolve("lines:all")[0]] == ["single", "multi", "update", "decoy"]
    assert len(resolve("ruler")[0]) == 13
    assert {probe.family for probe in resolve("all")[0]} == set(TASKS)
    probes, _ = resolve("lines:all", {"key": "uuid", "questions_per_context": 4})
    assert all((probe.knobs, probe.questions_per_context) == ({"key": "uuid"}, 4) for probe in probes)
    assert not resolve("fast")[1]
    assert len(resolve(list(SUITES["fast"]))[0]) == 9
    with pytest.raises(UnknownTaskError, match="did you mean single"):
        resolve("lines:singel")


@pytest.mark.parametrize("family", TASKS)
def test_every_task_has_a_skill(family: str) -> None:
    found = family_class(family)
    assert all(found.skill(name) for name in found.suite())


def test_reasoning_is_taken_off() -> None:
    assert without_reasoning("<think>7?</think>\n8") == ("8", "7?")
    assert without_reasoning("7?</think>8") == ("8", "7?")
    assert without_reasoning("<think>7?", truncated=True) == ("", "7?")
    assert without_reasoning("7 or <think> so") == ("7 or <think> so", "")


def test_a_forecast_counts_questions_tokens_time_and_price(byte_counter: TokenCounter) -> None:
    probe = resolve("lines", {"questions_per_context": 4})[0][0]
    cells = [Cell(probe=probe, length=length, n=8) for length in (1000, 2000)]
    found = forecast(cells, byte_counter, thinking_tokens=100, price=(2.0, 10.0))
    assert (found.questions, found.contexts) == (16, 4)
    assert found.unique_tokens * 4 == found.prompt_tokens
    assert 0.95 * 24_000 < found.prompt_tokens < 24_000
    assert 16 * 100 < found.answer_tokens < 16 * 140
    assert found.price == pytest.approx((2 * found.prompt_tokens + 10 * found.answer_tokens) / 1e6)
    assert found.seconds is None
    shape = Shape(parameters=10**9, layers=10, width=1000, measured_tokens=1000, measured_seconds=2.0)
    assert shape.seconds(1000) == pytest.approx(2.0)
    assert 4.0 < shape.seconds(2000) < 4.1
    assert forecast(cells, byte_counter, shape=shape).seconds == pytest.approx(
        2 * (shape.seconds(1000) + shape.seconds(2000))
    )


def test_published_scores_name_tasks_there_are() -> None:
    known = published_tables()
    assert {"ruler", "needle_threading", "longbiobench", "lines"} <= set(known)
    for family, table in known.items():
        tasks = set(family_class(family).tasks)
        assert all(set(names.split("|")) & tasks for group in table.groups.values() for names in group), family
        assert all(row.group in table.groups and 0 <= row.score <= 100 for row in table.scores)


def test_landmarks_stand_beside_what_was_measured() -> None:
    at = task((0.9, 0.8, 0.7))
    moved = at.model_copy(
        update={"answers": tuple(one.model_copy(update={"length": one.length * 1229 // 1024}) for one in at.answers)}
    )
    (mark,) = [one for one in landmarks([[moved]]) if one.length == 4915]
    assert (mark.family, mark.group) == ("lines", "one line")
    assert dict(mark.published)["longchat-13b-16k"] == 96
    assert mark.own[0] == pytest.approx(100 * moved.by_length()[1].mean)
    assert landmarks([[task(name="ruler:vt")]]) == []


def test_the_first_row_of_a_published_table_is_as_published() -> None:
    rows = {(row.model, row.length): row.score for row in published_tables()["ruler"].scores}
    assert rows["Llama-3.1-8B", 32768] == 87.4
    assert rows["Llama-2-7B-chat", 4096] == 85.6
