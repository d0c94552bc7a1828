"""Evaluating a model behind an OpenAI-compatible address: the same questions, scores and results as for a local one.

Questions on one context are asked one after the other, so that the server's cache of prefixes is of use. Every answer
goes to the journal as soon as it is there; a question that got none is open and asked again when the run is repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

from farspan.errors import FarspanError
from farspan.evals.asking import Cell, Heard, answer_id, answer_of, cells_of, samples_of
from farspan.evals.core import resolve
from farspan.evals.endpoint import Endpoint, EndpointSettings, Sleep
from farspan.evals.evaluation import Answer, Evaluation, result_of
from farspan.evals.generate.count import TokenCounter
from farspan.evals.journal import Journal
from farspan.evals.prompt import PrefixMode, render_prompt, stop_strings
from farspan.evals.schema import LongSample
from farspan.evals.search import searched
from farspan.evals.tasks.family import Family, Knobs, family_class

CHARACTERS_PER_TOKEN = 4
ANSWER_TOKENS = 32
DEFAULT_THRESHOLD = 0.75


def fours(text: str) -> range:
    """Four characters as a token, where the model's tokenizer is not at hand."""
    return range(-(-len(text) // CHARACTERS_PER_TOKEN))


def prefix_mode_of(settings: EndpointSettings, thinking_tokens: int = 0) -> PrefixMode:
    """How the start of an answer is given where nothing else is asked for: continued where the server can."""
    if thinking_tokens:
        return "none"
    return "continue" if settings.api == "completions" or settings.continues else "user_tail"


def evaluate_endpoint(
    settings: EndpointSettings,
    tasks: str | Sequence[str],
    lengths: Sequence[int],
    *,
    n: int = 40,
    seed: int = 0,
    threshold: float = DEFAULT_THRESHOLD,
    prefix_mode: PrefixMode | None = None,
    thinking_tokens: int = 0,
    tokenizer: str = "",
    knobs: Mapping[str, object] = {},
    limit: int | None = None,
    adaptive: bool = False,
    token_budget: int | None = None,
    journal: Journal | None = None,
    progress: Callable[[int, int], None] | None = None,
    sleep: Sleep = asyncio.sleep,
) -> Evaluation:
    """Evaluate a model behind an address.

    Parameters
    ----------
    tasks, lengths, n, seed, threshold, knobs, limit, adaptive, token_budget, journal, progress : as for
        `farspan.evals.evaluate`; the loss of plain text cannot be measured here and is left out
    prefix_mode : None lets the model continue the started answer where the server can, and else puts the start at the
        end of the question; models that reason get none
    thinking_tokens : tokens a reply may have beside those of its answer
    tokenizer : folder or name whose tokens lengths are counted in; empty counts four characters as a token

    Raises
    ------
    EndpointError : no question can be asked at all.
    FarspanError : unknown tasks, no length, a length no sample fits in, or a prefix mode that does not go with the
        rest.
    """
    mode = prefix_mode_of(settings, thinking_tokens) if prefix_mode is None else prefix_mode
    if mode == "continue" and settings.api == "chat" and not settings.continues:
        raise FarspanError("prefix_mode 'continue' needs a server that goes on with a started message; say continues")
    if mode == "continue" and thinking_tokens:
        raise FarspanError("a started answer leaves no room for reasoning; use prefix_mode 'user_tail' or 'none'")
    probes, _ = resolve(tasks, knobs)
    cells = cells_of(probes, lengths, n, limit)
    counter = TokenCounter(tokenizer) if tokenizer else TokenCounter(fours, cache=False)
    run = _Run(settings, counter, seed, mode, thinking_tokens, journal, progress, cells)
    if adaptive:

        def ask(cell: Cell) -> list[Answer]:
            return asyncio.run(run.all(sleep, [cell]))[cell.probe.name]

        answers = searched(probes, lengths, threshold, ask, full=n, token_budget=token_budget, seed=seed)
    else:
        answers = asyncio.run(run.all(sleep, cells))
    return Evaluation(
        tasks=tuple(result_of(probe, threshold, answers[probe.name]) for probe in probes if probe.name in answers),
        lengths=tuple(sorted(set(lengths))),
        seed=seed,
        model=settings.model,
        recipe="",
        prefix_mode=mode,
        tokenizer=counter.tokenizer_id if tokenizer else f"{CHARACTERS_PER_TOKEN} characters a token",
        source=settings.url,
    )


class _Run:
    """One pass over the cells by several askers, who take the next context as soon as they are free."""

    def __init__(
        self,
        settings: EndpointSettings,
        counter: TokenCounter,
        seed: int,
        mode: PrefixMode,
        thinking_tokens: int,
        journal: Journal | None,
        progress: Callable[[int, int], None] | None,
        cells: Sequence[Cell],
    ) -> None:
        self.settings, self.seed, self.mode, self.thinking_tokens = settings, seed, mode, thinking_tokens
        self.journal, self.progress = journal, progress
        chat = settings.api == "chat" and _has_template(counter)
        names = dict.fromkeys(cell.probe.family for cell in cells)
        self.families: dict[str, Family[Knobs]] = {name: family_class(name)(counter, chat=chat) for name in names}
        self.total, self.done = sum(cell.n for cell in cells), 0
        self.building = asyncio.Lock()

    async def all(self, sleep: Sleep, cells: Sequence[Cell]) -> dict[str, list[Answer]]:
        """The answers of every probe of the cells, in the order of lengths and questions."""
        found: dict[tuple[str, int, int], Answer] = {}
        work = self._contexts(cells)
        # A lock belongs to the event loop it is first used in.
        self.building = asyncio.Lock()
        async with Endpoint(self.settings, sleep=sleep) as endpoint:

            async def asker() -> None:
                for cell, indices in work:
                    for index in indices:
                        found[cell.probe.name, cell.length, index] = await self._answer(endpoint, cell, index)
                        self.done += 1
                        if self.progress is not None:
                            self.progress(self.done, max(self.total, self.done))

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.settings.connections):
                        group.create_task(asker())
            except ExceptionGroup as errors:
                # One asker's failure ends all; it is the one worth telling.
                raise errors.exceptions[0] from None
        answers: dict[str, list[Answer]] = {}
        for cell in cells:
            for index in cell.indices:
                answers.setdefault(cell.probe.name, []).append(found[cell.probe.name, cell.length, index])
        return answers

    def _contexts(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, range]]:
        for cell in cells:
            shared = cell.probe.questions_per_context
            for first in cell.indices[::shared]:
                yield cell, range(first, min(first + shared, cell.indices.stop))

    async def _answer(self, endpoint: Endpoint, cell: Cell, index: int) -> Answer:
        name = cell.probe.name
        kept = self.journal.answer(name, cell.length, answer_id(cell.probe, self.seed, index)) if self.journal else None
        if kept is not None:
            return kept
        family = self.families[cell.probe.family]
        async with self.building:
            (sample,), shared = await asyncio.to_thread(samples_of, cell.probe, family, cell.length, [index], self.seed)
            companions = await asyncio.to_thread(family.companions, sample)
        heard = await self._ask(endpoint, sample)
        others = [await self._ask(endpoint, other) for other in companions] if not heard.error else []
        prompt = render_prompt(sample, self.mode)
        answer = answer_of(
            cell.probe, family, sample, prompt, heard, others, index=index, seed=self.seed, shared=shared
        )
        if self.journal is not None:
            self.journal.add(name, answer)
        return answer

    async def _ask(self, endpoint: Endpoint, sample: LongSample) -> Heard:
        prompt = render_prompt(sample, self.mode)
        room = (sample.max_new_tokens or ANSWER_TOKENS) + self.thinking_tokens
        return await endpoint.ask(prompt, room, () if self.thinking_tokens else stop_strings(sample, self.mode))


def _has_template(counter: TokenCounter) -> bool:
    from farspan.evals.generate.count import TokenizerError

    try:
        counter.template_tokens(chat=True)
    except TokenizerError:
        return False
    return True
