"""The engine: one process-local owner of a model, its batching and its token accounting.

Token ids go in, token ids and text come out. It does not load levers of its own accord, renders no chat and scores
no answer. Transformers computes every forward; one worker thread calls it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Self, cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from farspan.attention.lever import AttentionLever
from farspan.engine.batching import Job, Scheduler, Work, plan
from farspan.engine.forward import evaluating
from farspan.engine.generation import EngineStats, Generation, Row
from farspan.engine.prefix import PrefixStore, length_dependence, model_state, prefix_key
from farspan.engine.request import Request, Result, Usage
from farspan.engine.scoring import Scorer
from farspan.engine.spec import ModelSpec

__all__ = ["Engine", "EngineStats"]


class Engine:
    """Generates and scores with a model; a context manager with one worker thread.

    Levers are switched on by the caller (`with recipe(model): ...`) or by `from_spec`. Switching them while the
    engine lives is allowed between calls: contexts kept from another state of the model are dropped.

    Parameters
    ----------
    model, tokenizer : as loaded; the model is in evaluation mode during calls and left as found
    max_batch_tokens : slots of a batch at most, rows times (longest prompt + largest limit)
    window_ms : how long a request waits for company, milliseconds
    prefix_cache_tokens : tokens of contexts kept for later requests
    enforce_context_length : whether prompts that exceed the window are refused; measuring beyond it needs False
    share_prefixes : whether beginnings that requests have in common (1,024 tokens or more) are prefilled once although
        no request names them. Exact for dense attention; under an attention lever, answers could come to depend on
        what else was asked
    context_length : the window in tokens; the model's configuration, as it stands at each call, where left out

    Raises
    ------
    UnsupportedModel : the model takes no cache, or is no decoder with a language model head.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_batch_tokens: int = 65536,
        window_ms: float = 5.0,
        prefix_cache_tokens: int = 32768,
        enforce_context_length: bool = True,
        share_prefixes: bool = False,
        context_length: int | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_batch_tokens = max_batch_tokens
        self.enforce_context_length = enforce_context_length
        self.share_prefixes = share_prefixes
        self._context_length = context_length
        self._store = PrefixStore(prefix_cache_tokens, extend=share_prefixes)
        self._state = 0
        self._generation = Generation(model, tokenizer, self._store)
        self._scorer = Scorer(self._generation.forward)
        self._scheduler = Scheduler(self._run, window_ms / 1000)
        self._levers = ExitStack()

    @classmethod
    def from_spec(
        cls,
        spec: ModelSpec,
        *,
        max_batch_tokens: int = 65536,
        window_ms: float = 5.0,
        prefix_cache_tokens: int = 32768,
        enforce_context_length: bool = True,
    ) -> Engine:
        """Load a model and switch its recipe on for the engine's life.

        Beginnings that requests share are prefilled once, unless a lever of the recipe changes attention. Contexts that
        a lever brings along are kept, and requests that begin with one need not name it.

        Raises
        ------
        FarspanError : model or recipe cannot be loaded, or do not fit each other.
        """
        from farspan.models import load

        recipe = spec.recipe()
        model, tokenizer = load(
            spec.path,
            dtype=spec.dtype,
            device=spec.device,
            attn_implementation=spec.attn,
            trust_remote_code=spec.trust_remote_code,
        )
        if spec.chat_template is not None:
            named = Path(spec.chat_template)
            is_file = "{" not in spec.chat_template and named.is_file()
            tokenizer.chat_template = named.read_text(encoding="utf-8") if is_file else spec.chat_template
        with ExitStack() as levers:
            levers.enter_context(recipe(model))
            engine = cls(
                model,
                tokenizer,
                max_batch_tokens=max_batch_tokens,
                window_ms=window_ms,
                prefix_cache_tokens=prefix_cache_tokens,
                enforce_context_length=enforce_context_length,
                share_prefixes=all(getattr(lever, "slot", "attention") == "positions" for lever in recipe),
                context_length=spec.max_model_len,
            )
            engine._levers = levers.pop_all()
        for lever in recipe:
            if isinstance(lever, AttentionLever):
                for ids, cache in lever.known_contexts():
                    engine.keep_context(ids, cache)
        return engine

    @property
    def context_length(self) -> int | None:
        """The window in tokens; None if the model has no limit."""
        if self._context_length is not None:
            return self._context_length
        length = getattr(self._generation.forward.config, "max_position_embeddings", None)
        return length if isinstance(length, int) and length > 0 else None

    @property
    def stats(self) -> EngineStats:
        """Counters since the engine was made."""
        return self._generation.stats

    async def generate(self, request: Request) -> Result:
        """Generate for one request; requests that arrive within the window share a batch.

        Raises
        ------
        EngineClosed : the engine was closed.
        """
        job = Job(request)
        self._scheduler.submit([job], complete=False)
        return await asyncio.wrap_future(job.future)

    def generate_batch(self, requests: Sequence[Request]) -> list[Result]:
        """Generate for all requests and wait; results in the order of the requests.

        Raises
        ------
        EngineClosed : the engine was closed.
        """
        if not requests:
            return []
        jobs = [Job(request) for request in requests]
        self._scheduler.submit(jobs, complete=True)
        return [job.future.result() for job in jobs]

    def score(self, ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Natural-log probabilities of tokens 1 to n-1 of each text, given all tokens before in it.

        Raises
        ------
        EngineClosed : the engine was closed.
        """

        def work() -> list[list[float]]:
            with evaluating(self.model):
                return self._scorer.score(ids, self.max_batch_tokens)

        return cast(list[list[float]], self._scheduler.call(work).result())

    def keep_context(self, ids: Sequence[int], cache: Cache) -> None:
        """Keep a context that was read elsewhere; requests that begin with it are not prefilled again.

        It does not count against `prefix_cache_tokens`, and goes when the model changes or the engine closes.

        Parameters
        ----------
        ids : token ids of the context
        cache : its keys and values, one row; copied

        Raises
        ------
        UnsupportedModel : the model's cache cannot begin in the middle of a row. CacheError : ids and cache differ in
            length. EngineClosed : the engine was closed.
        """

        def work() -> None:
            self._follow_model()
            self._store.pin(prefix_key(ids, len(ids)), self._generation.copied(cache, len(ids)), len(ids))

        self._scheduler.call(work).result()

    def close(self) -> None:
        """Finish the batch at hand, fail what waits, and switch the recipe off if `from_spec` switched it on."""
        self._scheduler.close()
        self._store.clear()
        self._levers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, jobs: list[Job]) -> None:
        self._follow_model()
        waiting: list[tuple[Job, Row]] = []
        dependence = length_dependence(self.model)
        prefixes = self._prefixes([job.request for job in jobs], dependence)
        for job, prefix in zip(jobs, prefixes, strict=True):
            row = self._row(job.request, prefix)
            if row.budget < 1:
                queued = perf_counter() - job.arrived
                refused = Result([], "", "model_length", Usage(), queue_seconds=queued)
                job.future.set_result(refused)
            else:
                waiting.append((job, row))
        works = [
            Work(
                length=len(row.request.ids),
                prefix=row.prefix,
                new_tokens=row.budget,
                family=prefix_key(row.request.ids, row.prefix) if row.prefix else b"",
                sampling=row.request.sampling,
            )
            for _, row in waiting
        ]
        with evaluating(self.model):
            merge = self._generation.shares and dependence == "none"
            for batch in plan(works, self.max_batch_tokens, merge=merge):
                started = perf_counter()
                members = [waiting[index] for index in batch.order]
                self._generation.run([row for _, row in members], batch)
                for job, row in members:
                    job.future.set_result(self._generation.result(row, started - job.arrived))

    def _follow_model(self) -> None:
        """Forget contexts that were read in another state of the model."""
        state = model_state(self.model)
        if state != self._state:
            self._store.clear()
            self._generation.follow_model()
            self._state = state

    def _prefixes(self, requests: Sequence[Request], dependence: str) -> list[int]:
        if not self._generation.shares or dependence == "blind":
            return [0] * len(requests)
        named = [request.prefix_length or self._store.pinned_length(request.ids) for request in requests]
        if not self.share_prefixes or dependence != "none":
            return named
        unnamed = [index for index, length in enumerate(named) if length == 0]
        for index, length in zip(
            unnamed, self._store.shared_lengths([requests[index].ids for index in unnamed]), strict=True
        ):
            named[index] = length
        return named

    def _row(self, request: Request, prefix: int) -> Row:
        limit = self.context_length if self.enforce_context_length else None
        room = request.max_new_tokens if limit is None else limit - len(request.ids)
        if room < request.max_new_tokens:
            return Row(request, prefix, room, "model_length")
        return Row(request, prefix, request.max_new_tokens, "max_tokens")
