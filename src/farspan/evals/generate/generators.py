"""The interface of generated benchmark families, and what they share.

A family turns (task, length, index, seed, knobs) into a `LongSample` and can solve its own samples from their text.
This module merges knobs, hands out seeds, and packs built contexts into samples; the text of tasks is the families'.
"""

from __future__ import annotations

import difflib
import importlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol, runtime_checkable

from farspan.errors import FarspanError
from farspan.evals.generate.build import BuiltContext
from farspan.evals.generate.count import TokenCounter
from farspan.evals.generate.length import LengthTarget
from farspan.evals.generate.needle import Frame
from farspan.evals.generate.rng import stream_seeds
from farspan.evals.schema import AnswerKind, LongSample, text_sha256


class UnknownKnobError(FarspanError):
    """A knob a family does not have; lists those it has."""


class UnknownTaskError(FarspanError):
    """A family or task name that is not known; names close ones."""


@runtime_checkable
class Generator(Protocol):
    """A generated benchmark family."""

    @property
    def name(self) -> str:
        """The family's name in the table of tasks."""

    @property
    def tasks(self) -> Sequence[str]:
        """Names of its tasks."""

    @property
    def lengths(self) -> Sequence[int]:
        """Default lengths, tokens."""

    @property
    def defaults(self) -> Mapping[str, object]:
        """Knobs and their default values."""

    def sample(self, task: str, length: int | LengthTarget, index: int, seed: int, **knobs: object) -> LongSample:
        """Sample number `index` of a task at a length; equal arguments give equal bytes."""

    def solve(self, sample: LongSample) -> list[str]:
        """The answers, found from the sample's text alone."""


class GeneratorBase(ABC):
    """Common part of the families in `farspan.evals.tasks`.

    Parameters
    ----------
    tokenizer : the counter (or anything `TokenCounter` takes) lengths are measured with
    chat : leave room for the tokenizer's chat template instead of its special tokens
    template_tokens : that room, where it is known already
    references : up to three more counters whose token counts each sample records
    """

    name: ClassVar[str]
    tasks: ClassVar[Sequence[str]]
    lengths: ClassVar[Sequence[int]] = (4096, 8192, 16384, 32768, 65536, 131072)
    defaults: ClassVar[Mapping[str, object]] = {}

    def __init__(
        self,
        tokenizer: TokenCounter | object,
        *,
        chat: bool = False,
        template_tokens: int | None = None,
        references: Sequence[TokenCounter] = (),
    ) -> None:
        self.counter = tokenizer if isinstance(tokenizer, TokenCounter) else TokenCounter(tokenizer)  # type: ignore[arg-type]
        self.template_tokens = self.counter.template_tokens(chat) if template_tokens is None else template_tokens
        if len(references) > 3:
            raise FarspanError(f"{len(references)} reference tokenizers given, at most 3 are counted")
        self.references = tuple(references)

    @abstractmethod
    def sample(self, task: str, length: int | LengthTarget, index: int, seed: int, **knobs: object) -> LongSample:
        """Sample number `index` of a task at a length; equal arguments give equal bytes."""

    @abstractmethod
    def solve(self, sample: LongSample) -> list[str]:
        """The answers, found from the sample's text alone."""

    def settings(self, task: str, knobs: Mapping[str, object]) -> dict[str, object]:
        """The defaults overlaid with `knobs`.

        Raises
        ------
        UnknownTaskError, UnknownKnobError
        """
        if task not in self.tasks:
            raise UnknownTaskError(f"{self.name} has no task '{task}'; {suggest(task, self.tasks)}")
        unknown = [knob for knob in knobs if knob not in self.defaults]
        if unknown:
            known = ", ".join(f"{name}={value!r}" for name, value in self.defaults.items()) or "none"
            raise UnknownKnobError(f"{self.name} has no knob '{unknown[0]}'; it has: {known}")
        return {**self.defaults, **knobs}

    def target(self, length: int | LengthTarget, max_new_tokens: int) -> LengthTarget:
        """A length as a target: plain numbers are total tokens, with room for the answer."""
        if isinstance(length, LengthTarget):
            wants_reserve = length.unit == "tokens" and length.semantics == "total" and length.reserve == 0
            return length.model_copy(update={"reserve": max_new_tokens}) if wants_reserve else length
        return LengthTarget(value=length, reserve=max_new_tokens)

    def seeds(self, task: str, seed: int, index: int, *, length: object = None, depth: object = None) -> dict[str, int]:
        """Seeds of the streams `needle`, `haystack`, `placement` and `question` of a sample."""
        return stream_seeds(self.name, task, seed, index, length=length, depth=depth)

    def frame(self, *, preamble: str = "", closing: str = "", tails: Sequence[str] = ("",)) -> Frame:
        """What surrounds the haystack: `preamble` and `closing` inside the context, one tail per question on it."""
        return Frame(preamble=preamble, closing=closing, tails=tuple(tails), template_tokens=self.template_tokens)

    def pack(
        self,
        *,
        task: str,
        length: LengthTarget,
        index: int,
        seed: int,
        built: BuiltContext,
        question: str,
        answers: Sequence[str],
        answer_kind: AnswerKind = "alternatives",
        answer_prefix: str = "",
        max_new_tokens: int | None = None,
        depth: float | None = None,
        language: str = "en",
        subset: str = "",
        sample_id: str = "",
        metadata: Mapping[str, object] | None = None,
    ) -> LongSample:
        """Pack a built context and a question on it into a sample with complete metadata."""
        if max_new_tokens is not None:
            longest = max(self.counter.count_many(list(answers)), default=0)
            if longest > max_new_tokens:
                warnings.warn(
                    f"{self.name}/{task}: an answer has {longest} tokens, only {max_new_tokens} may be generated",
                    stacklevel=2,
                )
        unit = f"tokens:{self.counter.tokenizer_id}" if length.unit == "tokens" else length.unit
        common: dict[str, object] = {
            "length": length.value,
            "length_unit": unit,
            "depth": depth,
            "task": task,
            "index": index,
            "seed": seed,
            "shared_context_key": text_sha256(built.text)[:24],
            "evidence_spans": [span.model_dump() for span in built.spans],
            "n_units": built.units_kept,
            "n_context_tokens": built.n_context_tokens,
            "n_total_tokens": built.n_total_tokens,
            "n_chars": len(built.text),
            "tokenizer_id": self.counter.tokenizer_id,
            "count_mode": built.mode,
            "counted": built.counted,
        }
        if self.references:
            common["n_context_tokens_by"] = {c.tokenizer_id: c.verify(built.text) for c in self.references}
        place = "na" if depth is None else f"{depth:g}"
        return LongSample(
            id=sample_id or f"{self.name}/{task}/{length.value}/{place}/{seed}/{index}",
            benchmark=self.name,
            task=task,
            subset=subset,
            language=language,
            context=built.text,
            question=question,
            answers=list(answers),
            answer_kind=answer_kind,
            answer_prefix=answer_prefix,
            max_new_tokens=max_new_tokens,
            metadata={**common, **(metadata or {})},
        )


def suggest(name: str, known: Sequence[str]) -> str:
    """The end of an error line: close names, or all of them."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(sorted(known))}"


def generator_class(name: str) -> type[GeneratorBase]:
    """The class of a family by its name in `farspan.evals.tasks.TASKS`, or by its import path `module:Class`."""
    from farspan.evals.tasks import TASKS

    path = name if ":" in name else TASKS.get(name)
    if path is None:
        raise UnknownTaskError(f"unknown task family '{name}'; {suggest(name, list(TASKS))}")
    module, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UnknownTaskError(f"task family '{name}' cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, GeneratorBase)):
        raise UnknownTaskError(f"task family '{name}' at {path} is not a subclass of GeneratorBase")
    return found
