"""Banks of questions for LongGenBench: made by us without end, or read from the published files of three benchmarks.

A bank gives the questions of a prompt and its worked examples, never one as the other. Nothing is downloaded; files
keep their published names: `test.jsonl` and `train.jsonl` of GSM8K, `test/SUBJECT_test.csv` and `dev/SUBJECT_dev.csv`
of MMLU, `dev_rand_split.jsonl` and `train_rand_split.jsonl` of CommonsenseQA.
"""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import ClassVar, Literal

from farspan.errors import FarspanError
from farspan.evals.generate.rng import derive_seed
from farspan.evals.metrics.numbered_answers import HEAD, LETTERS
from farspan.evals.rows import RowError, read_rows, required
from farspan.evals.tasks.choice_questions import balanced_letters, choice_question
from farspan.evals.tasks.word_problems import Problem, word_problem

Matcher = Literal["numeric", "choice"]
STEPS = (2, 8)


class BankError(FarspanError):
    """A bank with too few questions or examples."""


class Bank(ABC):
    """Questions with their right answers.

    matcher, choices : how an answer is matched, and among how many letters
    budget : tokens an answer may take in the published setting
    demos : worked examples that a prompt begins with, where nothing is said
    published : questions a prompt and prompts
    """

    matcher: ClassVar[Matcher]
    choices: ClassVar[int] = 0
    budget: ClassVar[int]
    demos: ClassVar[int]
    published: ClassVar[tuple[int, int]] = (0, 0)

    @abstractmethod
    def questions(self, prompt: int, k: int) -> Sequence[Problem]:
        """The first `k` questions of a prompt.

        Raises
        ------
        BankError : there are fewer.
        """

    @abstractmethod
    def examples(self, prompt: int, n: int) -> Sequence[Problem]:
        """Worked examples, none of them a question.

        Raises
        ------
        BankError : there are fewer.
        """


class MadeBank(Bank):
    """Questions that follow from a seed, as many as are wanted."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._held: dict[tuple[int, bool], list[Problem]] = {}

    @abstractmethod
    def made(self, rng: Random, place: tuple[object, ...], index: int) -> Problem:
        """Question number `index` of a place."""

    def questions(self, prompt: int, k: int) -> Sequence[Problem]:
        return self._first(prompt, k, False)

    def examples(self, prompt: int, n: int) -> Sequence[Problem]:
        return self._first(prompt, n, True)

    def _first(self, prompt: int, n: int, examples: bool) -> Sequence[Problem]:
        """The first ones, each text once; examples are other than all questions by a number of their own."""
        held = self._held.setdefault((prompt, examples), [])
        seen = {problem.text for problem in held}
        place = ("examples" if examples else "questions", prompt)
        while len(held) < n:
            attempt = 0
            while True:
                rng = Random(derive_seed(self._seed, *place, len(held), attempt))
                problem = self.made(rng, place, len(held))
                if problem.text not in seen and (derive_seed(problem.text) % 7 == 0) == examples:
                    break
                attempt += 1
            seen.add(problem.text)
            held.append(problem)
        return held[:n]


class WordProblems(MadeBank):
    """Stories over quantities; see `word_problems`.

    steps : operations of each, 0 for two to eight
    """

    matcher = "numeric"
    budget = 160
    demos = 3

    def __init__(self, seed: int, steps: int = 0, *, language: str = "en", distractors: int = 0) -> None:
        super().__init__(seed)
        self._steps, self._language, self._distractors = steps, language, distractors

    def made(self, rng: Random, place: tuple[object, ...], index: int) -> Problem:
        steps = self._steps or rng.randint(*STEPS)
        return word_problem(rng, steps, language=self._language, distractors=self._distractors)


class ChoiceQuestions(MadeBank):
    """Questions on small worlds with balanced letters; see `choice_questions`."""

    matcher = "choice"
    budget = 60
    demos = 3

    def __init__(self, seed: int, choices: int = 4) -> None:
        super().__init__(seed)
        self.choices = choices  # type: ignore[misc]

    def made(self, rng: Random, place: tuple[object, ...], index: int) -> Problem:
        letter = balanced_letters(
            lambda block: Random(derive_seed(self._seed, *place, "letters", block)), index, self.choices
        )
        return choice_question(rng, letter, self.choices)


class ReadBank(Bank):
    """Questions of published files.

    skipped : questions that hold a mark of an answer themselves and were left out
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.skipped = 0
        self._held: dict[Path, list[Problem]] = {}

    def read(self, path: Path, reader: Callable[[Path], list[Problem]]) -> list[Problem]:
        """The questions of a file without marks of answers in their text; the file is read once."""
        if path not in self._held:
            problems = reader(path)
            self._held[path] = [problem for problem in problems if not HEAD.search(problem.text)]
            self.skipped += len(problems) - len(self._held[path])
        return self._held[path]

    def block(self, problems: Sequence[Problem], start: int, k: int) -> Sequence[Problem]:
        """A run of questions.

        Raises
        ------
        BankError : it goes past the end.
        """
        if start + k > len(problems):
            raise BankError(f"{self.folder} holds {len(problems)} questions; prompts asked for those up to {start + k}")
        return problems[start : start + k]

    def first(self, problems: Sequence[Problem], n: int, file: Path) -> Sequence[Problem]:
        """The first examples.

        Raises
        ------
        BankError : there are fewer.
        """
        if len(problems) < n:
            raise BankError(f"{file} holds {len(problems)} examples, {n} were asked for; set demos lower")
        return problems[:n]


class GSM8K(ReadBank):
    """Published word problems: consecutive blocks of the test file, examples from the training file."""

    matcher = "numeric"
    budget = 160
    demos = 8
    published = (35, 20)

    def questions(self, prompt: int, k: int) -> Sequence[Problem]:
        return self.block(self.read(self.folder / "test.jsonl", _gsm8k), prompt * k, k)

    def examples(self, prompt: int, n: int) -> Sequence[Problem]:
        path = self.folder / "train.jsonl"
        return self.first(self.read(path, _gsm8k), n, path) if n else []


class MMLU(ReadBank):
    """Published choice questions: one prompt a subject with its first questions, examples of the same subject."""

    matcher = "choice"
    choices = 4
    budget = 60
    demos = 5
    published = (40, 55)

    @property
    def subjects(self) -> list[str]:
        """Subjects that there are, in order.

        Raises
        ------
        RowError : none.
        """
        found = sorted(path.name.removesuffix("_test.csv") for path in (self.folder / "test").glob("*_test.csv"))
        if not found:
            raise RowError(f"no subjects of MMLU: no file {self.folder / 'test' / 'SUBJECT_test.csv'}")
        return found

    def questions(self, prompt: int, k: int) -> Sequence[Problem]:
        subjects = self.subjects
        subject = subjects[prompt % len(subjects)]
        path = self.folder / "test" / f"{subject}_test.csv"
        return self.block(self.read(path, _mmlu), prompt // len(subjects) * k, k)

    def examples(self, prompt: int, n: int) -> Sequence[Problem]:
        subjects = self.subjects
        path = self.folder / "dev" / f"{subjects[prompt % len(subjects)]}_dev.csv"
        return self.first(self.read(path, _mmlu), n, path) if n else []


class CommonsenseQA(ReadBank):
    """Published choice questions with five choices: consecutive blocks of the development file."""

    matcher = "choice"
    choices = 5
    budget = 60
    demos = 7
    published = (80, 20)

    def questions(self, prompt: int, k: int) -> Sequence[Problem]:
        found = self.read(self.folder / "dev_rand_split.jsonl", _csqa)
        # the published twenty prompts of eighty ask for more than there are: blocks go on from the start
        return self.block(found, prompt * k % max(len(found) - k + 1, 1), k)

    def examples(self, prompt: int, n: int) -> Sequence[Problem]:
        path = self.folder / "train_rand_split.jsonl"
        return self.first(self.read(path, _csqa), n, path) if n else []


def _gsm8k(path: Path) -> list[Problem]:
    found = []
    for number, row in enumerate(read_rows(path)):
        text, answer = (str(required(row, field, path=path, row_number=number)) for field in ("question", "answer"))
        way, _, gold = answer.rpartition("####")
        found.append(Problem(text.strip(), gold.strip(), f"{way.strip()} The answer is {gold.strip()}."))
    return found


def _mmlu(path: Path) -> list[Problem]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RowError(f"cannot read {path}: {error}") from error
    for number, row in enumerate(rows):
        if len(row) != 6 or row[5].strip() not in LETTERS[:4]:
            raise RowError(f"{path}, row {number} is not a question, four choices and a letter from A to D")
    return [_lettered(row[0], row[1:5], row[5].strip()) for row in rows]


def _csqa(path: Path) -> list[Problem]:
    found = []
    for number, row in enumerate(read_rows(path)):
        need = partial(required, row, path=path, row_number=number)
        question, gold = need("question"), str(need("answerKey"))
        try:
            choices = {str(choice["label"]): str(choice["text"]) for choice in question["choices"]}  # type: ignore[index]
            stem = str(question["stem"])  # type: ignore[index]
        except (KeyError, TypeError) as error:
            raise RowError(f"{path}, row {number} has no stem and labelled choices: {error!r}") from error
        if list(choices) != list(LETTERS[:5]) or gold not in choices:
            raise RowError(f"{path}, row {number}: choices must be A to E, and one of them the key")
        found.append(_lettered(stem, list(choices.values()), gold))
    return found


def _lettered(text: str, choices: Sequence[str], gold: str) -> Problem:
    listed = " ".join(f"({letter}) {choice.strip()}" for letter, choice in zip(LETTERS, choices, strict=False))
    return Problem(f"{text.strip()} {listed}", gold, f"The answer is ({gold}).")


READ_BANKS: dict[str, type[ReadBank]] = {"gsm8k": GSM8K, "mmlu": MMLU, "csqa": CommonsenseQA}
