"""LongGenBench: prompts numbered through, questions that solve as they say, replies scored for what they hold."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from farspan.evals.generate import LengthTarget, LengthTargetError, TokenCounter
from farspan.evals.metrics.numbered_answers import NumberedAnswersError
from farspan.evals.rows import RowError
from farspan.evals.schema import LongSample
from farspan.evals.tasks.choice_questions import balanced_letters, choice_question, solved_question
from farspan.evals.tasks.family import KnobError
from farspan.evals.tasks.longgenbench import MADE_TASKS, LongGenBench
from farspan.evals.tasks.longgenbench_banks import BankError, ChoiceQuestions, WordProblems
from farspan.evals.tasks.longgenbench_summary import PUBLISHED, index_effect, long_replies
from farspan.evals.tasks.word_problems import TEMPLATES, solved_problem, word_problem


@pytest.fixture(scope="module")
def family() -> LongGenBench:
    return LongGenBench(TokenCounter(lambda text: range(-(-len(text) // 4)), cache=False))


def numbers(sample: LongSample) -> list[int]:
    return [int(number) for number in re.findall(r"^Question_(\d+):", sample.text, re.MULTILINE)]


def oracle(sample: LongSample, first: int = 0, last: int = 10**6) -> str:
    start = int(str(sample.metadata["first"]))
    told = [f"Answer_{i}: The answer is {gold}." for i, gold in enumerate(sample.answers, start)]
    return "\n\n".join(told[first:last])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_stories_solve_from_their_text(language: str) -> None:
    for seed in range(500):
        problem = word_problem(Random(seed), 2 + seed % 7, language=language, distractors=seed % 4)
        assert solved_problem(problem.text) == problem.gold
        assert problem.solution.rstrip(".。").endswith(problem.gold)
        assert int(problem.gold) > 0
    assert TEMPLATES[language] >= 40


def test_choices_solve_from_their_text_and_letters_are_balanced() -> None:
    counts: Counter[str] = Counter()
    for index in range(600):
        n = 3 + index % 3
        gold = balanced_letters(Random, index, n)
        problem = choice_question(Random(index), gold, n)
        assert solved_question(problem.text) == gold
        assert problem.text.count("(") == n
    for index in range(400):
        counts[balanced_letters(Random, index)] += 1
    assert set(counts.values()) == {100}


@pytest.mark.parametrize("task", MADE_TASKS)
@pytest.mark.parametrize("length", [2048, 8192])
def test_prompts_hold_as_many_questions_as_fit(family: LongGenBench, task: str, length: int) -> None:
    sample = family.sample(task, length, 2, 3)
    k, start = int(str(sample.metadata["k"])), int(str(sample.metadata["first"]))
    assert numbers(sample) == [*range(1, start), *range(start, start + k)]
    assert k == len(sample.answers) == len(sample.evidence_spans)
    assert family.solve(sample) == sample.answers
    total = sample.metadata["n_total_tokens"]
    assert isinstance(total, int)
    assert total <= length
    with pytest.raises(LengthTargetError, match=f"too few for {k + 1} questions"):
        family.sample(task, length, 2, 3, k=k + 1)
    lengths = [span.end_char - span.start_char for span in sample.evidence_spans]
    assert lengths == sorted(lengths)
    assert family.scores(sample, oracle(sample))["score"] == 1.0


def test_more_questions_keep_those_of_fewer(family: LongGenBench) -> None:
    def asked(k: int) -> list[str]:
        sample = family.sample("gen_math", 10**6, 1, 5, k=k, order="none")
        return [sample.text[span.start_char : span.end_char] for span in sample.evidence_spans]

    assert asked(12)[:5] == asked(5)
    assert len(set(asked(12))) == 12


def test_one_question_is_the_baseline_of_its_prompt(family: LongGenBench) -> None:
    together = family.sample("gen_choice", 10**5, 1, 5, k=6, order="none")
    alone = [family.sample("gen_choice", 10**5, 6 + place, 5, k=1, of=6) for place in range(6)]
    assert [sample.answers[0] for sample in alone] == together.answers
    for sample, span in zip(alone, together.evidence_spans, strict=True):
        (own,) = sample.evidence_spans
        assert sample.text[own.start_char : own.end_char] == together.text[span.start_char : span.end_char]
        assert sample.text[: own.start_char] == together.text[: together.evidence_spans[0].start_char]
    assert alone[0].text == family.sample("gen_choice", 10**5, 1, 5, k=1, order="none").text


def test_orders_and_layouts(family: LongGenBench) -> None:
    down = family.sample("gen_math", 10**5, 0, 1, k=6, order="descending")
    lengths = [span.end_char - span.start_char for span in down.evidence_spans]
    assert lengths == sorted(lengths, reverse=True)
    mixed = family.sample("gen_math", 10**5, 0, 1, k=2, layout="interleaved").text
    assert mixed.index("Question_1:") < mixed.index("Answer_1:") < mixed.index("Question_2:")
    blocks = family.sample("gen_math", 10**5, 0, 1, k=2).text
    assert blocks.index("Question_3:") < blocks.index("Answer_1:")
    assert numbers(family.sample("gen_math", 10**5, 0, 1, k=2, demos=0)) == [1, 2]
    turns = [family.sample("gen_math", 10**5, index, 1, k=4, order="latin") for index in range(4)]
    texts = [[sample.text[s.start_char : s.end_char] for s in sample.evidence_spans] for sample in turns]
    assert all(len({row[place] for row in texts}) == 4 for place in range(4))
    assert {frozenset(row) for row in texts} == {frozenset(texts[0])}
    only = family.sample("gen_math", 10**5, 0, 1, k=5, answer_only=3)
    whole = family.sample("gen_math", 10**5, 0, 1, k=5)
    assert (only.text, only.answers) == (whole.text, whole.answers[3:4])
    assert only.answer_prefix == "Answer_7:"
    assert family.scores(only, f" {only.answers[0]}.")["score"] == 1.0
    chinese = family.sample("gen_math", 10**5, 0, 1, k=5, language="zh")
    assert family.solve(chinese) == chinese.answers
    assert family.sample("gen_math", LengthTarget(value=7, unit="units"), 0, 1).metadata["k"] == 7


def test_what_is_missing_counts(family: LongGenBench) -> None:
    sample = family.sample("gen_math", 10**5, 0, 1, k=10)
    cut = family.scores(sample, oracle(sample, last=6))
    assert (cut["score"], cut["answered"], cut["lost_tail"]) == (0.6, 0.6, 0.4)
    below = re.sub(r": The", ":\nThe", oracle(sample, last=6))
    assert family.scores(sample, below)["official"] == 1.0
    dropped = sample.model_copy(update={"metadata": {**sample.metadata, "missing": "drop"}})
    assert family.scores(dropped, oracle(sample, last=6))["score"] == 1.0
    assert family.scores(sample, "")["no_answer"] == 1.0
    # a reply that goes on behind the mark the prompt ends with
    assert family.scores(sample, oracle(sample).removeprefix(sample.answer_prefix))["score"] == 1.0
    assert family.scores(sample, "Here they are.\n\n" + oracle(sample))["score"] == 1.0
    doubled = family.scores(sample, oracle(sample) + "\n\n" + oracle(sample))
    assert (doubled["score"], doubled["duplicates"]) == (1.0, 0.5)
    assert doubled["out_of_order"] == pytest.approx(1 / 19)


def test_a_random_answerer_is_at_chance(family: LongGenBench) -> None:
    rng = Random(0)
    scores = []
    for index in range(20):
        sample = family.sample("gen_choice", 10**5, index, 1, k=20)
        start = int(str(sample.metadata["first"]))
        told = (f"Answer_{start + i}: The answer is ({rng.choice('ABCD')})." for i in range(20))
        scores.append(family.scores(sample, "\n".join(told))["score"])
    assert sum(scores) / 20 == pytest.approx(0.25, abs=0.07)


def test_refusals(family: LongGenBench, tmp_path: Path) -> None:
    with pytest.raises(LengthTargetError, match="too few for one question"):
        family.sample("gen_math", 200, 0, 1)
    with pytest.raises(KnobError, match="set k=1"):
        family.sample("gen_math", 4096, 0, 1, of=5)
    with pytest.raises(KnobError, match="set k"):
        family.sample("gen_math", 4096, 0, 1, order="latin")
    with pytest.raises(KnobError, match="past the last of 3 questions"):
        family.sample("gen_math", 10**5, 0, 1, k=3, answer_only=3)
    with pytest.raises(KnobError, match="one question a context"):
        family.sample("gen_math", 4096, 0, 1, questions_per_context=2)
    with pytest.raises(KnobError, match="name their folder with data_dir"):
        family.sample("gsm8k", 4096, 0, 1)
    with pytest.raises(RowError, match=r"train\.jsonl"):
        family.sample("gsm8k", 4096, 0, 1, data_dir=str(tmp_path))
    with pytest.raises(RowError, match="no subjects of MMLU"):
        family.sample("mmlu", 4096, 0, 1, data_dir=str(tmp_path), demos=0)


def test_examples_are_never_questions() -> None:
    for bank in (WordProblems(0, 2), ChoiceQuestions(0)):
        examples = {problem.text for prompt in range(5) for problem in bank.examples(prompt, 20)}
        questions = {problem.text for prompt in range(5) for problem in bank.questions(prompt, 60)}
        assert not examples & questions


@pytest.fixture
def published(tmp_path: Path) -> Path:
    def rows(name: str, count: int) -> None:
        lines = [
            json.dumps({"question": f"What is {i} plus 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1:,}"})
            for i in range(count)
        ]
        (tmp_path / name).write_text("\n".join(lines))

    rows("test.jsonl", 720)
    rows("train.jsonl", 9)
    for part, count in (("dev", 5), ("test", 44)):
        (tmp_path / part).mkdir()
        for subject in ("algebra", "botany"):
            with (tmp_path / part / f"{subject}_{part}.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                for i in range(count):
                    # a blank line inside a question, and a mark of an answer in one that must be left out
                    text = f"In {subject}, {part},\n\nwhich is {i}?"
                    if part == "test" and i == 0:
                        text = "Which?\nAnswer_9: none of them"
                    writer.writerow([text, i, i + 1, i + 2, i + 3, "A"])
    for name, count in (("dev_rand_split.jsonl", 90), ("train_rand_split.jsonl", 7)):
        choices = [{"label": letter, "text": f"thing {letter}"} for letter in "ABCDE"]
        lines = [
            json.dumps({"question": {"stem": f"Which is {i}?", "choices": choices}, "answerKey": "ABCDE"[i % 5]})
            for i in range(count)
        ]
        (tmp_path / name).write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize(("task", "k", "prompts"), [("gsm8k", 35, 20), ("csqa", 80, 20)])
def test_published_files_give_the_published_prompts(published: Path, task: str, k: int, prompts: int) -> None:
    samples = list(LongGenBench.read_published(str(published), task))
    assert len(samples) == prompts
    assert {len(sample.answers) for sample in samples} == {k}
    for sample in samples[:2]:
        assert numbers(sample) == list(range(1, int(str(sample.metadata["first"])) + k))
        assert LongGenBench.scores(sample, oracle(sample))["score"] == 1.0


def test_published_files_serve_other_sizes_too(family: LongGenBench, published: Path) -> None:
    sample = family.sample("mmlu", 10**5, 1, 0, k=4, data_dir=str(published), order="none")
    assert "In botany" in sample.text
    assert sample.metadata["skipped"] == 1
    assert "Answer_9" not in sample.text
    assert sample.answers == ["A"] * 4
    assert family.sample("gsm8k", 1000, 0, 0, data_dir=str(published)).metadata["matcher"] == "numeric"
    with pytest.raises(BankError, match="43 questions"):
        family.sample("mmlu", 10**5, 0, 0, k=44, data_dir=str(published))
    # as many as there are, where the length would hold more
    assert family.sample("csqa", 10**6, 0, 0, data_dir=str(published)).metadata["k"] == 90
    with pytest.raises(BankError, match="set demos lower"):
        family.sample("gsm8k", 10**5, 0, 0, k=2, demos=10, data_dir=str(published))
    with pytest.raises(KnobError, match="is made, not read"):
        list(LongGenBench.read_published(str(published), "gen_math"))
    (published / "test.jsonl").write_text('{"question": "?"}')
    with pytest.raises(RowError, match="no field 'answer'"):
        family.sample("gsm8k", 10**5, 0, 0, data_dir=str(published))


def test_replies_put_together(family: LongGenBench) -> None:
    samples = [family.sample("gen_math", 10**5, index, 2, k=10, order="none") for index in range(8)]
    found = long_replies(samples, [oracle(sample, last=6 + index % 2) for index, sample in enumerate(samples)], 1.0)
    assert found.accuracy.mean == pytest.approx(0.65)
    assert found.accuracy.lo < 0.65 < found.accuracy.hi
    assert [interval.mean for interval in found.by_index] == [1] * 6 + [0.5] + [0] * 3
    assert found.slope.hi < 0
    assert (found.delta_points, found.retention) == (pytest.approx(-35), pytest.approx(0.65))
    assert (found.answered, found.collapsed, found.effective_questions) == (pytest.approx(0.65), 1.0, 6)
    assert long_replies(samples, [oracle(sample) for sample in samples]).delta_points is None
    with pytest.raises(NumberedAnswersError, match="set k"):
        long_replies([*samples, family.sample("gen_math", 10**5, 0, 2, k=3)], [""] * 9)
    assert PUBLISHED["gsm8k"]["Llama-3-8B-Instruct"] == (79.6, 32.5)


def test_the_place_alone_is_told_from_how_hard_a_question_is(family: LongGenBench) -> None:
    samples = [family.sample("gen_math", 10**5, index, 2, k=8, order="latin") for index in range(8)]
    texts = [[s.text[span.start_char : span.end_char] for span in s.evidence_spans] for s in samples]
    hard = set(sorted(texts[0])[:4])

    def reply(number: int, fails: object) -> str:
        assert callable(fails)
        sample, start = samples[number], int(str(samples[number].metadata["first"]))
        return "\n".join(
            f"Answer_{start + place}: {0 if fails(place, texts[number][place]) else gold}"
            for place, gold in enumerate(sample.answers)
        )

    only_hard = index_effect(samples, [reply(n, lambda place, text: text in hard) for n in range(8)])
    assert all(effect.mean == pytest.approx(0) for effect in only_hard)
    only_late = index_effect(samples, [reply(n, lambda place, text: place >= 6) for n in range(8)])
    assert [effect.mean for effect in only_late] == pytest.approx([0.25] * 6 + [-0.75] * 2)
    with pytest.raises(NumberedAnswersError, match="order=latin"):
        index_effect(samples[:3], [""] * 3)
