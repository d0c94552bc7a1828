"""Cutting what is too long: the published rules exactly, and one rule that never breaks text.

The published rules are arithmetic on token indices (`truncate_ranges`). `fit_prompt` with mode "fixed" cuts the middle
out of the context alone, at characters, so that instructions, question and template stay whole, nothing is decoded,
and the finished prompt fits. Nothing here knows benchmarks' prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from farspan.errors import FarspanError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Range = tuple[int, int]
Message = Mapping[str, str]

RULES = (
    "longbench_v1",
    "lveval",
    "loogle",
    "longbench_v2",
    "longbench_pro",
    "lm_eval_left",
    "lm_eval_right",
    "lm_eval_middle",
    "inspect_infinite_bench",
    "opencompass_mid",
)
SEPARATELY_DECODED = ("longbench_v1", "lveval", "loogle")
"""Rules whose two halves are decoded apart and joined as text."""

PLACEHOLDER = "{context}"

_ROUNDS = 3
_LINE_SHARE = 0.02


class TruncationError(FarspanError):
    """A limit that leaves no room, or a rule that is not known."""


def truncate_ranges(n: int, max_length: int, rule: str, max_gen: int = 0) -> list[Range]:
    """Half-open ranges of the token indices 0..n that a published rule keeps.

    Parameters
    ----------
    n : tokens of the prompt
    max_length : the rule's limit, tokens
    rule : one of `RULES`
    max_gen : tokens to generate; only "opencompass_mid" subtracts them

    Raises
    ------
    TruncationError : an unknown rule, a negative number, or a limit at which the rule's half is empty (as published
        it would then keep everything).

    Source: the code of the benchmarks and harnesses the rules are named after.
    """
    if rule not in RULES:
        raise TruncationError(f"unknown truncation rule '{rule}'; known: {', '.join(RULES)}")
    if n < 0 or max_length < 0 or max_gen < 0:
        raise TruncationError(f"numbers of tokens cannot be negative: n={n}, max_length={max_length}, {max_gen=}")
    start = 0
    limit = max_length
    if rule == "opencompass_mid":
        start = max(n - max_length, 0)
        limit = max_length - max_gen
    if n - start <= limit:
        return [(start, n)] if n > start else []
    if rule == "lm_eval_left":
        return _kept((n - limit, n))
    if rule == "lm_eval_right":
        return _kept((0, limit))
    half = limit // 2
    if rule in ("longbench_v2", "longbench_pro", "lm_eval_middle"):
        return _kept((0, half), (n - (limit - half), n))
    if half < 1:
        raise TruncationError(f"rule '{rule}' cannot cut to {limit} tokens; its limit must be at least 2")
    return _kept((start, start + half), (n - half, n))


def _kept(*ranges: Range) -> list[Range]:
    return [(start, stop) for start, stop in ranges if stop > start]


def truncate_ids(ids: Sequence[int], max_length: int, rule: str, max_gen: int = 0) -> list[int]:
    """The token ids a published rule keeps; see `truncate_ranges`."""
    return [token for start, stop in truncate_ranges(len(ids), max_length, rule, max_gen) for token in ids[start:stop]]


@dataclass(frozen=True)
class FittedPrompt:
    """A prompt that fits.

    text : the whole prompt, for a text template; else None
    messages : the turns, for a list of messages; else None
    n_full, n_kept : tokens of the context (mode "official": of the prompt) before and after
    cut_span : characters of the context that were cut out, None where nothing was or the rule cuts tokens
    """

    text: str | None
    messages: list[dict[str, str]] | None
    n_full: int
    n_kept: int
    cut_span: Range | None

    @property
    def truncated(self) -> bool:
        """Whether anything was cut."""
        return self.n_kept < self.n_full

    def metadata(self) -> dict[str, object]:
        """What a sample's metadata records of it."""
        return {
            "n_tokens_full": self.n_full,
            "n_tokens_kept": self.n_kept,
            "cut_span": self.cut_span,
            "truncated": self.truncated,
        }


def fit_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: str | Sequence[Message],
    context: str,
    max_context_tokens: int,
    max_new_tokens: int,
    mode: Literal["fixed", "official"] = "fixed",
    boundary: Literal["line"] | None = None,
    *,
    rule: str = "longbench_v1",
    marker: str = "",
) -> FittedPrompt:
    """Put a context into a prompt, cutting its middle out if the prompt would not fit.

    Parameters
    ----------
    messages : turns, rendered with the chat template, or a text template for a base model; "{context}" stands once
    max_context_tokens : the model's window (mode "official": the published limit of the raw prompt)
    max_new_tokens : room for generation
    boundary : "line" moves both cuts to a newline within 2 % of the budget
    rule : the published rule of mode "official"
    marker : text to leave where the cut is (mode "fixed")

    Raises
    ------
    TruncationError : no placeholder, or no room for any context.
    """
    shell = _Shell(tokenizer, messages)
    if mode == "official":
        return _official(shell, context, max_context_tokens, max_new_tokens, rule)
    limit = max_context_tokens - max_new_tokens
    budget = limit - shell.count("")
    offsets = _offsets(tokenizer, context)
    full = len(offsets)
    if budget < 1:
        raise TruncationError(
            f"a window of {max_context_tokens} tokens has no room for a context: {limit - budget} go to the prompt "
            f"around it and {max_new_tokens} to generation"
        )
    over = shell.count(context) - limit if full <= budget else 1
    if over <= 0:
        return shell.filled(context, full, full, None)
    room = min(budget, full - 1) if full <= budget else budget
    for attempt in range(_ROUNDS + full.bit_length() + 1):
        head, tail = _cuts(context, offsets, room, boundary)
        kept = context[:head] + marker + context[tail:]
        over = shell.count(kept) - limit
        if over <= 0:
            return shell.filled(kept, full, len(_offsets(tokenizer, kept)), (head, tail))
        # Two rounds by the overshoot meet the budget closely; a tokenizer that defies that gets halved.
        room = max(room - over if attempt < _ROUNDS else room // 2, 0)
    raise TruncationError(f"no cut of the context brings the prompt under {limit} tokens; use a shorter marker")


class _Shell:
    """The prompt around the context."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, messages: str | Sequence[Message]) -> None:
        self.tokenizer = tokenizer
        self.template = messages if isinstance(messages, str) else None
        self.turns = [] if isinstance(messages, str) else [{"content": "", **message} for message in messages]
        texts = [messages] if isinstance(messages, str) else [turn["content"] for turn in self.turns]
        found = sum(text.count(PLACEHOLDER) for text in texts)
        if found != 1:
            raise TruncationError(f"the prompt must hold {PLACEHOLDER} once, it does {found} times")

    def text(self, context: str) -> str:
        """The rendered prompt."""
        if self.template is not None:
            return self.template.replace(PLACEHOLDER, context)
        rendered = self.tokenizer.apply_chat_template(self._turns(context), tokenize=False, add_generation_prompt=True)
        return str(rendered)

    def _turns(self, context: str) -> list[dict[str, str]]:
        return [
            {k: v.replace(PLACEHOLDER, context) if k == "content" else v for k, v in turn.items()}
            for turn in self.turns
        ]

    def count(self, context: str) -> int:
        """Tokens of the rendered prompt, special tokens included."""
        return len(self.tokenizer(self.text(context), add_special_tokens=self.template is not None)["input_ids"])

    def filled(self, context: str, full: int, kept: int, cut: Range | None) -> FittedPrompt:
        """The result with this context."""
        if self.template is not None:
            return FittedPrompt(self.text(context), None, full, kept, cut)
        return FittedPrompt(None, self._turns(context), full, kept, cut)


def _official(shell: _Shell, context: str, max_length: int, max_gen: int, rule: str) -> FittedPrompt:
    """Cut the raw prompt (text, or the turn with the context) as published: decode what the rule keeps."""
    tokenizer = shell.tokenizer
    place = next((i for i, turn in enumerate(shell.turns) if PLACEHOLDER in turn["content"]), 0)
    raw = shell.template if shell.template is not None else shell.turns[place]["content"]
    raw = raw.replace(PLACEHOLDER, context)
    ids = list(tokenizer(raw)["input_ids"])
    ranges = truncate_ranges(len(ids), max_length, rule, max_gen)
    kept = sum(stop - start for start, stop in ranges)
    if kept < len(ids):
        parts = [ids[start:stop] for start, stop in ranges]
        if rule not in SEPARATELY_DECODED:
            parts = [[token for part in parts for token in part]]
        raw = "".join(str(tokenizer.decode(part, skip_special_tokens=True)) for part in parts)
    if shell.template is not None:
        return FittedPrompt(raw, None, len(ids), kept, None)
    turns = [{**turn, "content": raw} if i == place else turn for i, turn in enumerate(shell.turns)]
    return FittedPrompt(None, turns, len(ids), kept, None)


def _offsets(tokenizer: PreTrainedTokenizerBase, text: str) -> list[Range]:
    """Character range of each token of a text.

    A tokenizer without offsets gets them from the lengths of decoded prefixes.
    """
    if tokenizer.is_fast:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [(int(start), int(stop)) for start, stop in encoded["offset_mapping"]]
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    ends = [0]
    for count in range(1, len(ids) + 1):
        decoded = str(tokenizer.decode(ids[:count])).rstrip("\ufffd")
        # Decoding is not the inverse of encoding: only as much as really is a prefix of the text counts.
        ends.append(max(ends[-1], len(decoded) if text.startswith(decoded) else ends[-1]))
    return list(pairwise(ends))


def _cuts(context: str, offsets: Sequence[Range], room: int, boundary: Literal["line"] | None) -> Range:
    """Characters where the kept head ends and the kept tail starts, for `room` tokens in all."""
    n = len(offsets)
    tail_tokens = room // 2
    head_tokens = room - tail_tokens
    head = offsets[head_tokens - 1][1] if head_tokens else 0
    if head_tokens < n:
        # A character split over several tokens belongs to neither side.
        head = min(head, offsets[head_tokens][0]) if head_tokens else 0
    tail = offsets[n - tail_tokens][0] if tail_tokens else len(context)
    if tail_tokens and tail_tokens < n:
        tail = max(tail, offsets[n - tail_tokens - 1][1])
    tail = max(tail, head)
    if boundary == "line" and room:
        slack = max(int(_LINE_SHARE * room), 1)
        low = offsets[max(head_tokens - slack, 0)][0] if head_tokens else 0
        newline = context.rfind("\n", low, head)
        head = newline + 1 if newline >= 0 else head
        high = offsets[min(n - tail_tokens + slack, n - 1)][1] if tail_tokens else len(context)
        newline = context.find("\n", tail, high)
        tail = newline + 1 if newline >= 0 else tail
    return head, tail
