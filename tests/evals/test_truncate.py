from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from farspan.evals.generate import ProseHaystack
from farspan.evals.truncate import RULES, TruncationError, fit_prompt, truncate_ids, truncate_ranges
from tests.evals.generate.conftest import train_byte_level

CHAT = (
    "{% for m in messages %}<end>{{ m.role }}\n{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<end>assistant\n{% endif %}"
)
TEMPLATE = "Read the text.\n{context}\nWhat was it about?"
TURNS = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": TEMPLATE}]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return PreTrainedTokenizerFast(tokenizer_object=train_byte_level(600), eos_token="<end>", chat_template=CHAT)


@given(st.integers(0, 60), st.integers(2, 50), st.integers(0, 8), st.sampled_from(RULES))
def test_rules_keep_ordered_disjoint_ranges_within_the_limit(n: int, limit: int, max_gen: int, rule: str) -> None:
    try:
        ranges = truncate_ranges(n, limit, rule, max_gen)
    except TruncationError:
        assert rule == "opencompass_mid"
        assert limit - max_gen < 2
        return
    places = [place for start, stop in ranges for place in range(start, stop)]
    assert places == sorted(set(places))
    assert all(0 <= place < n for place in places)
    assert len(places) <= limit
    if n <= limit - (max_gen if rule == "opencompass_mid" else 0):
        assert places == list(range(n))
    assert truncate_ids(list(range(n)), limit, rule, max_gen) == places


def test_what_the_published_code_gets_wrong_is_refused() -> None:
    for rule in ("longbench_v1", "lveval", "loogle", "inspect_infinite_bench"):
        with pytest.raises(TruncationError, match="at least 2"):
            truncate_ranges(9, 1, rule)
    assert truncate_ranges(9, 1, "longbench_v2") == [(8, 9)]
    assert truncate_ranges(9, 0, "lm_eval_left") == []
    with pytest.raises(TruncationError, match="unknown truncation rule 'middle'"):
        truncate_ranges(9, 5, "middle")
    with pytest.raises(TruncationError, match="cannot be negative"):
        truncate_ranges(-1, 5, "longbench_v1")


UNICODE = st.text(
    st.one_of(st.characters(codec="utf-8", exclude_categories=["Cs"]), st.sampled_from("ab \n文字é🙂")),
    min_size=60,
    max_size=300,
)


@given(
    context=UNICODE,
    window=st.integers(70, 220),
    boundary=st.sampled_from([None, "line"]),
    chat=st.booleans(),
    marker=st.sampled_from(["", "\n[...]\n"]),
)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_cut_prompts_fit_and_are_made_of_whole_characters(
    tokenizer: PreTrainedTokenizerBase, context: str, window: int, boundary: str | None, chat: bool, marker: str
) -> None:
    messages = TURNS if chat else TEMPLATE
    shell = (
        tokenizer.apply_chat_template(
            [{**turn, "content": turn["content"].replace("{context}", "")} for turn in TURNS],
            tokenize=False,
            add_generation_prompt=True,
        )
        if chat
        else TEMPLATE.replace("{context}", "")
    )
    room = window - 8 - len(tokenizer(str(shell))["input_ids"])
    if room < 20:
        return
    fitted = fit_prompt(tokenizer, messages, context, window, 8, boundary=boundary, marker=marker)  # type: ignore[arg-type]
    if chat:
        assert fitted.messages is not None
        kept = fitted.messages[1]["content"].removeprefix("Read the text.\n").removesuffix("\nWhat was it about?")
        text = str(tokenizer.apply_chat_template(fitted.messages, tokenize=False, add_generation_prompt=True))
    else:
        assert fitted.text is not None
        text = fitted.text
        kept = text.removeprefix("Read the text.\n").removesuffix("\nWhat was it about?")
    assert len(tokenizer(text)["input_ids"]) <= window - 8
    if fitted.cut_span is None:
        assert kept == context
        assert not fitted.truncated
    else:
        start, stop = fitted.cut_span
        assert kept == context[:start] + marker + context[stop:]
        assert start <= stop
        assert fitted.metadata()["truncated"] == (fitted.n_kept < fitted.n_full)
    event(f"cut: {fitted.cut_span is not None}")
    assert fitted.n_full == len(tokenizer(context)["input_ids"])


def test_most_of_the_room_is_used_and_both_ends_stay(tokenizer: PreTrainedTokenizerBase) -> None:
    context = " ".join(ProseHaystack().units(0, 400))
    fitted = fit_prompt(tokenizer, TEMPLATE, context, 500, 20)
    assert fitted.text is not None
    assert 470 <= len(tokenizer(fitted.text)["input_ids"]) <= 480
    start, stop = fitted.cut_span or (0, 0)
    head, tail = len(tokenizer(context[:start])["input_ids"]), len(tokenizer(context[stop:])["input_ids"])
    assert abs(head - tail) <= 6


def test_lines_are_cut_between_lines(tokenizer: PreTrainedTokenizerBase) -> None:
    context = "\n".join(f"{i} words" for i in range(900))
    fitted = fit_prompt(tokenizer, TEMPLATE, context, 1000, 20, boundary="line")
    start, stop = fitted.cut_span or (0, 0)
    assert context[start - 1] == "\n"
    assert context[stop - 1] == "\n"


def test_no_room_and_no_place_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(TruncationError, match="no room for a context"):
        fit_prompt(tokenizer, TEMPLATE, "text", 20, 10)
    with pytest.raises(TruncationError, match="once, it does 0 times"):
        fit_prompt(tokenizer, "no place", "text", 200, 10)
    with pytest.raises(TruncationError, match="shorter marker"):
        fit_prompt(tokenizer, TEMPLATE, "many words " * 50, 60, 10, marker="a very long marker " * 20)


def test_official_cuts_decode_what_the_rule_keeps(tokenizer: PreTrainedTokenizerBase) -> None:
    context = " ".join(ProseHaystack().units(0, 60))
    raw = TEMPLATE.replace("{context}", context)
    ids = list(tokenizer(raw)["input_ids"])
    fitted = fit_prompt(tokenizer, TEMPLATE, context, 101, 8, mode="official", rule="longbench_v1")
    assert fitted.text == tokenizer.decode(ids[:50]) + tokenizer.decode(ids[-50:])
    assert (fitted.n_full, fitted.n_kept, fitted.truncated) == (len(ids), 100, True)
    together = fit_prompt(tokenizer, TURNS, context, 101, 8, mode="official", rule="longbench_v2")
    assert together.messages is not None
    assert together.messages[0]["content"] == "Answer briefly."
    assert together.messages[1]["content"] == tokenizer.decode(ids[:50] + ids[-51:])
    whole = fit_prompt(tokenizer, TEMPLATE, context, len(ids), 8, mode="official", rule="longbench_v1")
    assert whole.text == raw


def test_a_tokenizer_without_offsets_cuts_at_characters_too(tokenizer: PreTrainedTokenizerBase) -> None:
    class Slow:
        """The same tokenizer, as one that gives no offsets."""

        is_fast = False

        def __call__(self, text: str, **settings: object) -> dict[str, list[int]]:
            assert not settings.get("return_offsets_mapping")
            return {"input_ids": tokenizer(text)["input_ids"]}

        def decode(self, ids: list[int]) -> str:
            return str(tokenizer.decode(ids))

    rng = Random(0)
    context = "".join(rng.choice("ab é文🙂 ") for _ in range(400))
    slow = fit_prompt(Slow(), TEMPLATE, context, 120, 8)  # type: ignore[arg-type]
    fast = fit_prompt(tokenizer, TEMPLATE, context, 120, 8)
    assert slow.text is not None
    assert "\ufffd" not in slow.text
    assert len(tokenizer(slow.text)["input_ids"]) <= 112
    assert abs(slow.n_kept - fast.n_kept) <= 4
