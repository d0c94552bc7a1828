"""LooGLE: both layouts give the same questions, figures by kind of question, and data that is never run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from farspan.evals.documents import BenchmarkError, benchmark
from farspan.evals.documents.base import CONTEXT, JudgeSilent
from farspan.evals.schema import LongSample
from farspan.evals.tasks.loogle import LooGLE, evidence_scope, judge_prompt, judged, number_match
from tests.evals.tasks.document_rows import TEXT, write_jsonl, write_zip

LONG = [
    {"Q": "How many years passed?", "A": "12 years", "S": ["The mill", "Ada Winter"], "type": "computation"},
    {"Q": "Put in order: 1. fire 2. rebuilding 3. flood", "A": "3,1,2", "S": [], "type": "timeline_reorder"},
    {"Q": "Who?\n1. Ada\n2. Ben\n3. Cid", "A": "1", "S": ["Ada"], "type": "comprehension_and_reasoning"},
    {"Q": "Why?", "A": "The mill had burned down", "S": ["burned"], "type": "something new"},
]
MASKS = {"<mask-0>": "Ada Winter", "<mask-1>": "Oslo"}


def old(pairs: object, output: str = "none") -> dict[str, object]:
    return {
        "input": TEXT,
        "title": "Mill",
        "qa_pairs": pairs if isinstance(pairs, str) else repr(pairs),
        "output": output,
    }


def loaded(folder: Path, name: str) -> list[LongSample]:
    bench = LooGLE()
    return list(bench.load(bench.datasets[name], folder))


def test_both_layouts_give_the_same_questions(tmp_path: Path) -> None:
    write_zip(tmp_path / "old" / "data.zip", "longdep_qa.jsonl", [old(LONG)])
    newer = [
        {"id": str(i), "doc_id": "d", "title": "Mill", "context": TEXT, "question": p["Q"], "answer": p["A"]}
        | {"evidence": p["S"], "type": p["type"]}
        for i, p in enumerate(LONG)
    ]
    write_jsonl(tmp_path / "new" / "bigai-nlco__LooGLE" / "longdep_qa.jsonl", newer)
    one, other = (
        [s.model_copy(update={"id": ""}) for s in loaded(tmp_path / layout, "longdep_qa")] for layout in ("old", "new")
    )
    assert one == other
    assert [sample.metadata["type"] for sample in one] == [
        "computation", "timeline_reorder", "comprehension_and_reasoning", "other"
    ]  # fmt: skip
    assert len({sample.shared_context_key for sample in one}) == 1


def test_each_kind_of_question_has_its_own_fixed_score(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "longdep_qa.jsonl", [old(LONG)])
    bench, found = LooGLE(), loaded(tmp_path, "longdep_qa")
    said = ["It took 12.", "The order is III, I, II.", "Option 1", "the mill had burned down"]
    fixed = [bench.scored(sample, text, "fixed") for sample, text in zip(found, said, strict=True)]
    assert [one.score for one in fixed] == [1.0, 1.0, 1.0, 1.0]
    assert fixed[1].figures["reorder_exact"] == 1.0
    assert bench.scored(found[1], "1, 2", "fixed").score == 0.0
    official = bench.scored(found[0], "It took 12.", "official").figures
    assert official["score"] == official["f1"] < 1.0
    assert bench.scored(found[3], "", "official").figures["rouge-l recall"] == 0.0
    assert bench.scored(found[3], "...", "official").problems == ()
    table = bench.table(fixed, "fixed")
    assert table.value("type", "computation") == 100.0
    assert any("1 long questions have a type" in note for note in table.notes)


def test_masks_are_counted_over_all_questions(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "shortdep_cloze.jsonl", [old([{"Q": "<mask-0> went", "A": MASKS, "S": "x"}] * 2)])
    bench, found = LooGLE(), loaded(tmp_path, "shortdep_cloze")
    assert found[0].answer_kind == "mapping"
    scored = [
        bench.scored(found[0], repr(MASKS), "official"),
        bench.scored(found[1], f"It is {MASKS!r}", "official"),
    ]
    assert bench.table(scored, "official").value("shortdep_cloze", "exact") == 50.0
    assert bench.scored(found[1], f"It is {MASKS!r}", "fixed").score == 1.0
    assert "<mask-0>" in bench.prompt(found[0], "fixed").user


def test_summaries_and_short_questions(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "longdep_summarization.jsonl", [old("none", TEXT[:80])])
    write_jsonl(tmp_path / "shortdep_qa.jsonl", [old([{"Q": "Who?", "A": "Ada Winter", "S": "Ada Winter built"}])])
    bench = LooGLE()
    (summary,), (short,) = loaded(tmp_path, "longdep_summarization"), loaded(tmp_path, "shortdep_qa")
    assert summary.question == ""
    scored = [bench.scored(s, s.answers[0], "fixed") for s in (summary, short)]
    table = bench.table(scored, "fixed")
    assert table.value("dependency", "short minus long") == 0.0
    for sample in (summary, short):
        assert bench.prompt(sample, "fixed").user.count(CONTEXT) == 1


def test_data_is_read_and_never_run(tmp_path: Path) -> None:
    for bad in ("[{'Q': __import__('os').getcwd()}]", "{'Q': 1}", "[1, 2]"):
        write_jsonl(tmp_path / "shortdep_qa.jsonl", [old(bad)])
        with pytest.raises(BenchmarkError, match="no list of questions"):
            loaded(tmp_path, "shortdep_qa")


def test_how_far_evidence_is_spread() -> None:
    text = "first fact. " + "x" * 400 + " second  fact."
    scope = evidence_scope(text, ["First fact.", "second fact"])
    assert scope is not None
    assert 0.9 < scope < 1.0
    assert evidence_scope(text, ["first fact"]) is None
    assert evidence_scope(text, ["nowhere", "neither"]) is None


def test_numbers_are_compared_by_value() -> None:
    assert number_match("1,200 tons", "from 3 it grew to 1200.") == 1.0
    assert number_match("1,200 tons", "1200 in 1900") == 0.0
    assert number_match("many", "12") == number_match("12", "many") == 0.0


def test_a_judge_is_read_by_its_first_word(tmp_path: Path) -> None:
    assert [judged(reply) for reply in ("True.", " False", "maybe", "")] == [True, False, None, None]
    write_jsonl(tmp_path / "shortdep_qa.jsonl", [old([{"Q": "Who?", "A": "Ada", "S": "x"}])])
    (sample,) = loaded(tmp_path, "shortdep_qa")
    replies = iter(["True.", "maybe", "maybe"])

    async def ask(prompt: str) -> str:
        assert prompt == judge_prompt("shortdep_qa", "Who?", "Ada", "It was Ada.")
        return next(replies)

    bench = benchmark("loogle")
    asked = [asyncio.run(bench.judged(sample, "It was Ada.", ask)) for _ in range(2)]
    asked.append(asyncio.run(bench.judged(sample, "It was Ada.", ask, "official")))
    heard = {"verdicts": 1.0, "judge_silent": 0.0}
    assert asked == [
        {"score": 1.0, "judge_unreadable": 0.0, **heard},
        {"score": 0.0, "judge_unreadable": 1.0, **heard},
        {"verdicts": 0.0, "judge_unreadable": 1.0, "judge_silent": 0.0},
    ]

    async def marks(prompt: str) -> str:
        return "83 of 100"

    summary = sample.model_copy(update={"task": "longdep_summarization"})
    assert asyncio.run(bench.judged(summary, "x", marks))["score"] == 0.83

    async def gone(prompt: str) -> str:
        raise JudgeSilent("no reply")

    assert asyncio.run(bench.judged(summary, "x", gone)) == {
        "verdicts": 0.0,
        "judge_unreadable": 0.0,
        "judge_silent": 1.0,
    }
    assert [bench.judges(dataset) for dataset in bench.datasets.values()] == [True, False, True, True]


def test_predictions_made_elsewhere_are_read(tmp_path: Path) -> None:
    bench = benchmark("loogle")
    pairs = [{"Q": "Who?", "A": "Ada Winter", "S": "x"}, {"Q": "Where?", "A": "Oslo", "S": "y"}]
    rows: list[dict[str, object]] = [
        {"qa_pairs": pairs, "llm_output": ["Ada Winter", ""], "output": ["Ada Winter", "Oslo"]}
    ]
    found = list(bench.predictions(bench.datasets["shortdep_qa"], iter(rows)))
    assert [(sample.question, sample.answers, said) for sample, said in found] == [
        ("Who?", ["Ada Winter"], "Ada Winter"),
        ("Where?", ["Oslo"], ""),
    ]
    paper: dict[str, object] = {"qa_pairs": "none", "llm_output": ["Mills burn."], "output": ["A mill burned."]}
    ((sample, said),) = bench.predictions(bench.datasets["longdep_summarization"], iter([paper]))
    assert (sample.question, sample.answers, said) == ("", ["A mill burned."], "Mills burn.")
    for wrong, message in (({**rows[0], "llm_output": ["one"]}, "2 questions, 1 answers"), ({}, "no lists")):
        with pytest.raises(BenchmarkError, match=message):
            list(bench.predictions(bench.datasets["shortdep_qa"], iter([wrong])))
