"""From messages to token ids and back: the tokenizer's chat template where it has one, raw text where not.

Pure functions on plain dictionaries; no model, no Inspect.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

Message = Mapping[str, object]

_THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
_CALL = re.compile(r"\s*<tool_call>\s*(.*?)\s*</tool_call>\s*", re.DOTALL)


@dataclass(frozen=True)
class CalledTool:
    """A tool call as the model wrote it; `problem` says in one line why it cannot be read, empty if it can."""

    name: str
    arguments: dict[str, object]
    problem: str = ""


@dataclass(frozen=True)
class Reply:
    """A model's answer in its parts."""

    text: str
    reasoning: str = ""
    calls: tuple[CalledTool, ...] = ()


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Sequence[Mapping[str, object]] = ()
) -> list[int]:
    """Token ids of a conversation.

    A final assistant message is continued, not answered. Without a chat template the contents are one raw text:
    messages on lines of their own, a final assistant message directly behind the one before.

    Parameters
    ----------
    messages : each with `role` and `content`, as chat templates take them
    tools : JSON schemas in the form of the OpenAI interface
    """
    continued = bool(messages) and messages[-1]["role"] == "assistant"
    if not tokenizer.chat_template:
        before = "\n".join(str(message["content"]) for message in (messages[:-1] if continued else messages))
        text = before + (str(messages[-1]["content"]) if continued else "")
        return _ids(tokenizer, text, special=True)
    rendered = tokenizer.apply_chat_template(
        cast(list[dict[str, str]], [dict(message) for message in messages]),
        tools=[dict(tool) for tool in tools] or None,
        tokenize=False,
        add_generation_prompt=not continued,
        continue_final_message=continued,
    )
    # The template writes the special tokens of a conversation itself.
    return _ids(tokenizer, str(rendered), special=False)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> list[int]:
    ids = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    return [int(token) for token in ids]


def parse_reply(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], ids: Sequence[int], text: str) -> Reply:
    """Take an answer apart into reasoning, text and tool calls.

    A tokenizer that brings a response template is asked; else `<think>` and `<tool_call>` blocks are taken out, the
    form that most open models write.

    Parameters
    ----------
    prompt, ids : token ids before and of the answer
    text : the answer as text, without special tokens
    """
    parsed = _by_template(tokenizer, prompt, ids)
    if parsed is not None:
        calls = tuple(_called(call.get("function", call)) for call in parsed.get("tool_calls") or [])
        reasoning = parsed.get("thinking") or parsed.get("reasoning_content") or parsed.get("reasoning") or ""
        return Reply(str(parsed.get("content") or ""), str(reasoning), calls)
    reasoning = ""
    thought = _THOUGHT.match(text)
    if thought is not None:
        reasoning, text = thought[1].strip(), text[thought.end() :]
    calls = tuple(_read_call(written) for written in _CALL.findall(text))
    return Reply(_CALL.sub("", text) if calls else text, reasoning, calls)


def _by_template(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], ids: Sequence[int]
) -> dict[str, Any] | None:
    if not getattr(tokenizer, "response_template", None):
        return None
    try:
        parsed = tokenizer.parse_response(list(ids), prefix=list(prompt))
    except ValueError:
        # The model did not write what its template asks for; the text as it stands says more than an error.
        return None
    return parsed if isinstance(parsed, dict) else None


def _read_call(written: str) -> CalledTool:
    try:
        document = json.loads(written)
    except json.JSONDecodeError as error:
        return CalledTool("", {}, f"the tool call is not valid JSON: {error}")
    return _called(document)


def _called(document: object) -> CalledTool:
    if not isinstance(document, dict) or not isinstance(document.get("name"), str):
        return CalledTool("", {}, "a tool call needs a 'name' and 'arguments'")
    arguments = document.get("arguments", document.get("parameters", {}))
    if not isinstance(arguments, dict):
        return CalledTool(document["name"], {}, "the arguments of a tool call are a JSON object")
    return CalledTool(document["name"], arguments)
