"""A Farspan engine as an Inspect model.

Building one loads nothing: Inspect builds a second one by name only, to look the model up. The engine is loaded with
the first generation and shared by all models of this process that have the same fingerprint, which is also part of
Inspect's cache key, so that answers under two recipes never mix.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    Content,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelInfo,
    ModelOutput,
    ModelUsage,
    StopReason,
    TopLogprob,
    set_model_info,
)
from inspect_ai.tool import ToolCall, ToolChoice, ToolInfo
from pydantic import ValidationError

from farspan.engine.request import Request, Result
from farspan.engine.shared import EngineRegistry, SharedEngine
from farspan.engine.spec import ModelSpec, fingerprint
from farspan.errors import FarspanError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ENGINES = EngineRegistry()
DEFAULT_MAX_TOKENS = 2048
ROWS = 64


class ProviderError(FarspanError):
    """Model arguments that the provider cannot use."""


class FarspanAPI(ModelAPI):
    """Model API of `farspan/...`.

    Parameters
    ----------
    model_name : a folder, a hub name or `reference`; any label if `path` is among the model arguments
    base_url, api_key, config : as Inspect hands them over
    model_args : fields of `ModelSpec`

    Raises
    ------
    ProviderError : an argument is unknown or out of range.
    FarspanError : the recipe cannot be built.
    """

    provider: ClassVar[str] = "farspan"

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),
        **model_args: object,
    ) -> None:
        super().__init__(model_name=model_name, base_url=base_url, api_key=api_key, config=config)
        try:
            self.spec = ModelSpec.model_validate({"path": model_name, **model_args})
        except ValidationError as error:
            problem = error.errors()[0]
            field = ".".join(str(part) for part in problem["loc"])
            raise ProviderError(
                f"model argument '{field}': {problem['msg']}; allowed: {', '.join(ModelSpec.model_fields)}"
            ) from error
        self.fingerprint = fingerprint(self.spec)
        self.base_url = f"farspan://{self.fingerprint}"
        self._describe(_configured_length(self.spec))

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Render the conversation, generate, and take the answer apart."""
        engine = await asyncio.to_thread(self.engine)
        offered = [] if tool_choice == "none" else tools
        prompt = await asyncio.to_thread(_prompt, engine.tokenizer, input, offered)
        requests = [_request(prompt, config, branch) for branch in range(config.num_choices or 1)]
        results = await asyncio.gather(*(engine.generate(request) for request in requests))
        return ModelOutput(
            model=self.model_name,
            choices=[self._choice(engine.tokenizer, prompt, result, bool(offered)) for result in results],
            usage=_usage(results),
            time=max(result.seconds for result in results),
        )

    def engine(self) -> SharedEngine:
        """The shared engine; loads the model if this process has none of this fingerprint."""
        engine = _ENGINES.get(self.fingerprint, self.spec, self.load)
        self._describe(engine.context_length)
        return engine

    def load(self) -> SharedEngine:
        """A new engine for this model."""
        from farspan.engine.engine import Engine

        return Engine.from_spec(self.spec)

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        engine = await asyncio.to_thread(self.engine)
        return [int(token) for token in engine.tokenizer(text, add_special_tokens=False)["input_ids"]]

    async def count_text_tokens(self, text: str) -> int:
        """Tokens of a text by the model's own tokenizer."""
        return len(await self.tokenize(text))

    def max_tokens(self) -> int | None:
        """Tokens of an answer where the task sets no limit."""
        return DEFAULT_MAX_TOKENS

    def max_connections(self) -> int:
        """Requests in flight: as many as fill a batch."""
        return ROWS

    def connection_key(self) -> str:
        """Models of one engine share their connections."""
        return self.fingerprint

    def collapse_user_messages(self) -> bool:
        """Chat templates want roles to take turns."""
        return True

    def collapse_assistant_messages(self) -> bool:
        """Chat templates want roles to take turns."""
        return True

    def _describe(self, context_length: int | None) -> None:
        set_model_info(f"{self.provider}/{self.model_name}", ModelInfo(context_length=context_length))

    def _choice(
        self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], result: Result, has_tools: bool
    ) -> ChatCompletionChoice:
        from farspan.engine.chat import parse_reply

        reply = parse_reply(tokenizer, prompt, result.ids, result.text)
        calls = [
            ToolCall(
                id=f"{call.name or 'unknown'}_{index}",
                function=call.name or "unknown",
                arguments=dict(call.arguments),
                parse_error=call.problem or None,
            )
            for index, call in enumerate(reply.calls if has_tools else ())
        ]
        text = reply.text if has_tools or not reply.calls else result.text
        content: str | list[Content] = text
        if reply.reasoning:
            content = [ContentReasoning(reasoning=reply.reasoning), ContentText(text=text)]
        message = ChatMessageAssistant(
            content=content, tool_calls=calls or None, model=self.model_name, source="generate"
        )
        stop_reason: StopReason = "tool_calls" if calls and result.stop_reason == "stop" else result.stop_reason
        return ChatCompletionChoice(message=message, stop_reason=stop_reason, logprobs=_logprobs(tokenizer, result))


def _prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[ChatMessage], tools: Sequence[ToolInfo]
) -> list[int]:
    from farspan.engine.chat import prompt_ids

    schemas = [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters.model_dump(mode="json", exclude_none=True),
            },
        }
        for tool in tools
    ]
    return prompt_ids(tokenizer, [_plain(message) for message in messages], schemas)


def _plain(message: ChatMessage) -> dict[str, object]:
    plain: dict[str, object] = {"role": message.role, "content": message.text}
    if isinstance(message, ChatMessageAssistant):
        thoughts = [part.reasoning for part in _parts(message) if isinstance(part, ContentReasoning)]
        if thoughts:
            plain["reasoning_content"] = "\n".join(thoughts)
        if message.tool_calls:
            plain["tool_calls"] = [
                {"type": "function", "function": {"name": call.function, "arguments": call.arguments}}
                for call in message.tool_calls
            ]
    if isinstance(message, ChatMessageTool):
        plain["name"] = message.function or ""
        plain["tool_call_id"] = message.tool_call_id or ""
    return plain


def _parts(message: ChatMessage) -> list[Content]:
    return [] if isinstance(message.content, str) else list(message.content)


def _request(prompt: Sequence[int], config: GenerateConfig, branch: int) -> Request:
    alternatives = max(1, config.top_logprobs or 1) if config.logprobs else 0
    return Request(
        ids=prompt,
        max_new_tokens=config.max_tokens or DEFAULT_MAX_TOKENS,
        temperature=0.0 if config.temperature is None else config.temperature,
        top_p=1.0 if config.top_p is None else config.top_p,
        top_k=config.top_k or 0,
        stop=tuple(config.stop_seqs or ()),
        seed=None if config.seed is None else _branch_seed(config.seed, branch),
        logprobs=alternatives,
        prefix_length=len(prompt) - 1 if (config.num_choices or 1) > 1 else 0,
    )


def _branch_seed(seed: int, branch: int) -> int:
    """A seed for each branch of one prompt; a hash, since generators on CPUs look at 32 bits of a seed only."""
    if branch == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{branch}".encode()).digest()[:4], "big")


def _usage(results: Sequence[Result]) -> ModelUsage:
    cached = sum(result.usage.cached_tokens for result in results)
    return ModelUsage(
        input_tokens=sum(result.usage.input_tokens for result in results),
        output_tokens=sum(result.usage.output_tokens for result in results),
        total_tokens=sum(result.usage.total_tokens for result in results),
        input_tokens_cache_read=cached or None,
    )


def _logprobs(tokenizer: PreTrainedTokenizerBase, result: Result) -> Logprobs | None:
    if result.logprobs is None:
        return None

    def text(token: int) -> str:
        return str(tokenizer.decode([token]))

    return Logprobs(
        content=[
            Logprob(
                token=text(entry.id),
                logprob=entry.logprob,
                top_logprobs=[TopLogprob(token=text(token), logprob=value) for token, value in entry.top],
            )
            for entry in result.logprobs
        ]
    )


def _configured_length(spec: ModelSpec) -> int | None:
    """The window that the model's configuration file states, before anything is loaded."""
    if spec.max_model_len is not None:
        return spec.max_model_len
    try:
        document = json.loads((Path(spec.path).expanduser() / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    length = document.get("max_position_embeddings") if isinstance(document, dict) else None
    return length if isinstance(length, int) else None
