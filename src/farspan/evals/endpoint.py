"""One model behind an OpenAI-compatible address: prompts out, replies in, with patience.

Only the two calls every such server has are used, chat and plain completion. What can pass (a full queue, a time-out, a
cut connection, an answer that is no answer) is tried again; what cannot (a wrong key, an unknown model) ends the run at
once; a prompt that is refused is an outcome of its question. Nothing here knows samples or scores.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from farspan.errors import FarspanError
from farspan.evals.asking import Heard, without_reasoning
from farspan.evals.prompt import Prompt

Sleep = Callable[[float], Awaitable[None]]

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
FATAL = frozenset({401, 403, 404, 405, 407})
LONGEST_PAUSE = 60.0
_TOO_LONG = re.compile(
    r"context.{0,12}(length|window|size)|too long|too large|max(imum)?[_ ](model[_ ]len|context|input|prompt)|"
    r"exceeds?.{0,40}token|reduce the length",
    re.IGNORECASE,
)


class EndpointError(FarspanError):
    """An address that no question can be asked at; says what it answered."""


class Garbled(Exception):
    """A reply that is none: no JSON, or not of the form that was asked for."""


class EndpointSettings(BaseModel):
    """Where a model is and how it is asked.

    url : up to and with `/v1`
    model : its name there
    api : `chat` for conversations, `completions` for plain text to continue
    continues : the server goes on with a started assistant message (vLLM and SGLang do)
    connections : questions asked at the same time
    timeout : seconds for one reply
    attempts : times a question is sent before it is given up
    pause : seconds before the second attempt; doubled for each further one, and never less than the server asks for
    extra : fields put into every request
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    model: str
    key: SecretStr = SecretStr("")
    api: Literal["chat", "completions"] = "chat"
    continues: bool = False
    connections: int = Field(default=8, ge=1)
    timeout: float = Field(default=600.0, gt=0)
    attempts: int = Field(default=6, ge=1)
    pause: float = Field(default=1.0, ge=0)
    extra: Mapping[str, object] = {}

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        if not re.match(r"https?://[^/]", url):
            raise ValueError(f"'{url}' is no address; write for example http://localhost:8000/v1")
        return url.rstrip("/")


class Endpoint:
    """The model of the settings, as an asynchronous context manager.

    Parameters
    ----------
    sleep : waits between attempts
    """

    def __init__(self, settings: EndpointSettings, *, sleep: Sleep = asyncio.sleep) -> None:
        self.settings = settings
        self._sleep = sleep
        key = settings.key.get_secret_value()
        self._client = httpx.AsyncClient(
            timeout=settings.timeout,
            limits=httpx.Limits(max_connections=settings.connections),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def ask(self, prompt: Prompt, max_tokens: int, stop: tuple[str, ...] = ()) -> Heard:
        """What the model says to a prompt, or why it says nothing.

        Parameters
        ----------
        prompt : its answer prefix is continued
        max_tokens : of the reply, reasoning included

        Raises
        ------
        EndpointError : the address, the key or the model's name is wrong, so that no question can be asked.
        """
        path, body = self._request(prompt, max_tokens, stop)
        said, wanted = "", 0.0
        for attempt in range(self.settings.attempts):
            if attempt:
                await self._sleep(min(max(self.settings.pause * 2 ** (attempt - 1), wanted), LONGEST_PAUSE))
            wanted = 0.0
            try:
                response = await self._client.post(self.settings.url + path, json=body)
            except httpx.TimeoutException:
                said = f"no reply within {self.settings.timeout:g} seconds"
                continue
            except (httpx.TransportError, httpx.DecodingError) as error:
                said = f"the connection failed: {str(error) or type(error).__name__}"
                continue
            if response.status_code == 200:
                try:
                    return _heard(response)
                except Garbled as error:
                    said = f"the reply cannot be read: {error}"
                    continue
            said = f"status {response.status_code}: {_message(response)}"
            if response.status_code in FATAL:
                raise EndpointError(f"{self.settings.url}{path} answers {said}; check address, key and model name")
            if response.status_code not in PASSING:
                return Heard(error=said, too_long=_TOO_LONG.search(said) is not None)
            wanted = _retry_after(response)
        return Heard(error=f"{said} ({self.settings.attempts} attempts)")

    def _request(self, prompt: Prompt, max_tokens: int, stop: tuple[str, ...]) -> tuple[str, dict[str, object]]:
        body: dict[str, object] = {"model": self.settings.model, "temperature": 0.0, "max_tokens": max_tokens}
        if stop:
            body["stop"] = list(stop)
        if self.settings.api == "completions":
            return "/completions", {**body, "prompt": prompt.text, **self.settings.extra}
        messages = [{"role": "user", "content": prompt.user}]
        if prompt.answer_prefix:
            messages.append({"role": "assistant", "content": prompt.answer_prefix})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return "/chat/completions", {**body, "messages": messages, **self.settings.extra}


def _heard(response: httpx.Response) -> Heard:
    """A reply of either call."""
    try:
        found = response.json()
    except ValueError as error:
        raise Garbled(f"no JSON, but {response.text[:60]!r}") from error
    choices = found.get("choices") if isinstance(found, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Garbled(f"it has no choices: {response.text[:60]!r}")
    choice = choices[0]
    message = choice.get("message", choice)
    if not isinstance(message, dict) or not {"content", "text"} & message.keys():
        raise Garbled(f"its choice has neither message nor text: {response.text[:60]!r}")
    truncated = choice.get("finish_reason") == "length"
    text = _text(message.get("content", message.get("text")))
    apart = _text(message.get("reasoning_content") or message.get("reasoning"))
    answer, within = (text, "") if apart else without_reasoning(text, truncated)
    usage = found.get("usage") if isinstance(found.get("usage"), dict) else {}
    details = usage.get("completion_tokens_details")
    tokens = _number(usage.get("completion_tokens"))
    reasoning = _number(details.get("reasoning_tokens")) if isinstance(details, dict) else 0
    thought = apart or within
    return Heard(
        text=answer,
        truncated=truncated,
        input_tokens=_number(usage.get("prompt_tokens")),
        output_tokens=tokens,
        reasoning_tokens=reasoning or round(tokens * len(thought) / max(len(thought) + len(answer), 1)),
    )


def _text(content: object) -> str:
    """Text of a message, which may come in parts."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _number(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 0


def _message(response: httpx.Response) -> str:
    """What a server says about an error, on one line."""
    try:
        found = response.json()
    except ValueError:
        found = response.text
    while isinstance(found, dict):
        found = found.get("error", found.get("message", found.get("detail", "")))
    return " ".join(str(found).split())[:300] or response.reason_phrase


def _retry_after(response: httpx.Response) -> float:
    """Seconds the server asks to wait."""
    try:
        return max(float(response.headers.get("retry-after", "0")), 0.0)
    except ValueError:
        return 0.0
