"""What the generated families share: checked knobs, several questions on one context, depth grids, scores.

A family builds one context with all questions asked on it; this module picks the one a sample's index means. No
benchmark is described here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from farspan.errors import FarspanError
from farspan.evals.generate.build import BuiltContext
from farspan.evals.generate.count import TokenCounter
from farspan.evals.generate.generators import GeneratorBase, UnknownTaskError, generator_class
from farspan.evals.generate.length import LengthTarget
from farspan.evals.generate.needle import Frame
from farspan.evals.generate.placement import DepthGrid
from farspan.evals.schema import AnswerKind, LongSample

SETTLING_ROUNDS = 6
ANSWER_MARGIN = 10
JOINT_CHARACTERS = 80
"""As much of a context's end as decides how a question behind it is split into tokens."""


class KnobError(FarspanError):
    """A knob outside its limits, or knobs that do not go together."""


class Knobs(BaseModel):
    """Knobs every family has.

    questions_per_context : sample i asks question i mod q on context i div q
    depth : place of the needle in percent; None walks the grid with the sample's index
    depths : points of that grid, from 0 to 100
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    questions_per_context: int = Field(default=1, ge=1)
    depth: float | None = Field(default=None, ge=0, le=100)
    depths: int = Field(default=11, ge=1)

    def depth_of(self, index: int) -> float:
        """The depth of sample `index` in percent; every full round of the grid holds each depth once."""
        return DepthGrid(self.depths).stratum(index) if self.depth is None else self.depth


@dataclass(frozen=True)
class Ask:
    """One question on a context, with its answers and where its evidence lies."""

    question: str
    answer_prefix: str
    answers: tuple[str, ...]
    depth: float | None = None
    answer_kind: AnswerKind = "alternatives"
    metadata: Mapping[str, object] = field(default_factory=dict)

    @property
    def tail(self) -> str:
        """What follows the context in the prompt."""
        return self.question + self.answer_prefix


@dataclass(frozen=True)
class Made:
    """A context and everything that is asked on it."""

    target: LengthTarget
    built: BuiltContext
    asks: tuple[Ask, ...]
    max_new_tokens: int


K = TypeVar("K", bound=Knobs)


class Family(GeneratorBase, Generic[K]):
    """Base of the generated families.

    Class attributes beside those of `GeneratorBase`:

    knobs_model : the frozen model of the family's knobs
    presets : what a task sets differently from the defaults
    samples : how many a task and length get where nobody says
    stop : strings that end a continued answer
    instruction : form of the answer, told to chat models that are given no start of it
    skills : what a task takes, a few words; the family's name where nothing is said
    """

    knobs_model: ClassVar[type[Knobs]] = Knobs
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {}
    samples: ClassVar[int] = 50
    stop: ClassVar[tuple[str, ...]] = ("\n",)
    instruction: ClassVar[str] = "Answer with the value alone."
    skills: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.defaults = {name: info.default for name, info in cls.knobs_model.model_fields.items()}

    def __init__(
        self,
        tokenizer: TokenCounter | object,
        *,
        chat: bool = False,
        template_tokens: int | None = None,
        references: Sequence[TokenCounter] = (),
    ) -> None:
        super().__init__(tokenizer, chat=chat, template_tokens=template_tokens, references=references)
        self.chat = chat
        self._held: tuple[object, Made] | None = None

    @abstractmethod
    def make(self, task: str, length: int | LengthTarget, context: int, seed: int, knobs: K) -> Made:
        """Build context number `context` of a task with all its questions."""

    @classmethod
    @abstractmethod
    def scores(cls, sample: LongSample, output: str) -> dict[str, float]:
        """All figures of one output; `score` in [0, 1] is the one that counts."""

    @classmethod
    def score(cls, sample: LongSample, output: str) -> float:
        """The figure of one output that counts, in [0, 1]."""
        return cls.scores(sample, output)["score"]

    @classmethod
    def companions(cls, sample: LongSample) -> list[LongSample]:
        """Samples that must be asked too before this one can be scored, such as the same question on another text."""
        return []

    @classmethod
    def joint_scores(cls, sample: LongSample, output: str, others: Sequence[str]) -> dict[str, float]:
        """All figures of one output, given the outputs of its `companions` in their order."""
        return cls.scores(sample, output)

    @classmethod
    async def judged(cls, sample: LongSample, output: str, ask: Callable[[str], Awaitable[str]]) -> dict[str, float]:
        """All figures of one output by a judge, a model that `ask` sends a prompt; `score` counts.

        Raises
        ------
        KnobError : the family needs no judge.
        """
        raise KnobError(f"{cls.name} is scored by rules; it has no questions for a judge")

    @classmethod
    def default_tasks(cls, data: str = "") -> Sequence[str]:
        """The tasks that are run where none is named; `data` as for `read_published`."""
        return cls.tasks[:1]

    @classmethod
    def skill(cls, task: str) -> str:
        """What a task takes, a few words."""
        return cls.skills.get(task, cls.name.replace("_", " "))

    @classmethod
    def suite(cls, data: str = "") -> Sequence[str]:
        """All tasks that can be run, with or without published data."""
        return cls.tasks

    @classmethod
    def read_published(cls, data: str, task: str) -> Iterable[LongSample]:
        """Samples of a task out of published files.

        Raises
        ------
        KnobError : the family reads none.
        """
        raise KnobError(f"{cls.name} reads no published data (given {data})")

    def knobs(self, task: str, given: Mapping[str, object]) -> K:
        """Defaults, the task's preset and the given knobs as the family's frozen model.

        Raises
        ------
        UnknownTaskError, UnknownKnobError, KnobError
        """
        self.settings(task, given)
        try:
            return self.knobs_model.model_validate({**self.presets.get(task, {}), **given})  # type: ignore[return-value]
        except ValidationError as error:
            problem = error.errors()[0]
            knob = ".".join(str(part) for part in problem["loc"])
            raise KnobError(f"{self.name}, knob '{knob}': {problem['msg']} (given {problem['input']!r})") from error

    def sample(self, task: str, length: int | LengthTarget, index: int, seed: int, **knobs: object) -> LongSample:
        """Sample number `index` of a task at a length; equal arguments give equal bytes.

        Parameters
        ----------
        task : one of `tasks`
        length : total tokens, room for the answer included, or any `LengthTarget`
        index : number of the sample; with q `questions_per_context` it asks question `index` mod q on context
            `index` div q
        seed : base seed; needles of equal index are equal at all lengths and depths
        knobs : see `defaults`

        Raises
        ------
        UnknownTaskError, UnknownKnobError, KnobError, LengthTargetError
        """
        checked = self.knobs(task, knobs)
        context, question = divmod(index, checked.questions_per_context)
        key = (task, length, context, seed, checked)
        if self._held is None or self._held[0] != key:
            self._held = (key, self.make(task, length, context, seed, checked))
        made = self._held[1]
        ask = made.asks[question]
        return self.pack(
            task=task,
            length=made.target,
            index=index,
            seed=seed,
            built=made.built,
            question=ask.question,
            answers=ask.answers,
            answer_kind=ask.answer_kind,
            answer_prefix=ask.answer_prefix,
            max_new_tokens=made.max_new_tokens,
            depth=ask.depth,
            language=str(ask.metadata.get("language", "en")),
            metadata={"stop": list(self.stop), "instruction": self.instruction, **ask.metadata},
        )

    def depths(self, context: int, knobs: Knobs) -> list[float]:
        """Depths of the questions on one context."""
        first = context * knobs.questions_per_context
        return [knobs.depth_of(first + question) for question in range(knobs.questions_per_context)]

    def room(self, answers: Sequence[str], official: int) -> int:
        """Tokens to generate: the official number for chat models, the longest answer and a margin for base models."""
        measured = max(self.counter.count_many(list(answers)), default=0) + ANSWER_MARGIN
        return max(official, measured) if self.chat else measured

    def settle(
        self, attempt: Callable[[Frame], tuple[BuiltContext, tuple[Ask, ...]]], frame: Frame
    ) -> tuple[BuiltContext, tuple[Ask, ...]]:
        """Build where the questions are known only once the context is: repeats until their room suffices.

        `frame` holds a first guess of the tails; `attempt` builds with a frame and returns what it really asks.
        """
        for _ in range(SETTLING_ROUNDS):
            built, asks = attempt(frame)
            end = built.text[-JOINT_CHARACTERS:]
            tails = [ask.tail for ask in asks]
            saved = self._longest(end, frame.tails) - self._longest(end, tails)
            if saved >= 0:
                return replace(built, n_total_tokens=built.n_total_tokens - saved), asks
            frame = replace(frame, tails=tuple(tails))
        raise KnobError(f"{self.name}: no context found whose questions fit beside it; use another length")

    def _longest(self, end: str, tails: Sequence[str]) -> int:
        return max(self.counter.count_many([end + tail for tail in tails]))


def family_class(name: str) -> type[Family[Knobs]]:
    """The class of a family by its name in the table, or by its import path.

    Raises
    ------
    UnknownTaskError : there is none, or it is not derived from `Family`.
    """
    found = generator_class(name)
    if not issubclass(found, Family):
        raise UnknownTaskError(f"'{name}' is a generator without scores; derive it from Family to evaluate it")
    return found


def score_sample(sample: LongSample, output: str, others: Sequence[str] = ()) -> dict[str, float]:
    """All figures of one output of a sample, by the sample's family; `score` in [0, 1] is the one that counts.

    others : outputs of the sample's companions
    """
    return family_class(sample.benchmark).joint_scores(sample, output, others)


def joined(items: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
