"""From a sample to what is really sent: the prompt worded, cut to the window, and asked of a model here or elsewhere.

Cutting is recorded with every question. Questions on one document go together, so that a local model reads what they
share once. Nothing here scores.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from farspan.evals.asking import Heard, without_reasoning
from farspan.evals.documents.base import CONTEXT, BenchmarkError, DocumentBenchmark, Prompt, Reading
from farspan.evals.schema import LongSample
from farspan.evals.truncate import FittedPrompt, fit_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from farspan.engine import Engine
    from farspan.evals.endpoint import EndpointSettings


@dataclass(frozen=True)
class Asked:
    """One prompt as it is sent.

    cut : what `FittedPrompt.metadata` records; empty where nothing could be counted
    too_long : it was neither cut nor does it fit, so it is not sent
    """

    sample: LongSample
    system: str
    user: str
    chat: bool
    max_new_tokens: int
    cut: Mapping[str, object]
    too_long: bool = False

    @property
    def truncated(self) -> bool:
        """Whether the document was cut."""
        return bool(self.cut.get("truncated"))


class PromptFile:
    """A user's own wording: a JSON object of set names and templates with `{context}` and `{input}`.

    Raises
    ------
    BenchmarkError : it cannot be read, or a template lacks the document.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BenchmarkError(f"cannot read prompts from {path}: {error}") from error
        if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
            raise BenchmarkError(f"{path} is no object of set names and templates")
        bad = [name for name, text in found.items() if text.count(CONTEXT) != 1]
        if bad:
            raise BenchmarkError(f"{path}: the template of '{bad[0]}' must hold {CONTEXT} once")
        self.templates: dict[str, str] = found

    def worded(self, name: str, sample: LongSample, prompt: Prompt) -> Prompt:
        """The user's wording of a set, or the benchmark's own where the file has none."""
        template = self.templates.get(name)
        if template is None:
            return prompt
        return replace(prompt, user=template.replace("{input}", _harmless(sample.question)), system="")


@dataclass(frozen=True)
class Fitter:
    """Makes what is sent.

    tokenizer : counts and cuts; None sends everything as it is
    window : tokens the model reads, answer included
    truncate : cut what is too long; else it is not asked and counted
    prompts : the user's own wording
    """

    benchmark: DocumentBenchmark
    reading: Reading
    tokenizer: PreTrainedTokenizerBase | None = None
    window: int | None = None
    truncate: bool = True
    prompts: PromptFile | None = None

    def asked(self, sample: LongSample, prompt: Prompt | None = None) -> Asked:
        """A sample's prompt; another one than the benchmark's first where given.

        Raises
        ------
        TruncationError : the window has no room for any of the document.
        """
        dataset = self.benchmark.datasets[sample.task]
        if prompt is None:
            prompt = self.benchmark.prompt(sample, self.reading)
            if self.prompts is not None:
                prompt = self.prompts.worded(dataset.name, sample, prompt)
        limit = sample.max_new_tokens or dataset.max_new_tokens
        context = sample.text
        if CONTEXT not in prompt.user:
            # A question that is asked without the document; the empty place keeps it one prompt.
            prompt, context = replace(prompt, user=CONTEXT + prompt.user), ""
        if self.tokenizer is None or self.window is None:
            user = prompt.user.replace(CONTEXT, context)
            return Asked(sample, prompt.system, user, prompt.chat, limit, {})
        chat = prompt.chat and bool(getattr(self.tokenizer, "chat_template", None))
        fitted = self._fitted(prompt, context, limit, chat)
        user = fitted.text if fitted.text is not None else (fitted.messages or [{}])[-1]["content"]
        system = prompt.system if chat else ""
        if not self.truncate and fitted.truncated:
            return Asked(sample, system, "", chat, limit, fitted.metadata(), too_long=True)
        return Asked(sample, system, user, chat, limit, fitted.metadata())

    def _fitted(self, prompt: Prompt, context: str, new_tokens: int, chat: bool) -> FittedPrompt:
        assert self.tokenizer is not None
        assert self.window is not None
        official = self.benchmark.official_fit(self.tokenizer, prompt, context, self.window, new_tokens)
        if self.reading == "official" and official is not None:
            return official
        messages = [{"role": "user", "content": prompt.user}]
        if prompt.system:
            messages.insert(0, {"role": "system", "content": prompt.system})
        joined = f"{prompt.system}\n\n{prompt.user}" if prompt.system else prompt.user
        limit = self.window if self.reading == "fixed" else self.benchmark.official_limit(self.window)
        return fit_prompt(
            self.tokenizer,
            messages if chat else joined,
            context,
            limit,
            new_tokens,
            self.reading,
            rule=self.benchmark.truncation,
        )


class Voice(Protocol):
    """A model that answers prompts."""

    def ask(self, batch: Sequence[Asked]) -> list[Heard]:
        """The replies, in order; nothing sent gets one that says why there is none."""


class LocalVoice:
    """A model in this process, through the engine; what prompts share with their neighbours is read once."""

    def __init__(
        self, engine: Engine, tokenizer: PreTrainedTokenizerBase, *, temperature: float = 0.0, thinking_tokens: int = 0
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.temperature = temperature
        self.thinking_tokens = thinking_tokens

    def ask(self, batch: Sequence[Asked]) -> list[Heard]:
        from farspan.engine import Request

        sent = [asked for asked in batch if not asked.too_long]
        ids = [self._ids(asked) for asked in sent]
        shared = _shared_lengths([asked.sample.shared_context_key for asked in sent], ids)
        results = iter(
            self.engine.generate_batch(
                [
                    Request(
                        ids=row,
                        max_new_tokens=asked.max_new_tokens + self.thinking_tokens,
                        temperature=self.temperature,
                        prefix_length=prefix,
                    )
                    for asked, row, prefix in zip(sent, ids, shared, strict=True)
                ]
            )
        )
        rows = iter(ids)
        replies = []
        for asked in batch:
            if asked.too_long:
                replies.append(Heard(error="the prompt is longer than the window", too_long=True))
                continue
            result = next(results)
            cut = result.stop_reason != "stop"
            text = without_reasoning(result.text, cut)[0] if self.thinking_tokens else result.text
            tokens = (len(next(rows)), result.usage.output_tokens)
            replies.append(Heard(text=text, truncated=cut, input_tokens=tokens[0], output_tokens=tokens[1]))
        return replies

    def _ids(self, asked: Asked) -> list[int]:
        if not asked.chat:
            text = f"{asked.system}\n\n{asked.user}" if asked.system else asked.user
            return [int(token) for token in self.tokenizer(text, verbose=False)["input_ids"]]
        messages = [{"role": "user", "content": asked.user}]
        if asked.system:
            messages.insert(0, {"role": "system", "content": asked.system})
        text = str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        return [int(token) for token in self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]


class RemoteVoice:
    """A model behind an OpenAI-compatible address; system messages stand at the head of the user's."""

    def __init__(self, settings: EndpointSettings, *, thinking_tokens: int = 0) -> None:
        self.settings = settings
        self.thinking_tokens = thinking_tokens

    def ask(self, batch: Sequence[Asked]) -> list[Heard]:
        return asyncio.run(self._all(batch))

    async def _all(self, batch: Sequence[Asked]) -> list[Heard]:
        from farspan.evals.endpoint import Endpoint
        from farspan.evals.prompt import Prompt as Text

        async with Endpoint(self.settings) as endpoint:

            async def one(asked: Asked) -> Heard:
                if asked.too_long:
                    return Heard(error="the prompt is longer than the window", too_long=True)
                text = f"{asked.system}\n\n{asked.user}" if asked.system else asked.user
                return await endpoint.ask(Text(text, ""), asked.max_new_tokens + self.thinking_tokens)

            return list(await asyncio.gather(*(one(asked) for asked in batch)))


def _shared_lengths(keys: Sequence[str], ids: Sequence[Sequence[int]]) -> list[int]:
    """How many ids each prompt has in common with all others on its document, 0 where it is alone."""
    groups: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key or str(index), []).append(index)
    shared = [0] * len(ids)
    for members in groups.values():
        if len(members) > 1:
            columns = zip(*(ids[index] for index in members), strict=False)
            common = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
            for index in members:
                shared[index] = min(common, len(ids[index]) - 1)
    return shared


def _harmless(text: str) -> str:
    """A question whose text holds the document's placeholder must not be taken for it."""
    return text.replace(CONTEXT, CONTEXT.replace("{", "{ "))
