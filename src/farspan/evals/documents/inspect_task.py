"""Every document benchmark as an Inspect task: `inspect eval farspan/longbench --model M -T data_dir=DIR`.

Documents are put into the conversation when a question is asked and taken out of the log afterwards. Scores, prompts
and cutting are those of a run by `farspan eval`; a judge is the model of the role `judge`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from inspect_ai import Epochs, Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessage, ChatMessageSystem, ChatMessageUser, GenerateConfig, get_model
from inspect_ai.scorer import (
    Metric,
    SampleScore,
    Score,
    Scorer,
    Target,
    Value,
    grouped,
    mean,
    metric,
    scorer,
    stderr,
)
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.util import LimitExceededError

from farspan.evals.documents.asking import Asked, Fitter, PromptFile, Template, load_tokenizer
from farspan.evals.documents.base import BenchmarkError, DocumentBenchmark, JudgeSilent, Reading, Scored, benchmark
from farspan.evals.documents.store import DocumentSource
from farspan.evals.inspect_tasks import _forget, _shortened, digest, listed, local_tokenizer
from farspan.evals.judge import ROLE
from farspan.evals.schema import LongSample

Listed = str | Sequence[str]


def document_inspect_task(
    name: str,
    *,
    datasets: Listed = "",
    official: bool = False,
    data_dir: str = "",
    limit_per_set: int | None = None,
    window: int | None = None,
    truncate: bool = True,
    template: Template = "auto",
    prompts: str = "",
    tokenizer: str = "",
    runs: int | None = None,
    judge: bool = False,
    **options: object,
) -> Task:
    """An Inspect task of one benchmark.

    Parameters
    ----------
    name : in the table of document benchmarks
    datasets : sets, or the benchmark's names for several of them; empty for its default
    official : repeat the published code, oddities included
    data_dir : folder with the published files; empty looks in FARSPAN_DATA and on the hub
    limit_per_set : questions of each set, the first ones
    window : tokens of prompt and answer together; empty cuts nothing
    truncate : false leaves out questions that do not fit the window
    template : what a local model's chat template is used for; other providers apply theirs to everything
    prompts : file with the user's own prompts
    tokenizer : counts and cuts; empty takes that of the evaluated model if it is local
    runs : answers a question; the benchmark's own where left out
    judge : ask the model of the role `judge` too
    options : the benchmark's switches

    Raises
    ------
    FarspanError : unknown names, missing data, or a window without a tokenizer to measure it with.
    """
    counted_by = tokenizer or (local_tokenizer() if window else "")
    if window and not counted_by:
        raise BenchmarkError("a window needs a tokenizer to measure prompts with; give -T tokenizer=FOLDER_OR_NAME")
    made = benchmark(name, **options)
    source = DocumentSource(made, data_dir, limit_per_set)
    chosen = made.chosen([str(one) for one in listed(datasets)])
    Fitter(made, "official" if official else "fixed", None, window, truncate).check(chosen)
    if judge:
        made.check_judge(chosen)
    rows = [_row(sample) for dataset in chosen for sample in source.samples(dataset.name)]
    settings: dict[str, object] = {
        "name": made.name,
        "official": official,
        "data_dir": data_dir,
        "limit_per_set": limit_per_set,
        "window": window,
        "truncate": truncate,
        "template": template,
        "prompts": prompts,
        "tokenizer": counted_by,
        "options": options,
    }
    found = document_score(made.name, official, options)
    return Task(
        dataset=MemoryDataset(rows, name=f"farspan/{made.name}"),
        solver=read_document(**settings),  # type: ignore[arg-type]
        scorer=[found, document_judge(made.name, options, official)] if judge else found,
        epochs=Epochs(runs or made.runs, ["mean", "max"]) if (runs or made.runs) > 1 else None,
        config=GenerateConfig(temperature=made.temperature),
        name=made.name,
        metadata={**settings, "reading": "official" if official else "fixed", "switches": made.switches},
    )


def document_task(name: str) -> Callable[..., Task]:
    """Register the Inspect task of one benchmark under its own name."""

    @task(name=name)
    def run(
        datasets: Listed = "",
        official: bool = False,
        data_dir: str = "",
        limit_per_set: int | None = None,
        window: int | None = None,
        truncate: bool = True,
        template: Template = "auto",
        prompts: str = "",
        tokenizer: str = "",
        runs: int | None = None,
        judge: bool = False,
        **options: object,
    ) -> Task:
        return document_inspect_task(
            name,
            datasets=datasets,
            official=official,
            data_dir=data_dir,
            limit_per_set=limit_per_set,
            window=window,
            truncate=truncate,
            template=template,
            prompts=prompts,
            tokenizer=tokenizer,
            runs=runs,
            judge=judge,
            **options,
        )

    return run


@solver
def read_document(
    name: str,
    official: bool = False,
    data_dir: str = "",
    limit_per_set: int | None = None,
    window: int | None = None,
    truncate: bool = True,
    template: Literal["auto", "on", "off"] = "auto",
    prompts: str = "",
    tokenizer: str = "",
    options: dict[str, object] | None = None,
) -> Solver:
    """Ask the question on its document, a second one where the benchmark has it, and take the document out of the log.

    The prediction stands in the metadata, with what was cut.
    """
    made = benchmark(name, **(options or {}))
    source = DocumentSource(made, data_dir, limit_per_set)
    reading: Reading = "official" if official else "fixed"
    fitter = Fitter(
        made,
        reading,
        load_tokenizer(tokenizer) if window and tokenizer else None,
        window,
        truncate,
        PromptFile(prompts) if prompts else None,
        template,
    )

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        sample = source.sample(str(state.metadata["task"]), str(state.metadata["sample"]["id"]))
        asked = fitter.asked(sample)
        # a provider puts its template around everything; this says where the published runs have none
        state.metadata |= {"cut": dict(asked.cut), "published_with_template": asked.chat}
        if asked.too_long:
            state.metadata["skipped"] = True
            state.completed = True
            return state
        state = await _asked(state, generate, asked)
        prediction = state.output.completion
        follow = made.followed_by(sample, prediction, reading)
        if follow is not None:
            first = prediction
            state = await _asked(state, generate, fitter.asked(sample, follow))
            prediction = made.joined(sample, first, state.output.completion)
            state.metadata["answers"] = [first, state.output.completion]
        state.metadata["prediction"] = prediction
        return state

    return solve


async def _asked(state: TaskState, generate: Generate, asked: Asked) -> TaskState:
    messages: list[ChatMessage] = [ChatMessageUser(content=asked.user)]
    if asked.system:
        messages.insert(0, ChatMessageSystem(content=asked.system))
    state.messages = messages
    state = await generate(state, max_tokens=asked.max_new_tokens)
    short = digest(asked.user)
    state.messages = [_shortened(message, asked.user, short) for message in state.messages]
    _forget(asked.user, short)
    return state


@metric
def published_averages(name: str, official: bool = False, options: dict[str, object] | None = None) -> Metric:
    """The averages the benchmark publishes, and how many answers have which trouble; over single answers."""

    def averages(scores: list[SampleScore]) -> Value:
        made = benchmark(name, **(options or {}))
        scored = [_scored(one.score) for one in scores if one.score.metadata and "figures" in one.score.metadata]
        table = made.table(scored, "official" if official else "fixed")
        found: dict[str, str | int | float | bool | None] = {
            f"{row.group} {row.name}": row.value for row in table.rows if row.value is not None
        }
        counts = Counter(problem for one in scored for problem in one.problems)
        return {**found, **{f"answers {problem}": count for problem, count in counts.items()}}

    return averages


def document_score(name: str, official: bool = False, options: dict[str, object] | None = None) -> Scorer:
    """The benchmark's score by rules; its other figures and the trouble of an answer stand in the score's metadata."""

    @scorer(
        name="document_score",
        metrics=[
            mean(),
            stderr(cluster="shared_context_key"),
            grouped(mean(), "task", all=False, name_template="task {group_name}"),
            grouped(mean(), "length_level", all=False, name_template="length {group_name}"),
            grouped(mean(), "language", all=False, name_template="language {group_name}"),
            published_averages(name, official, options or {}),
        ],
    )
    def build() -> Scorer:
        made = benchmark(name, **(options or {}))

        async def score(state: TaskState, target: Target) -> Score | None:
            if state.metadata.get("skipped"):
                return None
            sample = _bare(state)
            prediction = str(state.metadata["prediction"])
            one = made.scored(sample, prediction, "official" if official else "fixed", run=state.epoch)
            return Score(
                value=one.score,
                answer=prediction,
                metadata={
                    "figures": dict(one.figures),
                    "problems": list(one.problems),
                    "sample": sample.model_dump(mode="json"),
                    "run": one.run,
                    "cut": state.metadata["cut"],
                },
            )

        return score

    return build()


@metric
def judge_failures() -> Metric:
    """Verdicts, and replies of the judge that did not come or could not be read, over the answers with a score.

    Answers without any verdict are the score's unscored samples.
    """

    def counts(scores: list[SampleScore]) -> Value:
        kept = [one.score.metadata or {} for one in scores]
        return {
            "verdicts": sum(float(one.get("verdicts", 0.0)) for one in kept),
            "judge_unreadable": sum(float(one.get("judge_unreadable", 0.0)) for one in kept),
            "judge_silent": sum(float(one.get("judge_silent", 0.0)) for one in kept),
        }

    return counts


def document_judge(name: str, options: dict[str, object] | None = None, official: bool = False) -> Scorer:
    """The score a judge gives; give one with `--model-role judge=MODEL`, else the evaluated model judges itself.

    An answer without a verdict is unscored, with the counts of what went wrong in its metadata.
    """

    @scorer(name="document_judge", metrics=[mean(), stderr(cluster="shared_context_key"), judge_failures()])
    def build() -> Scorer:
        made = benchmark(name, **(options or {}))

        async def ask(prompt: str) -> str:
            try:
                return (await get_model(role=ROLE).generate(prompt, config=GenerateConfig(temperature=0.0))).completion
            except LimitExceededError:
                raise
            except Exception as error:  # every provider has errors of its own
                raise JudgeSilent(f"the judge gave no reply: {error}") from error

        async def score(state: TaskState, target: Target) -> Score | None:
            sample = _bare(state)
            if state.metadata.get("skipped") or not made.judges(made.datasets[sample.task]):
                return None
            prediction = str(state.metadata["prediction"])
            figures = await made.judged(sample, prediction, ask, "official" if official else "fixed")
            if "score" not in figures:
                return Score.unscored(reason="the judge gave no verdict", answer=prediction, metadata={**figures})
            return Score(value=figures["score"], answer=prediction, metadata={**figures})

        return score

    return build()


def _row(sample: LongSample) -> Sample:
    """The row of a data set: everything but the document."""
    stored = sample.model_dump(mode="json", exclude={"context"})
    return Sample(
        id=f"{sample.task}/{sample.id}",
        input=digest(sample.question) if sample.question else f"{sample.task}: {digest(sample.text)}",
        target=sample.answers,
        metadata={
            "task": sample.task,
            "category": sample.metadata.get("category"),
            "language": sample.language,
            "length_level": str(sample.metadata.get("length_level") or "any"),
            "shared_context_key": sample.shared_context_key or sample.id,
            "sample": stored,
        },
    )


def _bare(state: TaskState) -> LongSample:
    return LongSample.model_validate({**dict(state.metadata["sample"]), "context": ""})


def _scored(score: Score) -> Scored:
    kept = score.metadata or {}
    return Scored(
        LongSample.model_validate(kept["sample"]),
        str(score.answer or ""),
        dict(kept["figures"]),
        tuple(kept["problems"]),
        truncated=bool(kept["cut"].get("truncated")),
        run=int(kept["run"]),
    )


__all__ = [
    "DocumentBenchmark",
    "document_inspect_task",
    "document_judge",
    "document_score",
    "document_task",
    "judge_failures",
    "published_averages",
    "read_document",
]
