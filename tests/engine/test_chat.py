"""Conversations become ids, and answers come apart."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from farspan.engine.chat import CalledTool, parse_reply, prompt_ids
from tests.engine.conftest import CHAT_TEMPLATE, END, make_tokenizer


@pytest.fixture
def chat_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def text(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, object]], **kwargs: object) -> str:
    return str(tokenizer.decode(prompt_ids(tokenizer, messages, **kwargs)))  # type: ignore[arg-type]


USER = {"role": "user", "content": "how far?"}


def test_templates_are_used(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    assert text(chat_tokenizer, [{"role": "system", "content": "be brief"}, USER]) == (
        "[system]be brief\n[user]how far?\n[assistant]"
    )
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    assert text(chat_tokenizer, [USER], tools=[tool]).startswith("[tools]look;")


def test_a_final_assistant_message_is_continued(
    chat_tokenizer: PreTrainedTokenizerFast, tokenizer: PreTrainedTokenizerFast
) -> None:
    begun = [USER, {"role": "assistant", "content": "Answer: about"}]
    assert text(chat_tokenizer, begun) == "[user]how far?\n[assistant]Answer: about"
    assert text(tokenizer, begun) == "how far?Answer: about"


def test_without_a_template_text_stays_raw(tokenizer: PreTrainedTokenizerFast) -> None:
    assert text(tokenizer, [USER]) == "how far?"
    assert text(tokenizer, [{"role": "system", "content": "a"}, USER]) == "a\nhow far?"


def test_text_that_looks_like_an_end_token_in_a_template_is_one_token(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    assert prompt_ids(chat_tokenizer, [{"role": "user", "content": "<|end|>"}]).count(END) == 1


def test_reasoning_and_calls_come_apart(tokenizer: PreTrainedTokenizerFast) -> None:
    reply = parse_reply(
        tokenizer,
        [],
        [],
        '<think>\nit is far\n</think>\n\nI look.\n<tool_call>\n{"name": "look", "arguments": {"at": 3}}\n</tool_call>'
        '<tool_call>{"name": "look", "parameters": {}}</tool_call>',
    )
    assert (reply.reasoning, reply.text) == ("it is far", "I look.")
    assert reply.calls == (CalledTool("look", {"at": 3}), CalledTool("look", {}))


@pytest.mark.parametrize("written", ["{not json", '"look"', '{"arguments": {}}', '{"name": "look", "arguments": 3}'])
def test_calls_that_cannot_be_read_say_why(tokenizer: PreTrainedTokenizerFast, written: str) -> None:
    (call,) = parse_reply(tokenizer, [], [], f"<tool_call>{written}</tool_call>").calls
    assert call.problem
    assert not call.arguments


def test_ordinary_answers_are_left_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    assert parse_reply(tokenizer, [], [], "  42 <b> \n").text == "  42 <b> \n"


def test_a_response_template_is_asked(tokenizer: PreTrainedTokenizerFast) -> None:
    templated = make_tokenizer()
    templated.response_template = {
        "start_anchor": "[assistant]",
        "fields": {"content": {"open": "<<", "close": ">>"}, "thinking": {"open": "((", "close": "))"}},
    }
    ids = templated("((far))<<42>>")["input_ids"]
    reply = parse_reply(templated, templated("[assistant]")["input_ids"], ids, "")
    assert (reply.text, reply.reasoning) == ("42", "far")
    torn = parse_reply(templated, [], templated("<<42")["input_ids"], "<<42")
    assert "42" in torn.text
