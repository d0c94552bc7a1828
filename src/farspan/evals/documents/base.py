"""The interface of document benchmarks: published questions on published documents, scored as published.

A benchmark says which files it has, turns their rows into samples, words a prompt, and scores and averages. Reading
files, cutting what is too long, asking a model and writing tables are the same for all and stand beside this file.

Two readings go through everything. `official` repeats the published code to the digit, oddities included; `fixed` is
what that code should have done. Which one a score comes from is always said.
"""

from __future__ import annotations

import difflib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from farspan.errors import FarspanError
from farspan.evals.documents.kinds import prediction_kinds
from farspan.evals.documents.scored import Row, Scored, Table, grouped, mean_percent, mean_row
from farspan.evals.schema import LongSample, text_sha256
from farspan.evals.sources import DataFile
from farspan.evals.tasks import DOCUMENTS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from farspan.evals.truncate import FittedPrompt

Reading = Literal["official", "fixed"]
Ask = Callable[[str], Awaitable[str]]

CONTEXT = "{context}"


class JudgeSilent(FarspanError):
    """A judge that gave no reply to a prompt; says why. Counted, and never taken for a verdict."""


class BenchmarkError(FarspanError):
    """A benchmark, data set or setting that does not exist; names close ones."""


class Options(BaseModel):
    """Switches of a benchmark beside its sets; a benchmark that has some derives its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Dataset:
    """One set of questions of a benchmark.

    name : as in the published files
    file : where its rows are
    category, language, metric : as published
    max_new_tokens : published limit of an answer
    member : name inside the file where that is an archive
    chat : whether its prompts go through a chat template; else a model continues the raw text
    level : length level where the set has one, such as `16k`
    """

    name: str
    file: DataFile
    category: str
    language: str
    metric: str
    max_new_tokens: int
    member: str | None = None
    chat: bool = True
    level: str = ""


@dataclass(frozen=True)
class Prompt:
    """What is asked, `{context}` standing once where the document goes, or nowhere if it is not shown.

    system : a system message, empty for none
    user : the user's text, or the raw text to continue where `chat` is false
    """

    user: str
    system: str = ""
    chat: bool = True


class DocumentBenchmark(ABC):
    """Base of the document benchmarks; a benchmark is one subclass.

    Class attributes
    ----------------
    name, title : in the table of tasks, and for people
    datasets : its sets by name
    default_datasets : those a run takes where none is named
    truncation : the published rule for prompts that are too long
    runs : answers asked for each question where nobody says
    temperature : of the published runs
    options_model : the frozen model of its switches, which are what it is made with
    judge_options : switches that only a judge needs, so that answers do not depend on them
    judge_says : what a judge's score means, for people
    judge_pools : verdicts of all sets have one mean

    Raises
    ------
    BenchmarkError : an unknown switch, or a value it cannot have.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    datasets: ClassVar[Mapping[str, Dataset]]
    default_datasets: ClassVar[tuple[str, ...]] = ()
    truncation: ClassVar[str]
    runs: ClassVar[int] = 1
    temperature: ClassVar[float] = 0.0
    options_model: ClassVar[type[Options]] = Options
    judge_options: ClassVar[tuple[str, ...]] = ()
    judge_says: ClassVar[str] = ""
    judge_pools: ClassVar[bool] = False
    options: Options = Options()

    def __init__(self, **options: object) -> None:
        try:
            self.options = self.options_model.model_validate(options)
        except ValidationError as error:
            problem = error.errors()[0]
            known = ", ".join(self.options_model.model_fields) or "none"
            raise BenchmarkError(
                f"{self.name}, option '{'.'.join(map(str, problem['loc']))}': {problem['msg']}; options: {known}"
            ) from error

    @property
    def switches(self) -> dict[str, object]:
        """How it is set, for records."""
        own = {name: value for name, value in vars(self).items() if isinstance(value, bool | int | float | str)}
        return {**self.options.model_dump(mode="json"), **own}

    def chosen(self, names: Sequence[str]) -> list[Dataset]:
        """The sets of these names; `all` for every one, the default ones where empty.

        Raises
        ------
        BenchmarkError : an unknown name.
        """
        if list(names) == ["all"]:
            return list(self.datasets.values())
        for name in names:
            if name not in self.datasets:
                raise BenchmarkError(f"{self.name} has no set '{name}'; {suggestion(name, list(self.datasets))}")
        return [self.datasets[name] for name in names or self.default_datasets or self.datasets]

    @abstractmethod
    def samples(self, dataset: Dataset, rows: Iterator[Mapping[str, object]]) -> Iterator[LongSample]:
        """The samples of a set's rows; see `sample_of`."""

    @abstractmethod
    def rows(self, dataset: Dataset, data_dir: str | Path | None) -> Iterator[Mapping[str, object]]:
        """The published rows of a set."""

    @abstractmethod
    def prompt(self, sample: LongSample, reading: Reading) -> Prompt:
        """What is asked; must put neither document nor question through `str.format`, since both may hold braces."""

    def slots(self, sample: LongSample) -> Mapping[str, str]:
        """Texts that a user's own prompt may name beside `{context}`."""
        return {"input": sample.question, "question": sample.question}

    @abstractmethod
    def figures(self, sample: LongSample, prediction: str, reading: Reading) -> dict[str, float]:
        """Scores of a prediction, `score` among them.

        A metric that cannot be computed raises ValueError; `scored` counts that and takes 0.
        """

    @abstractmethod
    def table(self, scored: Sequence[Scored], reading: Reading) -> Table:
        """The published averages of a run."""

    def load(self, dataset: Dataset, data_dir: str | Path | None = None) -> Iterator[LongSample]:
        """The samples of a set, read as they are asked for."""
        return self.samples(dataset, self.rows(dataset, data_dir))

    def predictions(self, dataset: Dataset, rows: Iterator[Mapping[str, object]]) -> Iterator[tuple[LongSample, str]]:
        """Samples without documents, and predictions, out of a file of the published form.

        Raises
        ------
        BenchmarkError : the benchmark publishes no such form.
        """
        raise BenchmarkError(f"{self.name} has no published form of predictions")

    def official_fit(
        self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, context: str, window: int, new_tokens: int
    ) -> FittedPrompt | None:
        """The prompt cut by a published rule of the benchmark's own; None where `truncation` names the rule."""
        return None

    def followed_by(self, sample: LongSample, prediction: str, reading: Reading) -> Prompt | None:
        """A second question after an answer, None where there is none."""
        return None

    def joined(self, sample: LongSample, first: str, second: str) -> str:
        """The prediction of two answers."""
        return first

    def official_limit(self, window: int) -> int:
        """Tokens of the raw prompt that the published code allows a model with this window."""
        return window - 500

    def files(self, dataset: Dataset) -> tuple[DataFile, ...]:
        """Where the rows of a set may be; the first of these that is there is read."""
        return (dataset.file,)

    def judges(self, dataset: Dataset) -> bool:
        """Whether answers of a set are for a judge to read."""
        return False

    def check_judge(self, datasets: Sequence[Dataset]) -> None:
        """Make sure that a judge would have something to read, before anything is asked.

        Raises
        ------
        BenchmarkError : no set is for a judge, or what a judge compares with is missing.
        """
        if not any(map(self.judges, datasets)):
            open_sets = [name for name, dataset in self.datasets.items() if self.judges(dataset)]
            known = f"sets for a judge: {', '.join(open_sets)}" if open_sets else "all of it is scored by rules"
            raise BenchmarkError(f"{self.name}: none of these sets is for a judge; {known}")

    def judge_identity(self) -> Mapping[str, str]:
        """What decides a judge's verdicts beside judge, question and answer, for records."""
        return {}

    async def judged(
        self, sample: LongSample, prediction: str, ask: Ask, reading: Reading = "fixed"
    ) -> dict[str, float]:
        """Figures by a judge, a model that `ask` sends a prompt.

        Returns
        -------
        `score` in [0, 1], left out where there is no verdict; `verdicts`, what `score` is a mean of; `judge_unreadable`
        and `judge_silent`, replies that say nothing readable and prompts without a reply.

        Raises
        ------
        BenchmarkError : the benchmark needs no judge.
        """
        raise BenchmarkError(f"{self.name} is scored by rules; it has no questions for a judge")

    def scored(self, sample: LongSample, prediction: str, reading: Reading, *, run: int = 1) -> Scored:
        """Score a prediction; trouble is counted and never swallowed."""
        problems = list(prediction_kinds(prediction, sample.language))
        try:
            figures = self.figures(sample, prediction, reading)
        except (ValueError, ZeroDivisionError, IndexError) as error:
            figures = {"score": 0.0}
            problems.append(f"metric_error: {type(error).__name__}")
        return Scored(sample, prediction, figures, tuple(problems), run=run)


def sample_of(
    benchmark: str,
    dataset: Dataset,
    row_id: str,
    *,
    context: str,
    question: str,
    answers: Sequence[str],
    length: int = 0,
    length_unit: str = "words",
    length_level: str = "",
    raw: Mapping[str, object] | None = None,
    **fields: object,
) -> LongSample:
    """A sample with what every document benchmark records.

    length, length_unit : the published length and what it counts
    length_level : its bucket
    raw : fields of the row that nothing here reads
    fields : further fields of `LongSample`; `metadata` is merged
    """
    extra = fields.pop("metadata", {})
    assert isinstance(extra, Mapping)
    metadata = {
        "length": length,
        "length_unit": length_unit,
        "length_level": length_level or dataset.level,
        "category": dataset.category,
        "task": dataset.name,
        "shared_context_key": text_sha256(context)[:16] if context else row_id,
        "raw": dict(raw or {}),
        **extra,
    }
    return LongSample.model_validate(
        {
            "id": row_id,
            "benchmark": benchmark,
            "task": dataset.name,
            "language": dataset.language,
            "context": context,
            "question": question,
            "answers": list(answers),
            "max_new_tokens": dataset.max_new_tokens,
            "metadata": metadata,
            **fields,
        }
    )


async def heard_verdict(ask: Ask, prompt: str) -> str | None:
    """A judge's reply, None where there is none."""
    try:
        return await ask(prompt)
    except JudgeSilent:
        return None


def text_field(row: Mapping[str, object], name: str, default: str | None = None) -> str:
    """A field of a row that holds text; a list of texts is joined by line breaks.

    Raises
    ------
    BenchmarkError : it is missing and has no default.
    """
    value = row.get(name, default)
    if isinstance(value, list):
        return "\n".join(map(str, value))
    if value is None:
        if default is not None:
            return default
        raise BenchmarkError(f"a row has no '{name}', only: {', '.join(row)}")
    return str(value)


def list_field(row: Mapping[str, object], name: str) -> list[str]:
    """A field of a row that holds a list of texts; a single text is a list of one, a missing one is empty."""
    value = row.get(name)
    if value is None:
        return []
    return [str(part) for part in value] if isinstance(value, list) else [str(value)]


def suggestion(name: str, known: Sequence[str]) -> str:
    """Close names, or all."""
    if close := difflib.get_close_matches(name, known, n=3, cutoff=0.4):
        return f"did you mean {', '.join(close)}?"
    return f"known: {', '.join(known)}"


def benchmark(name: str, **options: object) -> DocumentBenchmark:
    """The benchmark of this name in the table, with its switches.

    Raises
    ------
    BenchmarkError : there is none, or a switch is wrong.
    """
    key = name.replace("-", "_")
    if key not in DOCUMENTS:
        raise BenchmarkError(f"unknown document benchmark '{name}'; {suggestion(key, list(DOCUMENTS))}")
    module, _, attribute = DOCUMENTS[key].partition(":")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BenchmarkError(f"document benchmark '{key}' cannot be imported: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, DocumentBenchmark)):
        raise BenchmarkError(f"document benchmark '{key}' at {DOCUMENTS[key]} is not derived from DocumentBenchmark")
    return kind(**options)


__all__ = [
    "CONTEXT",
    "Ask",
    "BenchmarkError",
    "Dataset",
    "DocumentBenchmark",
    "JudgeSilent",
    "Options",
    "Prompt",
    "Reading",
    "Row",
    "Scored",
    "Table",
    "benchmark",
    "grouped",
    "heard_verdict",
    "list_field",
    "mean_percent",
    "mean_row",
    "sample_of",
    "suggestion",
    "text_field",
]
