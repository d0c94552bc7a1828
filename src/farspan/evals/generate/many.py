"""Many samples from specifications, in one process or several, in the same order and with the same bytes.

A `SampleSpec` is all that is needed to build one sample again, so data sets can keep specifications in place of
megabytes of context.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from farspan.errors import FarspanError
from farspan.evals.generate.count import TokenCounter
from farspan.evals.generate.generators import GeneratorBase, generator_class
from farspan.evals.generate.length import LengthTarget
from farspan.evals.schema import LongSample

if TYPE_CHECKING:
    from farspan.evals.generate.count import TokenizerLike

_AHEAD = 4


class SpecError(FarspanError):
    """A sample specification that cannot be used."""


class SampleSpec(BaseModel):
    """What one sample is made from.

    Attributes
    ----------
    family : name in the table of tasks, or an import path `module:Class`
    tokenizer : folder or name of the tokenizer lengths are measured with; "" takes the one `build_many` is given
    template_tokens : room for special tokens or the chat template; None measures the special tokens
    chat : whether that room is for the chat template
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    task: str
    length: LengthTarget | int
    index: int
    seed: int = 0
    knobs: Mapping[str, object] = {}
    tokenizer: str = ""
    template_tokens: int | None = None
    chat: bool = False


class _Maker:
    """Builds samples, keeping one counter per tokenizer and one generator per family."""

    def __init__(self, counter: TokenCounter | None) -> None:
        self._given = counter
        self._counters: dict[str, TokenCounter] = {}
        self._generators: dict[tuple[str, str, int | None, bool], GeneratorBase] = {}

    def counter(self, name: str) -> TokenCounter:
        if not name:
            if self._given is None:
                raise SpecError("the specification names no tokenizer and none was given")
            return self._given
        if name not in self._counters:
            self._counters[name] = TokenCounter(name)
        return self._counters[name]

    def sample(self, spec: SampleSpec, lazy: bool) -> LongSample:
        key = (spec.family, spec.tokenizer, spec.template_tokens, spec.chat)
        if key not in self._generators:
            make = generator_class(spec.family)
            self._generators[key] = make(
                self.counter(spec.tokenizer), chat=spec.chat, template_tokens=spec.template_tokens
            )
        sample = self._generators[key].sample(spec.task, spec.length, spec.index, spec.seed, **spec.knobs)
        return sample.lazy(spec.model_dump(mode="json")) if lazy else sample


_maker: _Maker | None = None
"""The maker of a worker process; set once by its initializer, never in the parent."""


def _start_worker(counter: TokenCounter | None) -> None:
    global _maker
    # The processes share the cores already; threads of the tokenizer library would only get in each other's way.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _maker = _Maker(counter)


def _work(batch: list[SampleSpec], lazy: bool) -> list[LongSample]:
    assert _maker is not None
    return [_maker.sample(spec, lazy) for spec in batch]


def build_many(
    specs: Iterable[SampleSpec],
    tokenizer: TokenCounter | TokenizerLike | None = None,
    *,
    workers: int = 1,
    lazy: bool = False,
    batch: int = 8,
) -> Iterator[LongSample]:
    """Build samples one after the other, in the order of their specifications.

    Parameters
    ----------
    specs : read only as far ahead as workers need
    tokenizer : for specifications that name none; with several workers it must be picklable
    workers : processes; the bytes do not depend on it
    lazy : contexts become references that rebuild themselves from the specification, which must name its tokenizer
    batch : specifications a worker takes at once

    Raises
    ------
    SpecError, and what the families raise.
    """
    if workers < 1:
        raise SpecError(f"at least one worker is needed, not {workers}")
    counter = tokenizer if tokenizer is None or isinstance(tokenizer, TokenCounter) else TokenCounter(tokenizer)
    if workers == 1:
        maker = _Maker(counter)
        for spec in specs:
            yield maker.sample(_named(spec, lazy), lazy)
        return
    # Forked children inherit the tokenizer library's threads in an undefined state.
    context = multiprocessing.get_context("spawn")
    remaining = iter(specs)
    with ProcessPoolExecutor(workers, context, _start_worker, (counter,)) as pool:
        waiting: list[Future[list[LongSample]]] = []
        try:
            while True:
                while len(waiting) < workers * _AHEAD:
                    taken = [_named(spec, lazy) for spec in islice(remaining, batch)]
                    if not taken:
                        break
                    waiting.append(pool.submit(_work, taken, lazy))
                if not waiting:
                    return
                yield from waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def _named(spec: SampleSpec, lazy: bool) -> SampleSpec:
    if lazy and not spec.tokenizer:
        raise SpecError("a lazy sample is rebuilt from its specification, so that must name its tokenizer")
    return spec


def rebuild_context(spec: Mapping[str, object]) -> str:
    """The context of a stored specification.

    Raises
    ------
    SpecError : the specification is not one.
    """
    try:
        checked = SampleSpec.model_validate(spec)
    except ValidationError as error:
        raise SpecError(f"not a sample specification: {error.errors()[0]['msg']}") from error
    return _Maker(None).sample(checked, lazy=False).text
