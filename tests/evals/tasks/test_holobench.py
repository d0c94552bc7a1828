"""HoloBench: answers follow from the rows of the context alone; knobs change what they say and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.evals.generate import LengthTarget, LengthTargetError, TokenCounter
from farspan.evals.schema import LongSample
from farspan.evals.tasks.family import KnobError
from farspan.evals.tasks.holo_instance import same_rows, tables_of
from farspan.evals.tasks.holo_queries import KINDS, QUERIES
from farspan.evals.tasks.holo_rows import Entry
from farspan.evals.tasks.holo_schemas import SCHEMAS, invert
from farspan.evals.tasks.holo_sql import run_query, tables_read
from farspan.evals.tasks.holobench import HoloBench
from farspan.evals.tasks.holobench_summary import SWEEPS, cell_table, directions

LENGTH = 9000
every_task = pytest.mark.parametrize("task", list(QUERIES))


@pytest.fixture(scope="module")
def family(byte_counter: TokenCounter) -> HoloBench:
    return HoloBench(byte_counter)


def entries_of(sample: LongSample) -> list[Entry]:
    """All rows that the lines of a context say."""
    schema, language = SCHEMAS[str(sample.metadata["database"])], str(sample.metadata["language"])
    read = (invert(line, schema, language) for line in sample.text.splitlines())
    return [Entry(table, row, "") for table, row in filter(None, read)]


def answered(sample: LongSample, entries: list[Entry], engine: str = "sqlite") -> list[dict[str, object]]:
    """The rows of the sample's query on some entries."""
    schema = SCHEMAS[str(sample.metadata["database"])]
    columns = {table: schema.columns(table) for table in schema.tables}
    rows = run_query(str(sample.metadata["query"]), tables_of(entries, schema.tables), engine, columns)  # type: ignore[arg-type]
    return [dict(row) for row in rows]


def test_five_kinds_by_three_difficulties() -> None:
    assert len(QUERIES) == 15
    assert {query.kind for query in QUERIES.values()} == set(KINDS)
    assert HoloBench.default_tasks() == HoloBench.suite() == tuple(QUERIES)
    for kind in KINDS:
        assert [q.difficulty for q in QUERIES.values() if q.kind == kind] == ["easy", "medium", "hard"]


def test_wording(family: HoloBench) -> None:
    sample = family.sample("comparison_easy", LENGTH, 0, 0, database="shop", empty_share=0)
    assert sample.text.startswith("Below are entries of several kinds, one a line. A question about them follows.\n")
    assert sample.question.startswith("Question: which product entries have stock above ")
    assert 'Answer with a JSON list of objects with the keys "product"' in sample.question
    assert sample.question.endswith('If they hold no answer, say "No answer.".\n')
    assert sample.answer_prefix == "Answer: ["
    free = family.sample("comparison_easy", LENGTH, 0, 0, database="shop", empty_share=0, answer_format="free")
    assert "JSON" not in free.question
    assert free.answer_prefix == "Answer:"
    assert free.answers == sample.answers
    assert "10,000 words" in str(sample.metadata["instruction"])
    assert family.sample("join_easy", LENGTH, 0, 0, reasoning=False).metadata["instruction"] == "Give the answer alone."


@every_task
def test_answers_follow_from_the_text_under_both_engines(family: HoloBench, task: str) -> None:
    for index in range(3):
        sample = family.sample(task, LENGTH, index, 0)
        entries, gold = entries_of(sample), sample.metadata["gold_rows"]
        assert isinstance(gold, list)
        assert len(entries) == sample.text.count("\n") - 1
        assert len({entry.key for entry in entries}) == len(entries)
        for engine in ("sqlite", "duckdb"):
            assert same_rows(answered(sample, entries, engine), gold)  # type: ignore[arg-type]
        assert 1 <= len(gold) <= 50 or sample.metadata["empty"]
        schema = SCHEMAS[str(sample.metadata["database"])]
        main = tables_read(str(sample.metadata["query"]), {table: schema.columns(table) for table in schema.tables})
        assert sum(entry.table in main for entry in entries) == sample.metadata["n_main"]
        assert sum(entry.table not in main for entry in entries) == sample.metadata["n_aux"]


@every_task
def test_evidence_decides_the_answer(family: HoloBench, task: str) -> None:
    sample = family.sample(task, LENGTH, 1, 0, empty_share=0)
    entries, gold = entries_of(sample), sample.metadata["gold_rows"]
    witness, verified = set(sample.metadata["witness"]), set(sample.metadata["verified"])  # type: ignore[call-overload]
    assert witness <= verified
    spans = {span.fact_id: span.role for span in sample.evidence_spans}
    assert set(spans) == verified
    assert {name for name, role in spans.items() if role == "needle"} == witness
    # Nothing but the rows to be looked at has a part in the answer; without those it is made of it changes.
    looked_at = [entry for entry in entries if entry.key in verified]
    assert same_rows(answered(sample, looked_at), gold)  # type: ignore[arg-type]
    less = [entry for entry in entries if entry.key not in witness]
    assert not same_rows(answered(sample, less), gold)  # type: ignore[arg-type]
    schema = SCHEMAS[str(sample.metadata["database"])]
    others = [entry for entry in entries if entry.table in schema.tables]
    assert same_rows(answered(sample, others), gold)  # type: ignore[arg-type]
    assert sample.metadata["sensitivity"] in (0.0, 1.0)


@pytest.mark.parametrize("task", ["comparison_medium", "aggregation_easy", "ranking_hard"])
def test_place_and_length_never_change_the_question(family: HoloBench, task: str) -> None:
    samples = [
        family.sample(task, length, 1, 0, position=position, info="1k")
        for length in (4000, 8000)
        for position in SWEEPS["position"][1]
    ]
    assert len({(sample.question, tuple(sample.answers)) for sample in samples}) == 1
    assert len({sample.text for sample in samples}) == len(samples)


def test_rows_stand_where_they_should(family: HoloBench) -> None:
    def places(position: str) -> list[float]:
        sample = family.sample("aggregation_medium", 12_000, 0, 0, position=position, info="1500")
        return [span.start_char / len(sample.text) for span in sample.evidence_spans]

    assert max(places("begin")) < 0.25
    assert min(places("end")) > 0.75
    middle = places("middle")
    assert 0.3 < min(middle) < max(middle) < 0.7
    both = places("bimodal")
    assert all(place < 0.2 or place > 0.8 for place in both)
    assert min(both) < 0.2 < 0.8 < max(both)
    even = places("uniform")
    assert min(even) < 0.15
    assert max(even) > 0.85


@pytest.mark.parametrize("share", [25, 50, 75])
def test_shares_are_kept(family: HoloBench, share: int) -> None:
    sample = family.sample("comparison_easy", 20_000, 0, 0, info=f"{share}%")
    main = int(str(sample.metadata["info"]))
    assert abs(main / int(str(sample.metadata["n_context_tokens"])) - share / 100) < 0.04
    fixed = [family.sample("comparison_easy", length, 0, 0, info="2k").metadata["info"] for length in (6000, 20_000)]
    assert fixed[0] == fixed[1]
    assert 1800 < int(str(fixed[0])) <= 2048
    default = family.sample("comparison_easy", 3000, 0, 0)
    assert 1100 < int(str(default.metadata["info"])) <= 1500


def test_more_rows_follow_the_query(family: HoloBench) -> None:
    for info in ("2k", "6k"):
        sample = family.sample("aggregation_medium", 16_000, 2, 0, info=info)
        counted = sum(json.loads(row)["number"] for row in sample.answers)
        assert counted == sample.metadata["n_main"]


def test_hard_others_look_the_same_but_do_not_count(family: HoloBench) -> None:
    sample = family.sample("comparison_medium", LENGTH, 0, 0, hard_aux=True, empty_share=0)
    tables = {entry.table for entry in entries_of(sample)}
    assert len(tables) == 4
    assert {table.removeprefix("former_") for table in tables} == {t for t in tables if not t.startswith("former_")}
    assert family.solve(sample) == sample.answers
    assert "former ones are a kind of their own" in sample.text


@pytest.mark.parametrize("language", ["de", "es", "zh"])
def test_other_languages(family: HoloBench, language: str) -> None:
    for task in ("comparison_hard", "aggregation_hard", "max_min_medium", "join_hard", "ranking_medium"):
        sample = family.sample(task, LengthTarget(value=30, unit="units"), 0, 0, language=language, info="6k")
        assert sample.language == language
        assert family.solve(sample) == sample.answers
        assert family.score(sample, ", ".join(sample.answers)) == 1.0


def test_questions_without_an_answer(family: HoloBench) -> None:
    for task, query in QUERIES.items():
        sample = family.sample(task, LENGTH, 0, 0, empty_share=1.0)
        assert bool(sample.metadata["empty"]) == query.can_be_empty
        if query.can_be_empty:
            assert sample.answers == family.solve(sample) == ["No answer."]
            assert family.score(sample, "No answer.") == family.score(sample, "]") == 1.0
            assert family.score(sample, "") == 0.0
            assert '"' in sample.question.split("with the keys ")[1][:3]
    empties = [
        family.sample("comparison_easy", 6000, index, 0, empty_share=0.5).metadata["empty"] for index in range(30)
    ]
    assert 5 <= sum(map(bool, empties)) <= 25


def test_questions_on_one_context_differ(family: HoloBench) -> None:
    samples = [family.sample("join_easy", LENGTH, index, 0, questions_per_context=4) for index in range(4)]
    assert len({sample.text for sample in samples}) == 1
    assert len({sample.question for sample in samples}) == 4
    with pytest.raises(KnobError, match="no 2 clear question"):
        family.sample("aggregation_medium", LENGTH, 0, 0, questions_per_context=2)


# -- models ------------------------------------------------------------------------------------------------------


def test_a_reply_with_reasoning_is_read_behind_the_mark(family: HoloBench) -> None:
    sample = family.sample("ranking_easy", LENGTH, 0, 0)
    reasoning = 'The rows are {"product": "Wrong", "stock": 1} and more.\nAnswer: [' + ", ".join(sample.answers) + "]"
    assert family.scores(sample, reasoning)["exact"] == 1.0
    free = "\n".join(
        f"{i}. " + " - ".join(str(v) for v in json.loads(row).values()) for i, row in enumerate(sample.answers, 1)
    )
    assert family.score(sample, f"Answer:\n{free}") == 1.0
    swapped = [sample.answers[1], sample.answers[0], *sample.answers[2:]]
    assert 0.5 <= family.score(sample, ", ".join(swapped)) < 1.0


def test_saying_nothing_scores_the_share_without_answer(family: HoloBench) -> None:
    for task in ("comparison_easy", "join_medium"):
        samples = [family.sample(task, 6000, index, 0, empty_share=0.3) for index in range(20)]
        empty = sum(bool(sample.metadata["empty"]) for sample in samples)
        assert sum(family.score(sample, "No answer.") for sample in samples) == empty
        assert sum(family.score(sample, "") for sample in samples) == 0


@pytest.mark.slow
def test_reading_half_the_context_hurts_aggregation_most(family: HoloBench) -> None:
    def half_reader(task: str, position: str) -> float:
        total = 0.0
        for index in range(20):
            sample = family.sample(task, 8000, index, 0, position=position, info="1k")
            lines = sample.text.splitlines()
            seen = sample.model_copy(update={"context": "\n".join(lines[: len(lines) // 2])})
            total += family.score(sample, ", ".join(family.solve(seen)))
        return total / 20

    for task in ("aggregation_easy", "max_min_easy"):
        assert half_reader(task, "begin") == 1.0
        assert half_reader(task, "end") == 0.0
    assert half_reader("aggregation_easy", "uniform") + 0.2 < half_reader("max_min_easy", "uniform")


@pytest.mark.slow
def test_the_oracle_scores_full_at_any_length() -> None:
    family = HoloBench(TokenCounter("reference", cache=False))
    for length in (32_768, 1_048_576):
        for task in ("comparison_hard", "aggregation_hard", "join_hard"):
            sample = family.sample(task, length, 1, 0)
            assert family.solve(sample) == sample.answers
            assert family.score(sample, ", ".join(sample.answers)) == 1.0
            assert 0.98 * length < int(str(sample.metadata["n_total_tokens"])) <= length


def judge(labels: object) -> tuple[Callable[[str], Awaitable[str]], list[str]]:
    asked: list[str] = []

    async def ask(prompt: str) -> str:
        asked.append(prompt)
        if len(asked) == 1:
            return json.dumps({"reasoning": "because", "answer": "the answer part"})
        return "Here: " + json.dumps(labels)

    return ask, asked


def test_a_judge_is_asked_in_two_steps(family: HoloBench) -> None:
    sample = family.sample("ranking_easy", LENGTH, 0, 0)
    n = len(sample.answers)
    labels = {str(index): "exact match" for index in range(n - 1)} | {str(n - 1): "Partial Match"}
    ask, asked = judge(labels)
    figures = asyncio.run(family.judged(sample, "reasons, then the answer part", ask))
    assert figures == {"score": (n - 0.5) / n, "unread": 0.0}
    assert "reasons, then the answer part" in asked[0]
    assert "the answer part" in asked[1]
    assert f"{n - 1}: {sample.answers[-1]}" in asked[1]
    ask, _ = judge({"0": "maybe"})
    figures = asyncio.run(family.judged(sample, "text", ask))
    assert figures == {"score": 0.0, "unread": 1.0}
    empty = family.sample("comparison_easy", LENGTH, 0, 0, empty_share=1.0)
    ask, asked = judge({"0": "Exact Match"})
    assert asyncio.run(family.judged(empty, "No answer.", ask))["score"] == 1.0
    assert "There is no right row" in asked[1]


# -- limits ------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    task=st.sampled_from(list(QUERIES)),
    length=st.integers(7000, 14_000),
    index=st.integers(0, 30),
    seed=st.integers(0, 2),
    position=st.sampled_from(["uniform", "begin", "end", "middle", "bimodal"]),
    hard=st.booleans(),
    which=st.sampled_from(["byte", "prefix"]),
)
def test_any_sample_is_solvable_and_within_its_length(
    byte_counter: TokenCounter,
    prefix_counter: TokenCounter,
    task: str,
    length: int,
    index: int,
    seed: int,
    position: str,
    hard: bool,
    which: str,
) -> None:
    counter = byte_counter if which == "byte" else prefix_counter
    knobs = {"position": position, "hard_aux": hard, "info": "3k"}
    sample = HoloBench(counter).sample(task, length, index, seed, **knobs)
    assert HoloBench(counter).solve(sample) == sample.answers
    total = counter.count(sample.text + sample.question + sample.answer_prefix) + (sample.max_new_tokens or 0)
    assert total == int(str(sample.metadata["n_total_tokens"])) - counter.template_tokens()
    assert total <= length
    for span in sample.evidence_spans:
        assert span.fact_id.rpartition(" ")[2] in sample.text[span.start_char : span.end_char]
    again = HoloBench(counter).sample(task, length, index, seed, **knobs)
    assert again.model_dump_json() == sample.model_dump_json()


def test_refusals(family: HoloBench) -> None:
    with pytest.raises(LengthTargetError, match="more than the context"):
        family.sample("join_easy", 4000, 0, 0, info="8k")
    with pytest.raises(LengthTargetError, match="raise info or the length"):
        family.sample("join_hard", 4000, 0, 0, info="100")
    with pytest.raises(KnobError, match="share such as 50%"):
        family.sample("join_easy", 4000, 0, 0, info="half")
    with pytest.raises(KnobError, match="share such as 50%"):
        family.sample("join_easy", 4000, 0, 0, info="150%")
    with pytest.raises(KnobError, match="database is one of shop"):
        family.sample("join_easy", 4000, 0, 0, database="wine")
    with pytest.raises(KnobError, match="language is one of"):
        family.sample("join_easy", 4000, 0, 0, language="xx")
    with pytest.raises(KnobError, match="position"):
        family.sample("join_easy", 4000, 0, 0, position="top")


def test_cells_and_directions(family: HoloBench) -> None:
    samples = [
        family.sample(task, length, index, 0, info="1k", position=position)
        for task in ("aggregation_easy", "max_min_easy")
        for length in (4000, 8000)
        for position in ("uniform", "begin")
        for index in range(3)
    ]
    scores = [
        1.0
        if sample.task == "max_min_easy"
        else 0.5
        if sample.length == 4000
        else 0.25
        if sample.metadata["position"] == "begin"
        else 0.0
        for sample in samples
    ]
    cells = cell_table(samples, scores, draws=50)
    assert len(cells) == 8
    first = cells[0]
    assert (first.length, first.info, first.position, first.type, first.n) == (4000, "1k", "begin", "aggregation", 3)
    assert first.mean == first.lo == first.hi == 0.5
    assert (first.empty, first.gold_rows) == (0.0, 1.0)
    found = directions(cells)
    assert found["aggregation_gap"] == pytest.approx(0.875)
    assert found["gap_grows"] == pytest.approx(0.375)
    assert found["grouping_helps"] > 0
    assert "length_matters_less" not in found
