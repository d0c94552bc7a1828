"""The engine of a masked-diffusion model: requests in, results out, as the autoregressive engine has them.

Answers are filled in over whole blocks and then cut to what was asked for: at the limit, behind the end token, and at
stop texts, which cannot end an answer early since no token is the last one until its block is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Self

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from farspan.engine.batching import Job, Scheduler
from farspan.engine.denoiser import ModelDenoiser
from farspan.engine.diffusion_sampling import DiffusionConfig, generate_masked_diffusion
from farspan.engine.forward import evaluating, left_padded
from farspan.engine.request import Request, RequestError, Result, Sampling, StopReason, Usage
from farspan.engine.spec import ModelSpec


class DiffusionEngine:
    """Generates with a masked-diffusion model; a context manager with one worker thread.

    Parameters
    ----------
    model, tokenizer : as loaded; levers, if any, are on already or switched on by `from_spec`
    config : block length, guidance and the like; its ratio of steps to tokens is kept for answers of any length, and
        temperature, seed and length come from the requests
    max_batch_tokens : rows times (longest prompt + answer) of a batch, at most, unless one row alone is longer
    window_ms : how long a request waits for company, milliseconds
    context_length : the window in tokens; the model's configuration, as it stands at each call, where left out

    Raises
    ------
    UnsupportedModel : the model names no mask token.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: DiffusionConfig | None = None,
        *,
        max_batch_tokens: int = 16_384,
        window_ms: float = 5.0,
        context_length: int | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.config = config or DiffusionConfig()
        self.max_batch_tokens = max_batch_tokens
        self._denoiser = ModelDenoiser(model)
        self._context_length = context_length
        self._scheduler = Scheduler(self._run, window_ms / 1000)
        self._levers = ExitStack()

    @classmethod
    def from_spec(cls, spec: ModelSpec, config: DiffusionConfig | None = None) -> DiffusionEngine:
        """Load a model and switch its recipe on for the engine's life.

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
            engine = cls(model, tokenizer, config, context_length=spec.max_model_len)
            engine._levers = levers.pop_all()
        return engine

    @property
    def context_length(self) -> int | None:
        """The window in tokens; None if the model has no limit."""
        if self._context_length is not None:
            return self._context_length
        length = getattr(self.model.config, "max_position_embeddings", None)
        return length if isinstance(length, int) and length > 0 else None

    async def generate(self, request: Request) -> Result:
        """Generate for one request; requests that arrive within the window share a batch.

        Raises
        ------
        RequestError : the request asks for what masked diffusion has no notion of. EngineClosed : it was closed.
        """
        job = Job(_checked(request))
        self._scheduler.submit([job], complete=False)
        return await asyncio.wrap_future(job.future)

    def generate_batch(self, requests: Sequence[Request]) -> list[Result]:
        """Generate for all requests and wait; results in the order of the requests. Raises as `generate` does."""
        if not requests:
            return []
        jobs = [Job(_checked(request)) for request in requests]
        self._scheduler.submit(jobs, complete=True)
        return [job.future.result() for job in jobs]

    def close(self) -> None:
        """Finish the batch at hand, fail what waits, and switch the recipe off if `from_spec` switched it on."""
        self._scheduler.close()
        self._levers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, jobs: list[Job]) -> None:
        groups: dict[object, list[Job]] = {}
        for number, job in enumerate(jobs):
            room = self._room(job.request)
            if room < 1:
                queued = perf_counter() - job.arrived
                job.future.set_result(Result([], "", "model_length", Usage(), queue_seconds=queued))
                continue
            # Noise belongs to a request and must not depend on its company.
            alone = number if job.request.temperature > 0 or self.config.remasking == "random" else None
            groups.setdefault((room, job.request.temperature, alone), []).append(job)
        with evaluating(self.model):
            for members in groups.values():
                longest = max(len(job.request.ids) for job in members) + self._room(members[0].request)
                rows = max(1, self.max_batch_tokens // longest)
                for first in range(0, len(members), rows):
                    self._answer(members[first : first + rows])

    def _room(self, request: Request) -> int:
        """Tokens that the answer may have."""
        limit = self.context_length
        return request.max_new_tokens if limit is None else min(request.max_new_tokens, limit - len(request.ids))

    def _answer(self, jobs: Sequence[Job]) -> None:
        started = perf_counter()
        first = jobs[0].request
        room = self._room(first)
        config = replace(
            self.config,
            gen_length=room,
            steps=max(1, round(room * self.config.steps / self.config.gen_length)),
            temperature=first.temperature,
            seed=first.seed,
        )
        ids, mask, _ = left_padded([job.request.ids for job in jobs], self._denoiser.device)
        rows = generate_masked_diffusion(self._denoiser, ids, config, mask)[:, ids.shape[1] :].tolist()
        seconds = perf_counter() - started
        for job, row in zip(jobs, rows, strict=True):
            job.future.set_result(self._result(job.request, row[:room], seconds, started - job.arrived))

    def _result(self, request: Request, ids: list[int], seconds: float, queued: float) -> Result:
        reason: StopReason = "max_tokens" if len(ids) == request.max_new_tokens else "model_length"
        end = self._denoiser.eos_token_id
        if end in ids:
            ids, reason = ids[: ids.index(end) + 1], "stop"
        text = self._text(request.ids[-1:], ids)
        cuts = [place for stop in request.stop if (place := text.find(stop)) >= 0]
        if cuts:
            text, reason = text[: min(cuts)], "stop"
        return Result(
            ids=ids,
            text=text,
            stop_reason=reason,
            usage=Usage(len(request.ids), 0, len(ids)),
            seconds=seconds,
            queue_seconds=queued,
        )

    def _text(self, last: Sequence[int], ids: Sequence[int]) -> str:
        """The answer as text; tokenizers that drop a leading space are given the prompt's last token for it."""
        before, both, alone = (
            str(self.tokenizer.decode(list(part), skip_special_tokens=True, clean_up_tokenization_spaces=False))
            for part in (last, [*last, *ids], ids)
        )
        return both[len(before) :] if both.startswith(before) else alone


def _checked(request: Request) -> Request:
    plain = Sampling(request.sampling.temperature, 1.0, 0, 0.0, 1.0, 0)
    if request.sampling != plain:
        raise RequestError(
            "masked diffusion samples by temperature and seed; leave out top_p, top_k, min_p, penalties and logprobs"
        )
    return request
