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
from string import Formatter
from typing import TYPE_CHECKING, Literal, Protocol

from farspan.evals.asking import Heard, without_reasoning
from farspan.evals.documents.base import CONTEXT, BenchmarkError, Dataset, DocumentBenchmark, Prompt, Reading
from farspan.evals.schema import LongSample
from farspan.evals.truncate import FittedPrompt, TruncationError, fit_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from farspan.engine import Engine
    from farspan.evals.endpoint import EndpointSettings


Template = Literal["auto", "on", "off"]


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
    """A user's own wording: a JSON object of set names and templates, as published prompt files are.

    A template is text with `{context}`, `{input}` and the benchmark's further slots, written for `str.format`, so that
    braces meant as such are doubled; or an object of `system` and `user` texts.

    Raises
    ------
    BenchmarkError : it cannot be read, or a template lacks the document.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BenchmarkError(f"cannot read prompts from {path}: {error}") from error
        if not isinstance(found, dict):
            raise BenchmarkError(f"{path} is no object of set names and templates")
        self.path = path
        self.templates: dict[str, dict[str, str]] = {}
        for name, template in found.items():
            parts = {"user": template} if isinstance(template, str) else template
            if not isinstance(parts, dict) or not isinstance(parts.get("user"), str):
                raise BenchmarkError(f"{path}: the template of '{name}' is neither text nor an object with 'user'")
            self.templates[name] = {"user": parts["user"], "system": str(parts.get("system", ""))}

    def worded(self, name: str, slots: Mapping[str, str], prompt: Prompt) -> Prompt:
        """The user's wording of a set, or the benchmark's own where the file has none.

        Raises
        ------
        BenchmarkError : a template without the document, or with a slot that is not known.
        """
        template = self.templates.get(name)
        if template is None:
            return prompt
        texts = {part: self._filled(name, text, slots) for part, text in template.items()}
        if texts["user"].count(CONTEXT) != 1:
            raise BenchmarkError(f"{self.path}: the template of '{name}' must hold {CONTEXT} once")
        return replace(prompt, user=texts["user"], system=texts["system"])

    def _filled(self, name: str, template: str, slots: Mapping[str, str]) -> str:
        filled = []
        try:
            for literal, slot, _, _ in Formatter().parse(template):
                filled.append(literal)
                if slot == "context":
                    filled.append(CONTEXT)
                elif slot is not None:
                    filled.append(_harmless(slots[slot]))
        except (ValueError, KeyError) as error:
            known = ", ".join(f"{{{slot}}}" for slot in ("context", *slots))
            raise BenchmarkError(f"{self.path}: the template of '{name}': {error}; slots are {known}") from error
        return "".join(filled)


@dataclass(frozen=True)
class Fitter:
    """Makes what is sent.

    tokenizer : counts and cuts; None sends everything as it is
    window : tokens the model reads, answer included
    truncate : cut what is too long; else it is not asked and counted
    prompts : the user's own wording
    template : use the chat template for the sets that are published with one (`auto`), for all, or for none
    """

    benchmark: DocumentBenchmark
    reading: Reading
    tokenizer: PreTrainedTokenizerBase | None = None
    window: int | None = None
    truncate: bool = True
    prompts: PromptFile | None = None
    template: Template = "auto"

    def __post_init__(self) -> None:
        if self.template == "on" and self.tokenizer is not None and not self._has_template:
            raise BenchmarkError("the tokenizer has no chat template; use template 'auto' or 'off'")

    @property
    def _has_template(self) -> bool:
        return bool(getattr(self.tokenizer, "chat_template", None))

    def check(self, datasets: Sequence[Dataset]) -> None:
        """Refuse sets whose answers alone fill the window, before anything is asked.

        Raises
        ------
        TruncationError : names them, and what to do.
        """
        if self.window is None or not self.truncate:
            return
        most = max((dataset.max_new_tokens for dataset in datasets), default=0)
        if most >= self.window:
            names = [dataset.name for dataset in datasets if dataset.max_new_tokens >= self.window]
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise TruncationError(
                f"an answer takes up to {most} tokens in {shown}, and the window of {self.window} is to hold prompt "
                f"and answer{wider(self.window, most)}, or leave these sets out"
            )

    def block(self, samples: Sequence[LongSample]) -> list[Asked]:
        """The prompts of samples, in order.

        Where a document is too long for questions on it, all of them get it cut in the same place, that of the longest
        question, so that what they share is still read once. The published rules cut each prompt for itself.
        """
        if self.reading == "official" or self.tokenizer is None or self.window is None:
            return [self.asked(sample) for sample in samples]
        leaders: dict[tuple[str, str], LongSample] = {}
        for sample in samples:
            key = (sample.task, sample.shared_context_key or sample.id)
            if key not in leaders or len(sample.question) > len(leaders[key].question):
                leaders[key] = sample
        led = {key: self.asked(sample) for key, sample in leaders.items()}
        return [self._like(led[sample.task, sample.shared_context_key or sample.id], sample) for sample in samples]

    def asked(self, sample: LongSample, prompt: Prompt | None = None) -> Asked:
        """A sample's prompt; another one than the benchmark's first where given.

        Raises
        ------
        TruncationError : the window has no room for any of the document.
        """
        prompt = self._worded(sample) if prompt is None else _one_document(prompt)
        limit = sample.max_new_tokens or self.benchmark.datasets[sample.task].max_new_tokens
        context = sample.text
        if CONTEXT not in prompt.user:
            # a question without the document, or one that follows a first reply: all of it is what may be cut
            prompt, context = replace(prompt, user=CONTEXT), prompt.user
        chat = self._chat(prompt)
        if self.tokenizer is None or self.window is None:
            user = prompt.user.replace(CONTEXT, context)
            return Asked(sample, prompt.system, user, chat, limit, {})
        try:
            fitted = self._fitted(prompt, context, limit, chat)
        except TruncationError as error:
            if not self.truncate:
                return Asked(sample, prompt.system, "", chat, limit, {}, too_long=True)
            raise TruncationError(f"{sample.task}: {error}{wider(self.window, limit)}") from error
        if fitted.text is not None:
            system, user = "", fitted.text
        else:
            system, user = prompt.system, (fitted.messages or [{}])[-1]["content"]
        if not self.truncate and fitted.truncated:
            return Asked(sample, system, "", chat, limit, fitted.metadata(), too_long=True)
        return Asked(sample, system, user, chat, limit, fitted.metadata())

    def _worded(self, sample: LongSample) -> Prompt:
        prompt = self.benchmark.prompt(sample, self.reading)
        if self.prompts is not None:
            prompt = self.prompts.worded(sample.task, self.benchmark.slots(sample), prompt)
        return _one_document(prompt)

    def _chat(self, prompt: Prompt) -> bool:
        if self.template == "off":
            return False
        wanted = prompt.chat or self.template == "on"
        return wanted and (self.tokenizer is None or self._has_template)

    def _like(self, led: Asked, sample: LongSample) -> Asked:
        """A sample asked with its document cut as in another prompt, if that fits."""
        if led.sample is sample or led.too_long:
            return led if led.sample is sample else self.asked(sample)
        assert self.tokenizer is not None
        assert self.window is not None
        prompt, context, span = self._worded(sample), sample.text, led.cut.get("cut_span")
        if isinstance(span, tuple):
            context = context[: span[0]] + context[span[1] :]
        user, chat = prompt.user.replace(CONTEXT, context), self._chat(prompt)
        limit = sample.max_new_tokens or self.benchmark.datasets[sample.task].max_new_tokens
        system = prompt.system
        if not chat:
            system, user = "", f"{system}\n\n{user}" if system else user
        asked = Asked(sample, system, user, chat, limit, led.cut)
        return asked if len(prompt_ids(asked, self.tokenizer)) + limit <= self.window else self.asked(sample)

    def _fitted(self, prompt: Prompt, context: str, new_tokens: int, chat: bool) -> FittedPrompt:
        assert self.tokenizer is not None
        assert self.window is not None
        if self.reading == "official":
            own = self.benchmark.official_fit(self.tokenizer, prompt, context, self.window, new_tokens)
            if own is not None:
                return own
        messages = [{"role": "user", "content": prompt.user}]
        if prompt.system:
            messages.insert(0, {"role": "system", "content": prompt.system})
        joined = f"{prompt.system}\n\n{prompt.user}" if prompt.system else prompt.user
        limit = self.window if self.reading == "fixed" else self.benchmark.official_limit(self.window)
        if limit < 2:
            raise TruncationError(
                f"a window of {self.window} tokens leaves nothing of the limit that published runs allow a prompt"
            )
        return fit_prompt(
            self.tokenizer,
            messages if chat else joined,
            context,
            limit,
            new_tokens,
            self.reading,
            rule=self.benchmark.truncation,
        )


def wider(window: int, new_tokens: int) -> str:
    """What to do about a window that is too short for answers of a length."""
    factor = 2
    while factor * window < 4 * new_tokens:
        factor *= 2
    return (
        f"; give a larger --window (window= under Inspect), stretch the model's own with a lever, such as --recipe "
        f"yarn:factor={factor}"
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
        ids = [prompt_ids(asked, self.tokenizer) for asked in sent]
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


def prompt_ids(asked: Asked, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a prompt, in the chat template or as raw text."""
    if not asked.chat:
        text = f"{asked.system}\n\n{asked.user}" if asked.system else asked.user
        return [int(token) for token in tokenizer(text, verbose=False)["input_ids"]]
    messages = [{"role": "user", "content": asked.user}]
    if asked.system:
        messages.insert(0, {"role": "system", "content": asked.system})
    text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return [int(token) for token in tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]


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


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, a hub name or `reference`."""
    from transformers import AutoTokenizer

    from farspan.models import model_path

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model_path(name))
    return tokenizer


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


def _one_document(prompt: Prompt) -> Prompt:
    """A prompt in which nothing behind the document's place can be taken for that place."""
    head, place, tail = prompt.user.partition(CONTEXT)
    return replace(prompt, user=head + place + _harmless(tail))
