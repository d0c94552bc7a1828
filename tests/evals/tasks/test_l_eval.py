"""L-Eval: rows exploded into questions, answers scored both ways, cuts by words, and a judge asked in both orders."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from farspan.evals.documents import BenchmarkError, Scored, benchmark
from farspan.evals.documents.base import CONTEXT, Ask, JudgeSilent
from farspan.evals.schema import LongSample
from farspan.evals.tasks.l_eval import CLOSED, QUESTIONS, SUMMARIES, LEval, truncate_words
from farspan.evals.tasks.l_eval_baseline import Baseline
from farspan.evals.tasks.l_eval_words import judge_prompt, verdict_of
from farspan.evals.truncate import TruncationError
from tests.evals.tasks.document_rows import TEXT, write_jsonl

GOLD = {
    "tpo": ["B) the river", "A"],
    "quality": ["(C) Ada", "D"],
    "coursera": ["AC", "B"],
    "gsm100": ["18", "7"],
    "codeU": ["[1 2 3]", "42"],
    "sci_fi": ["True [fact: False]", "False [fact: False]"],
    "topic_retrieval_longchat": ["The role of sleep", "Mills", "Rivers in spring"],
}
SAID = {"tpo": ["B", "A"], "quality": ["C", "D"], "gsm100": ["The answer is 18", "The answer is 7"]}


class Spaces:
    """A token a word."""

    def __call__(self, text: str, **kwargs: object) -> dict[str, list[int]]:
        return {"input_ids": [0] * len(text.split())}


def document(name: str, *, evaluation: str = "", document: str = TEXT) -> dict[str, object]:
    outputs = GOLD.get(name, ["Ada Winter and her brother built it again.", "In 1871."])
    kind = evaluation or ("exam" if name in CLOSED else "f1" if name in QUESTIONS else "rouge")
    asked = [f"Question {place} about the mill?" for place in range(len(outputs))]
    return {"instructions": asked, "outputs": outputs, "input": document, "source": "made", "evaluation": kind}


def samples(tmp_path: Path, name: str, **options: object) -> list[LongSample]:
    rows = [document(name), document(name, document=TEXT[::-1]), document(name, evaluation="LLM")]
    write_jsonl(tmp_path / f"{name}.jsonl", rows)
    bench = benchmark("l_eval", **options)
    return list(bench.load(bench.datasets[name], tmp_path))


@pytest.mark.parametrize("name", [*CLOSED, *QUESTIONS[:1], *SUMMARIES[:1]])
def test_answers_of_people_are_perfect(name: str, tmp_path: Path) -> None:
    bench, found = LEval(), samples(tmp_path, name)
    assert len(found) == 2 * len(GOLD.get(name, "ab"))
    scored: list[Scored] = []
    for place, sample in enumerate(found):
        said = SAID.get(name, sample.answers * len(found))[place % len(GOLD.get(name, "ab"))]
        said = said if name in SAID else sample.answers[0]
        for reading in ("official", "fixed"):
            one = bench.scored(sample, said, reading)
            assert one.score == pytest.approx(1.0), (name, said, reading)
        scored.append(one)
    assert bench.table(scored, "official").value("dataset", name) == pytest.approx(100.0)


def test_the_questions_of_a_document_share_it(tmp_path: Path) -> None:
    found = samples(tmp_path, "tpo")
    keys = [sample.shared_context_key for sample in found]
    assert keys[0] == keys[1] != keys[2] == keys[3]
    for name in ("tpo", "gsm100", "financial_qa"):
        prompt = LEval().prompt(samples(tmp_path, name)[0], "fixed")
        assert prompt.user.count(CONTEXT) == 1
        assert prompt.system
    assert "about 8 words" in LEval().prompt(samples(tmp_path, "financial_qa")[0], "fixed").user
    quiet = LEval(length_instruction=False)
    assert "words" not in quiet.prompt(samples(tmp_path, "financial_qa")[0], "fixed").user


def test_rows_are_chosen_by_who_scores_them(tmp_path: Path) -> None:
    assert len(samples(tmp_path, "meeting_summ", subset="llm")) == 2
    assert not samples(tmp_path, "meeting_summ", subset="human")
    with pytest.raises(BenchmarkError, match="subset"):
        benchmark("l_eval", subset="some")


def test_the_world_is_asked_without_the_document(tmp_path: Path) -> None:
    bench, sample = LEval(), samples(tmp_path, "sci_fi")[0]
    follow = bench.followed_by(sample, "True", "fixed")
    assert follow is not None
    assert CONTEXT not in follow.user
    assert bench.joined(sample, "True", "it is False") == "True [fact: it is False]"
    assert bench.figures(sample, "True [fact: it is False]", "fixed") == {"score": 1.0, "loyalty": 1.0, "fact": 1.0}
    assert bench.followed_by(samples(tmp_path, "tpo")[0], "B", "fixed") is None


def test_the_fixed_reading_invents_no_answer(tmp_path: Path) -> None:
    bench, sample = LEval(), samples(tmp_path, "tpo")[1]
    assert sample.answers == ["A"]
    assert bench.figures(sample, "I cannot tell", "official")["score"] == 1.0
    assert bench.figures(sample, "I cannot tell", "fixed") == {"score": 0.0, "parsed": 0.0}


def test_topics_are_scored_by_their_place(tmp_path: Path) -> None:
    bench, found = LEval(), samples(tmp_path, "topic_retrieval_longchat")
    scored = [bench.scored(s, s.answers[0] if s.metadata["place"] != 2 else "no", "official") for s in found]
    table = bench.table(scored, "official")
    rows = [table.value("topic_retrieval_longchat", f"{place} topic") for place in ("first", "second", "third")]
    assert rows == [100.0, 100.0, 0.0]
    write_jsonl(tmp_path / "topic_retrieval_longchat.jsonl", [document("tpo")])
    with pytest.raises(BenchmarkError, match="2 questions, not 3"):
        list(bench.load(bench.datasets["topic_retrieval_longchat"], tmp_path))


def test_predictions_made_elsewhere_are_read() -> None:
    bench = LEval()
    rows = [{"query": "q", "gt": "B) x", "evaluation": "exam", "some_model_pred": "B"}] * 2
    (one, other) = bench.predictions(bench.datasets["tpo"], iter(rows))
    assert bench.scored(*one, "official").score == bench.scored(*other, "official").score == 1.0
    with pytest.raises(BenchmarkError, match="_pred"):
        list(bench.predictions(bench.datasets["tpo"], iter([{"gt": "A"}])))


def test_documents_are_cut_by_words_until_they_fit() -> None:
    words = [f"w{i}" for i in range(2000)]
    right = truncate_words(" ".join(words), Spaces(), 1500, side="right")  # type: ignore[arg-type]
    left = truncate_words(" ".join(words), Spaces(), 1500, side="left")  # type: ignore[arg-type]
    assert right == (" ".join(words[:1500]), 2000, 1500)
    assert left == (" ".join(words[-1500:]), 2000, 1500)
    assert truncate_words("a b", Spaces(), 5, side="right") == ("a b", 2, 2)  # type: ignore[arg-type]

    class Twice(Spaces):
        def __call__(self, text: str, **kwargs: object) -> dict[str, list[int]]:
            return {"input_ids": [0] * 2 * len(text.split())}

    cut, _, kept = truncate_words(" ".join(words), Twice(), 1000, side="right")  # type: ignore[arg-type]
    assert kept == 2 * len(cut.split()) == 1000
    with pytest.raises(TruncationError, match="no cut"):
        truncate_words("word", Twice(), 1, side="right")  # type: ignore[arg-type]


def test_a_judge_that_likes_the_first_place_gives_half(tmp_path: Path) -> None:
    sample = samples(tmp_path, "meeting_summ", subset="llm")[0]
    baseline = write_jsonl(tmp_path / "baseline.jsonl", [{"query": sample.question, "gt": "x", "base_pred": "y"}])
    bench = benchmark("l_eval", subset="llm", baseline=str(baseline))

    async def first(prompt: str) -> str:
        return "Both are fine. [[A]]"

    async def ours(prompt: str) -> str:
        return "[[A]]" if "Answer A: mine" in prompt else "[[B]]"

    async def silent(prompt: str) -> str:
        return "I would rather not say."

    async def gone(prompt: str) -> str:
        raise JudgeSilent("no reply")

    async def half_gone(prompt: str) -> str:
        if "Answer A: mine" in prompt:
            raise JudgeSilent("no reply")
        return "[[B]]"

    def asked(ask: Ask) -> dict[str, float]:
        return asyncio.run(bench.judged(sample, "mine", ask))

    both = {"verdicts": 2.0, "judge_unreadable": 0.0, "judge_silent": 0.0}
    assert asked(first) == {"score": 0.5, **both}
    assert asked(ours) == {"score": 1.0, **both}
    assert asked(silent) == {"verdicts": 0.0, "judge_unreadable": 2.0, "judge_silent": 0.0}
    assert asked(gone) == {"verdicts": 0.0, "judge_unreadable": 0.0, "judge_silent": 2.0}
    assert asked(half_gone) == {"score": 1.0, "verdicts": 1.0, "judge_unreadable": 0.0, "judge_silent": 1.0}
    with pytest.raises(BenchmarkError, match="baseline"):
        asyncio.run(benchmark("l_eval").judged(sample, "mine", first))
    assert verdict_of("first [[B]], no: [[A]]", swapped=True) == "m2"
    assert judge_prompt("q", "r", "one", "two").index("one") < judge_prompt("q", "r", "one", "two").index("two")


def test_baselines_are_found_by_question_and_reference_or_by_the_id_of_a_run(tmp_path: Path) -> None:
    one, two = samples(tmp_path, "meeting_summ", subset="llm")[:2]
    same = two.model_copy(update={"question": one.question, "answers": ["another reference"]})
    path = write_jsonl(
        tmp_path / "published.jsonl",
        [
            {"query": one.question, "gt": one.answers[0], "base_pred": "first"},
            {"query": one.question, "gt": "another reference", "base_pred": "second"},
        ],
    )
    published = Baseline(str(path))
    assert [published.of(sample) for sample in (one, same)] == ["first", "second"]
    assert published.of(one.model_copy(update={"answers": ["a third"]})) is None
    head = {"benchmark": "l_eval"}
    row = {"dataset": one.task, "id": one.id, "run": 1, "prediction": "by id", "cut": {}}
    write_jsonl(tmp_path / "predictions.jsonl", [head, row])
    run = Baseline(str(tmp_path))
    assert (run.of(one), run.of(two)) == ("by id", None)
    with pytest.raises(BenchmarkError, match="no baseline at"):
        Baseline(str(tmp_path / "nowhere"))
    write_jsonl(tmp_path / "odd.jsonl", [{"query": "x", "base_pred": "y"}, {"query": "x"}])
    with pytest.raises(BenchmarkError, match="row 1"):
        Baseline(str(tmp_path / "odd.jsonl"))


def test_only_open_sets_are_for_a_judge_and_it_needs_a_baseline() -> None:
    bench = benchmark("l_eval")
    with pytest.raises(BenchmarkError, match="none of these sets is for a judge; sets for a judge: financial_qa"):
        bench.check_judge(bench.chosen(["closed"]))
    with pytest.raises(BenchmarkError, match="baseline=FILE"):
        bench.check_judge(bench.chosen(["open"]))
    with pytest.raises(BenchmarkError, match="all of it is scored by rules"):
        benchmark("longbench").check_judge(list(benchmark("longbench").datasets.values()))
