"""LongGenBench: many questions in one prompt, all answered in order in one long reply.

Each question is easy alone and has nothing to do with the others, so what is lost against asking them one at a time is
lost by holding a long context that the model writes itself. A length is that of prompt and reply together; it decides
how many questions are asked, unless `k` does.

Source: arXiv 2410.04199; the wording and the questions made here are our own. (Another benchmark of this name asks for
long texts under constraints.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from random import Random
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from farspan.evals.generate.build import BuiltContext
from farspan.evals.generate.length import LengthTarget, LengthTargetError
from farspan.evals.generate.rng import shuffled
from farspan.evals.metrics.numbered_answers import (
    HEAD,
    choice_match,
    marked,
    numeric_match,
    split_answers,
    split_answers_official,
)
from farspan.evals.schema import EvidenceSpan, LongSample
from farspan.evals.tasks.choice_questions import solved_question
from farspan.evals.tasks.family import Ask, Family, KnobError, Knobs, Made
from farspan.evals.tasks.longgenbench_banks import READ_BANKS, Bank, BankError, ChoiceQuestions, WordProblems
from farspan.evals.tasks.word_problems import Problem, solved_problem

MADE_TASKS = ("gen_math", "gen_choice")
REPLY_ROOM = 1.3
OFFICIAL_NEW_TOKENS = 4096

WORDING = {
    "en": (
        "Several questions follow, numbered. Answer every one of them, step by step, the way the examples do. Put the "
        "mark Answer_ and the question's number before each answer and let it end with: The answer is ... Do not write "
        "the questions down again, and leave none out.\n\n",
        "Now the questions to answer:\n\n",
    ),
    "zh": (
        "下面是若干编了号的问题。请像示例那样逐步回答每一个问题。每个答案前写上 Answer_ 和问题的编号，"
        "并以“答案是……”结尾。不要重复问题，也不要遗漏任何一个。\n\n",
        "请回答以下问题：\n\n",
    ),
}


class LongGenKnobs(Knobs):
    """Knobs of LongGenBench.

    k : questions a prompt; 0 for as many as the length holds, replies included
    of : with `k` 1, ask the questions of prompts of this many one at a time: the baseline of those prompts
    order : of the questions in a prompt, by length of text; `latin` turns one pool of `k` questions by a place a
        prompt, so that every question stands at every place once
    layout : all examples and then all their answers, or each answer behind its question
    demos : worked examples; None for three of made questions, or as many as were published
    answer_only : only this question of the prompt, from 0, is to be answered; -1 for all
    missing : questions without an answer count as wrong, or not at all
    steps, distractors, language : of word problems: operations (0 for 2 to 8), idle sentences with numbers, en or zh
    choices : of made choice questions
    data_dir : folder of the published files of `gsm8k`, `mmlu` or `csqa`
    """

    k: int = Field(default=0, ge=0)
    of: int = Field(default=0, ge=0)
    order: Literal["ascending", "descending", "none", "latin"] = "ascending"
    layout: Literal["blocks", "interleaved"] = "blocks"
    demos: int | None = Field(default=None, ge=0)
    answer_only: int = Field(default=-1, ge=-1)
    missing: Literal["wrong", "drop"] = "wrong"
    steps: int = Field(default=0, ge=0, le=12)
    distractors: int = Field(default=0, ge=0)
    language: Literal["en", "zh"] = "en"
    choices: int = Field(default=4, ge=3, le=5)
    data_dir: str = ""


class Prompt(NamedTuple):
    """What a prompt says, its questions as asked, the number of the first, and where each stands in the text."""

    text: str
    questions: tuple[Problem, ...]
    start: int
    spans: tuple[tuple[int, int], ...]


def build_prompt(
    questions: Sequence[Problem],
    demos: Sequence[Problem],
    *,
    order: str = "ascending",
    layout: str = "blocks",
    language: str = "en",
) -> Prompt:
    """Instruction, worked examples and questions, numbered through; see `LongGenKnobs` for `order` and `layout`."""
    ordered = list(questions)
    if order in ("ascending", "descending"):
        ordered.sort(key=lambda problem: len(problem.text), reverse=order == "descending")
    opening, now = WORDING[language]
    asked = [f"Question_{i}: {demo.text}" for i, demo in enumerate(demos, 1)]
    told = [f"Answer_{i}: {demo.solution}" for i, demo in enumerate(demos, 1)]
    if layout == "interleaved":
        examples = [line for pair in zip(asked, told, strict=True) for line in pair]
    else:
        examples = [*asked, *told]
    text = opening + "".join(f"{line}\n\n" for line in examples) + now
    start, spans = len(demos) + 1, []
    for number, problem in enumerate(ordered, start):
        text += f"Question_{number}: "
        spans.append((len(text), len(text) + len(problem.text)))
        text += f"{problem.text}\n\n"
    return Prompt(text.removesuffix("\n"), tuple(ordered), start, tuple(spans))


class LongGenBench(Family[LongGenKnobs]):
    """The family: `gen_math` and `gen_choice` of made questions; `gsm8k`, `mmlu`, `csqa` of published ones."""

    name = "longgenbench"
    tasks = (*MADE_TASKS, *READ_BANKS)
    lengths = (2048, 4096, 8192, 16384, 32768)
    samples = 20
    knobs_model = LongGenKnobs
    stop = ("\nQuestion_",)
    instruction = ""
    skills: ClassVar[Mapping[str, str]] = dict.fromkeys(tasks, "long replies")

    def make(self, task: str, length: int | LengthTarget, context: int, seed: int, knobs: LongGenKnobs) -> Made:
        """One prompt and the question to answer all of it.

        Raises
        ------
        KnobError : knobs that do not go together.
        LengthTargetError : not one question fits, or not as many as `k` asks for.
        BankError, RowError : published files with too few questions, or of another form.
        """
        if knobs.questions_per_context > 1:
            raise KnobError(f"task '{task}' asks one question a context, not {knobs.questions_per_context}")
        if knobs.of and knobs.k != 1:
            raise KnobError(f"of={knobs.of} asks the questions of longer prompts one at a time; set k=1 with it")
        if knobs.order == "latin" and not knobs.k:
            raise KnobError("order=latin turns a pool of k questions; set k")
        bank = self._bank(task, seed, knobs)
        turn, block, place = 0, context, 0
        if knobs.order == "latin":
            block, turn = divmod(context, knobs.k)
            turn = shuffled(Random(self.seeds(task, seed, block)["placement"]), range(knobs.k))[turn]
        if knobs.of:
            block, place = divmod(context, knobs.of)
        demos = bank.examples(block, bank.demos if knobs.demos is None else knobs.demos)

        def prompt(k: int) -> Prompt:
            questions = list(bank.questions(block, k if not knobs.of else knobs.of))
            questions = questions[place : place + 1] if knobs.of else [*questions[turn:], *questions[:turn]]
            return build_prompt(questions, demos, order=knobs.order, layout=knobs.layout, language=knobs.language)

        return self._fitted(prompt, bank, length, knobs)

    def _fitted(
        self, prompt: Callable[[int], Prompt], bank: Bank, length: int | LengthTarget, knobs: LongGenKnobs
    ) -> Made:
        def made(k: int) -> Made:
            found = prompt(k)
            if knobs.answer_only >= k:
                raise KnobError(f"answer_only={knobs.answer_only} is past the last of {k} questions")
            answered = found.questions if knobs.answer_only < 0 else [found.questions[knobs.answer_only]]
            first = found.start + max(knobs.answer_only, 0)
            said = "".join(f"Answer_{first + i}: {each.solution}\n\n" for i, each in enumerate(answered))
            room = self.room([said], bank.budget * len(answered))
            room = max(room, round(REPLY_ROOM * room))
            target = self.target(length, room)
            tail = self._tail(found, first, len(answered), knobs.language)
            spans = tuple(
                EvidenceSpan(fact_id=str(found.start + i), start_char=start, end_char=end, unit_index=i)
                for i, (start, end) in enumerate(found.spans)
            )
            context_tokens = self.counter.count(found.text)
            total = self.counter.count(found.text + tail + f"Answer_{first}:") + self.template_tokens + target.reserve
            metadata = {
                "k": k,
                "first": first,
                "matcher": bank.matcher,
                "choices": bank.choices,
                "missing": knobs.missing,
                "language": knobs.language,
                "skipped": getattr(bank, "skipped", 0),
            }
            golds = tuple(each.gold for each in answered)
            ask = Ask(tail, f"Answer_{first}:", golds, None, answer_kind="ordered", metadata=metadata)
            built = BuiltContext(
                found.text, k, spans, (), context_tokens, total, self.counter.mode, "verified", total - context_tokens
            )
            return Made(target, built, (ask,), room)

        def size(found: Made) -> int:
            if found.target.unit == "chars":
                return len(found.built.text)
            return found.built.n_total_tokens if found.target.semantics == "total" else found.built.n_context_tokens

        if knobs.k or (isinstance(length, LengthTarget) and length.unit == "units"):
            found = made(knobs.k or (length.value if isinstance(length, LengthTarget) else length))
            if found.target.unit != "units" and size(found) > found.target.value:
                raise LengthTargetError(
                    f"{found.target.value} are too few for {found.built.units_kept} questions and their answers; the "
                    f"smallest feasible length is {size(found)}"
                )
            return found
        return _most(made, size)

    @staticmethod
    def _tail(prompt: Prompt, first: int, count: int, language: str) -> str:
        last = prompt.start + len(prompt.questions) - 1
        if count == 1 and last > prompt.start:
            return {"en": f"\nAnswer Question_{first} alone.\n\n", "zh": f"\n只回答 Question_{first}。\n\n"}[language]
        return {
            "en": f"\nAnswers to Question_{first} to Question_{last}:\n\n",
            "zh": f"\nQuestion_{first} 到 Question_{last} 的答案：\n\n",
        }[language]

    @staticmethod
    def _bank(task: str, seed: int, knobs: LongGenKnobs) -> Bank:
        if task in READ_BANKS:
            if not knobs.data_dir:
                raise KnobError(f"task '{task}' reads published files; name their folder with data_dir")
            return READ_BANKS[task](knobs.data_dir)
        if task == "gen_choice":
            return ChoiceQuestions(seed, knobs.choices)
        return WordProblems(seed, knobs.steps, language=knobs.language, distractors=knobs.distractors)

    def solve(self, sample: LongSample) -> list[str]:
        """The answers, from the questions in the text."""
        first, count = int(str(sample.metadata["first"])), len(sample.answers)
        lines = dict(line.removeprefix("Question_").split(": ", 1) for line in sample.text.splitlines() if ": " in line)
        solve = solved_problem if sample.task == "gen_math" else solved_question
        return [solve(lines[str(first + i)]) if str(first + i) in lines else "" for i in range(count)]

    @classmethod
    def suite(cls, data: str = "") -> Sequence[str]:
        """Made questions; published ones where their files are given."""
        return tuple(READ_BANKS) if data else MADE_TASKS

    @classmethod
    def default_tasks(cls, data: str = "") -> Sequence[str]:
        """As `suite`."""
        return cls.suite(data)

    @classmethod
    def read_published(cls, data: str, task: str) -> Iterable[LongSample]:
        """Prompts of the published size from published files; MMLU one a subject that has enough questions.

        Raises
        ------
        KnobError : a task of made questions.
        BankError, RowError : files with too few questions, or of another form.
        """
        if task not in READ_BANKS:
            raise KnobError(f"longgenbench:{task} is made, not read; published are {', '.join(READ_BANKS)}")
        bank = READ_BANKS[task](data)
        k, prompts = bank.published
        for number in range(prompts):
            found = build_prompt(bank.questions(number, k), bank.examples(number, bank.demos))
            yield LongSample(
                id=f"longgenbench/{task}/{k}/{number}",
                benchmark="longgenbench",
                task=task,
                context=found.text,
                question=cls._tail(found, found.start, k, "en"),
                answers=[problem.gold for problem in found.questions],
                answer_kind="ordered",
                answer_prefix=f"Answer_{found.start}:",
                max_new_tokens=OFFICIAL_NEW_TOKENS,
                metadata={
                    "length": len(found.text),
                    "length_unit": "chars",
                    "depth": None,
                    "task": task,
                    "shared_context_key": "",
                    "evidence_spans": [],
                    "k": k,
                    "first": found.start,
                    "matcher": bank.matcher,
                    "choices": bank.choices,
                    "missing": "wrong",
                    "stop": list(cls.stop),
                },
            )

    @classmethod
    def marks(cls, sample: LongSample, output: str) -> list[bool | None]:
        """Right or wrong for each question in the order asked; None where there is no answer."""
        texts = split_answers(_reply(sample, output), int(str(sample.metadata["first"])), len(sample.answers))
        return [
            None if text is None else _matches(sample, text, gold, "fixed")
            for text, gold in zip(texts, sample.answers, strict=True)
        ]

    @classmethod
    def scores(cls, sample: LongSample, output: str) -> dict[str, float]:
        """`score`: share of the questions answered rightly.

        `official` is the published reading, in which answers that are missing drop out; `answered` is the share with an
        answer, `duplicates` and `out_of_order` are shares of the marks, `lost_tail` the share of the prompt after its
        last answer.
        """
        marks = cls.marks(sample, output)
        answered = sum(mark is not None for mark in marks)
        counted = answered if sample.metadata["missing"] == "drop" else len(marks)
        reply = _reply(sample, output)
        numbers = [number for number, _ in marked(reply)]
        read = split_answers_official(reply)
        paired = list(zip(read, sample.answers, strict=False))
        right = sum(_matches(sample, text, gold, "official") for text, gold in paired)
        tail = next((i for i, mark in enumerate(reversed(marks)) if mark is not None), len(marks))
        backwards = sum(later < earlier for earlier, later in pairwise(numbers))
        return {
            "score": sum(mark is True for mark in marks) / counted if counted else 0.0,
            "official": right / len(paired) if paired else 0.0,
            "answered": answered / len(marks),
            "duplicates": 1 - len(set(numbers)) / len(numbers) if numbers else 0.0,
            "out_of_order": backwards / max(len(numbers) - 1, 1),
            "lost_tail": tail / len(marks),
            "no_answer": float(not answered),
        }


def _most(made: Callable[[int], Made], size: Callable[[Made], int]) -> Made:
    """The prompt with the most questions that fits its length, and that there are questions for."""
    found = made(1)
    value = found.target.value
    if size(found) > value:
        raise LengthTargetError(
            f"{value} are too few for one question and its answer; the smallest feasible length is {size(found)}"
        )
    few, many, over = 1, 0, 0
    while many != few + 1:
        if not many:
            guess = 2 * few
        elif over:
            guess = few + (many - few) * (value - size(found)) // (over - size(found))
        else:
            guess = (few + many) // 2
        guess = min(max(guess, few + 1), many - 1) if many else guess
        try:
            tried = made(guess)
        except BankError:
            many, over = guess, 0
            continue
        if size(tried) <= value:
            few, found = guess, tried
        else:
            many, over = guess, size(tried)
    return found


def _reply(sample: LongSample, output: str) -> str:
    """The reply with the mark that the prompt may have begun it with."""
    first = int(str(sample.metadata["first"]))
    if not output.strip():
        return ""
    opens = HEAD.match(output.lstrip())
    stated = any(number == first for number, _ in marked(output))
    return output if opens or stated else f"Answer_{first}: {output.lstrip()}"


def _matches(sample: LongSample, text: str, gold: str, mode: Literal["official", "fixed"]) -> bool:
    if sample.metadata["matcher"] == "numeric":
        return numeric_match(text, gold, mode)
    return choice_match(text, gold, int(str(sample.metadata["choices"])), mode)
