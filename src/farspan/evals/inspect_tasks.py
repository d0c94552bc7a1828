"""Every benchmark family as an Inspect task.

One task per row of the table of families: `inspect eval farspan/lines --model farspan/reference -T lengths=1k,2k`.
Contexts are built when a sample runs and taken out of the log afterwards; what is asked, how it is scored and which
knobs there are is the families' business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.event import ModelEvent
from inspect_ai.log import transcript
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelOutput,
    get_model,
)
from inspect_ai.scorer import Score, Scorer, Target, grouped, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from farspan.evals.asking import without_reasoning
from farspan.evals.generate.count import TokenCounter, TokenizerError
from farspan.evals.generate.generators import UnknownTaskError, suggest
from farspan.evals.generate.length import LengthTarget, parse_size
from farspan.evals.judge import model_judge
from farspan.evals.prompt import PrefixMode, render_prompt, stop_strings
from farspan.evals.schema import PREVIEW_CHARACTERS, LongSample, text_sha256
from farspan.evals.tasks.family import family_class, score_sample

Listed = str | int | Sequence[str | int]
Mode = PrefixMode | Literal["auto"]

LOCAL_PROVIDERS = ("farspan", "hf", "vllm", "sglang")
CONTINUING_PROVIDERS = ("farspan", "mockllm")
CHARACTERS_PER_TOKEN = 4


def inspect_task(
    family: str,
    *,
    task: Listed = "",
    lengths: Listed = (),
    samples: int | None = None,
    seed: int = 0,
    prefix_mode: Mode = "auto",
    tokenizer: str = "",
    data: str = "",
    judge: bool = False,
    thinking_tokens: int = 0,
    **knobs: object,
) -> Task:
    """An Inspect task of one family.

    Parameters
    ----------
    family : name in the table of families
    task : its tasks, one or several (a list, or text with commas); `all` for its whole suite, empty for its default
    lengths : total tokens, such as `4k,8k`; empty for the family's own. `2000 chars` and `25 units` work too
    samples : for each task and length; None takes the family's number
    seed : base seed; equal seeds give equal samples
    prefix_mode : see `render_prompt`; `auto` lets the model continue the answer where its provider can, and else puts
        the start of the answer at the end of the user's turn
    tokenizer : folder or name whose tokens lengths are counted in; empty takes that of the evaluated model if it is
        local, else four characters count as a token
    data : published data of the family (a file, for `ruler` a folder) to be read in place of generated samples
    judge : ask the model of the role `judge` too, for families that have a rubric
    thinking_tokens : for models that reason before they answer: tokens a reply may have beside its answer's; the
        start of the answer is then left out unless `prefix_mode` says otherwise
    knobs : the family's

    Raises
    ------
    FarspanError : unknown names, lengths or knobs, or a length that a task cannot meet.
    """
    counted_by = tokenizer or local_tokenizer()
    source = SampleSource(family, counted_by, data)
    names = source.family.suite(data) if task == "all" else source.named([str(name) for name in listed(task)])
    targets = [target_of(length) for length in listed(lengths)] or list(source.family.lengths)
    count = source.family.samples if samples is None else samples
    specs: list[dict[str, object]] = []
    for name in names:
        if data:
            size = source.size(name) if samples is None else min(samples, source.size(name))
            specs += [{"task": name, "index": index} for index in range(size)]
            continue
        for length in targets:
            cell = {"task": name, "length": _plain(length), "seed": seed, "knobs": dict(knobs)}
            specs += [{**cell, "index": index} for index in range(count)]
    return Task(
        dataset=MemoryDataset([source.row(spec) for spec in specs], name=f"farspan/{family}"),
        solver=long_context(
            family=family, prefix_mode=prefix_mode, tokenizer=counted_by, data=data, thinking_tokens=thinking_tokens
        ),
        scorer=[long_context_score(), model_judge()] if judge else long_context_score(),
        config=GenerateConfig(temperature=0.0),
        name=family,
        metadata={
            "prefix_mode": prefix_mode,
            "text": "official" if data else "generated",
            "lengths_counted_by": counted_by or f"{CHARACTERS_PER_TOKEN} characters a token",
            "tokenizer_id": source.family.counter.tokenizer_id,
            "seed": seed,
            "knobs": dict(knobs),
        },
    )


def family_task(family: str) -> Callable[..., Task]:
    """Register the Inspect task of one family under its own name."""

    @task(name=family)
    def run(
        task: Listed = "",
        lengths: Listed = (),
        samples: int | None = None,
        seed: int = 0,
        prefix_mode: Mode = "auto",
        tokenizer: str = "",
        data: str = "",
        judge: bool = False,
        thinking_tokens: int = 0,
        **knobs: object,
    ) -> Task:
        return inspect_task(
            family,
            task=task,
            lengths=lengths,
            samples=samples,
            seed=seed,
            prefix_mode=prefix_mode,
            tokenizer=tokenizer,
            data=data,
            judge=judge,
            thinking_tokens=thinking_tokens,
            **knobs,
        )

    return run


@solver
def long_context(
    family: str, prefix_mode: Mode = "auto", tokenizer: str = "", data: str = "", thinking_tokens: int = 0
) -> Solver:
    """Build the sample's context, ask, and take the context out of the conversation and the log again.

    In the log stand the first 512 characters of each long message, its number of characters and its SHA-256.
    """
    source = SampleSource(family, tokenizer, data)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        sample = source.sample(_spec(state.metadata))
        mode = prefix_mode
        if mode == "auto":
            mode = "none" if thinking_tokens else continued(str(state.model.api))
        prompt = render_prompt(sample, mode)
        messages: list[ChatMessage] = [ChatMessageUser(content=prompt.user)]
        if prompt.answer_prefix:
            messages.append(ChatMessageAssistant(content=prompt.answer_prefix))
        state.messages = messages
        state.metadata["prefix_mode"] = mode
        state.metadata["companion_outputs"] = [
            await _asked(other, mode, _config(other, mode, thinking_tokens))
            for other in source.family.companions(sample)
        ]
        state = await generate(state, **_config(sample, mode, thinking_tokens).model_dump(exclude_none=True))
        short = digest(prompt.user)
        state.messages = [_shortened(message, prompt.user, short) for message in state.messages]
        _forget(prompt.user, short)
        return state

    return solve


@scorer(
    metrics=[
        mean(),
        stderr(cluster="shared_context_key"),
        grouped(mean(), "length", all=False, name_template="length {group_name}"),
        grouped(mean(), "task", all=False, name_template="task {group_name}"),
    ]
)
def long_context_score() -> Scorer:
    """The score of the sample's family; its other figures stand in the score's metadata.

    `truncated` and `empty` there tell a reply that was cut off, and one without text, from one that is wrong.
    """

    async def score(state: TaskState, target: Target) -> Score:
        sample = LongSample.model_validate({**dict(state.metadata["sample"]), "context": ""})
        truncated = _cut_off(state.output)
        output, _ = without_reasoning(state.output.completion, truncated)
        figures = score_sample(sample, output, [str(other) for other in state.metadata.get("companion_outputs", ())])
        told = {"truncated": truncated, "empty": not output.strip()}
        return Score(value=figures["score"], answer=output, metadata={**figures, **told})

    return score


class SampleSource:
    """Samples of one family by their specifications; built, or read from published data.

    Attributes
    ----------
    family : the generator
    """

    def __init__(self, family: str, tokenizer: str, data: str = "") -> None:
        counter = TokenCounter(tokenizer) if tokenizer else TokenCounter(fours)
        self.family = family_class(family)(counter, chat=_has_chat_template(counter))
        self.data = data
        self._published: dict[str, list[LongSample]] = {}

    def named(self, tasks: Sequence[str]) -> list[str]:
        """The tasks asked for, or the family's default ones."""
        for name in tasks:
            if name not in self.family.tasks:
                raise UnknownTaskError(f"{self.family.name} has no task '{name}'; {suggest(name, self.family.tasks)}")
        return list(tasks) or list(self.family.default_tasks(self.data))

    def size(self, task: str) -> int:
        """Number of published samples of a task."""
        return len(self._read(task))

    def sample(self, spec: Mapping[str, object]) -> LongSample:
        """The sample of a specification."""
        name, index = str(spec["task"]), int(str(spec["index"]))
        if self.data:
            return self._read(name)[index]
        length, knobs = spec["length"], spec["knobs"]
        assert isinstance(knobs, Mapping)
        target = LengthTarget.model_validate(length) if isinstance(length, Mapping) else int(str(length))
        return self.family.sample(name, target, index, int(str(spec["seed"])), **knobs)

    def row(self, spec: dict[str, object]) -> Sample:
        """The row of a data set: everything but the context."""
        sample = self.sample(spec)
        stored = sample.model_dump(mode="json", exclude={"context"})
        shown = {name: stored["metadata"].get(name) for name in ("length", "depth", "shared_context_key")}
        if not shown["shared_context_key"]:
            shown["shared_context_key"] = sample.id
        return Sample(
            id=sample.id,
            input=sample.question or digest(sample.text),
            target=sample.answers,
            metadata={**shown, "task": sample.task, "sample": stored, "spec": spec},
        )

    def _read(self, task: str) -> list[LongSample]:
        if task not in self._published:
            self._published[task] = list(self.family.read_published(self.data, task))
        return self._published[task]


def _config(sample: LongSample, mode: PrefixMode, thinking_tokens: int) -> GenerateConfig:
    """Room and ends of a sample's answer; nothing ends a reply that may reason first."""
    room = sample.max_new_tokens
    stops = [] if thinking_tokens else list(stop_strings(sample, mode))
    return GenerateConfig(max_tokens=None if room is None else room + thinking_tokens, stop_seqs=stops or None)


async def _asked(sample: LongSample, mode: PrefixMode, config: GenerateConfig) -> str:
    """What the evaluated model says to a sample; the long message is taken out of the log again."""
    prompt = render_prompt(sample, mode)
    messages: list[ChatMessage] = [ChatMessageUser(content=prompt.user)]
    if prompt.answer_prefix:
        messages.append(ChatMessageAssistant(content=prompt.answer_prefix))
    output = await get_model().generate(messages, config=config)
    _forget(prompt.user, digest(prompt.user))
    return without_reasoning(output.completion, _cut_off(output))[0]


def _cut_off(output: ModelOutput) -> bool:
    """Whether a reply ended at a limit and not by itself."""
    return bool(output.choices) and output.stop_reason in ("max_tokens", "model_length")


def continued(provider: str) -> PrefixMode:
    """How the start of an answer reaches a provider's models where nothing else is asked for."""
    return "continue" if provider in CONTINUING_PROVIDERS else "user_tail"


def local_tokenizer() -> str:
    """Folder or name of the evaluated model's tokenizer; empty if it is not local, or there is no such model yet."""
    try:
        model = get_model()
    except ValueError:
        return ""
    provider, _, name = str(model).partition("/")
    if provider not in LOCAL_PROVIDERS:
        return ""
    if provider != "farspan":
        return name
    from farspan.models import model_path

    return model_path(_path_of(model) or name)


def listed(given: Listed) -> list[str | int]:
    """A list from a list, or from text with commas."""
    if isinstance(given, str):
        return [part.strip() for part in given.split(",") if part.strip()]
    return [given] if isinstance(given, int) else list(given)


def target_of(length: str | int) -> int | LengthTarget:
    """A length as the families take it: tokens are total, characters and units are of the context."""
    value, unit = parse_size(length, k=1024 if "char" not in str(length) else 1000)
    return value if unit == "tokens" else LengthTarget(value=value, unit=unit, semantics="context")


def digest(text: str) -> str:
    """What stands in the log for a long message; short ones stand for themselves."""
    if len(text) <= PREVIEW_CHARACTERS:
        return text
    return f"{text[:PREVIEW_CHARACTERS]}... [{len(text)} characters, sha256 {text_sha256(text)}]"


def fours(text: str) -> range:
    """Four characters as a token, for models whose tokenizer is not at hand."""
    return range(math.ceil(len(text) / CHARACTERS_PER_TOKEN))


def _shortened(message: ChatMessage, text: str, short: str) -> ChatMessage:
    return message.model_copy(update={"content": short}) if message.text == text else message


def _forget(text: str, short: str) -> None:
    """Replace a long message in the events of this sample; raw requests that hold it go."""
    if text == short:
        return
    record = transcript()
    for event in record.events:
        if isinstance(event, ModelEvent) and any(message.text == text for message in event.input):
            event.input = [_shortened(message, text, short) for message in event.input]
            event.call = None
    for key in [key for key, value in record.attachments.items() if text in value]:
        del record.attachments[key]


def _has_chat_template(counter: TokenCounter) -> bool:
    try:
        counter.template_tokens(chat=True)
    except TokenizerError:
        return False
    return True


def _path_of(model: Model) -> str:
    return str(getattr(getattr(model.api, "spec", None), "path", ""))


def _plain(length: int | LengthTarget) -> int | dict[str, object]:
    return length if isinstance(length, int) else length.model_dump(mode="json")


def _spec(metadata: Mapping[str, object]) -> Mapping[str, object]:
    spec = metadata["spec"]
    assert isinstance(spec, Mapping)
    return spec
