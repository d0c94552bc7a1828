"""What goes into the engine and what comes out: requests, results, usage.

Plain frozen data, checked where it is made. Nothing here knows a tokenizer or a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from farspan.errors import FarspanError

StopReason = Literal["stop", "max_tokens", "model_length"]


class RequestError(FarspanError):
    """A request for generation that makes no sense."""


class Sampling(NamedTuple):
    """How tokens are chosen. Requests with equal sampling can share a batch."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    logprobs: int

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to be continued.

    ids : token ids of the prompt, special tokens included
    max_new_tokens : tokens to generate at most
    temperature : 0 takes the most likely token
    top_p, top_k, min_p : nucleus, number and relative probability that sampling keeps; 1, 0 and 0 keep all
    repetition_penalty : above 1 discourages tokens that stand in the prompt or the answer already
    stop : texts at which generation ends; they are cut from the answer
    seed : of this request's own generator; None draws one
    logprobs : number of alternatives to report for each token; 0 reports nothing
    prefix_length : the first so many ids are a context shared with other requests. It is prefilled alone and once,
        so equal requests get equal answers in whatever company they arrive
    """

    ids: Sequence[int]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: int = 0
    prefix_length: int = 0

    def __post_init__(self) -> None:
        for wrong, line in (
            (len(self.ids) == 0, "a request needs at least one token id"),
            (self.max_new_tokens < 1, f"max_new_tokens is {self.max_new_tokens}; it must be at least 1"),
            (self.temperature < 0, f"temperature is {self.temperature}; it must be 0 or more"),
            (not 0 < self.top_p <= 1, f"top_p is {self.top_p}; it must be above 0 and at most 1"),
            (self.top_k < 0, f"top_k is {self.top_k}; it must be 0 (off) or more"),
            (not 0 <= self.min_p <= 1, f"min_p is {self.min_p}; it must lie between 0 and 1"),
            (self.repetition_penalty <= 0, f"repetition_penalty is {self.repetition_penalty}; it must be above 0"),
            (self.logprobs < 0, f"logprobs is {self.logprobs}; it must be 0 or more"),
            (isinstance(self.stop, str), "stop is a tuple of texts, not one text"),
            (any(not text for text in self.stop), "an empty stop text would end every answer at once"),
            (
                not 0 <= self.prefix_length < len(self.ids),
                f"prefix_length is {self.prefix_length} of {len(self.ids)} ids; at least one id must follow it",
            ),
        ):
            if wrong:
                raise RequestError(line)

    @property
    def sampling(self) -> Sampling:
        """How this request's tokens are chosen; settings without effect on greedy choice are left out."""
        if self.temperature == 0.0:
            return Sampling(0.0, 1.0, 0, 0.0, self.repetition_penalty, self.logprobs)
        return Sampling(self.temperature, self.top_p, self.top_k, self.min_p, self.repetition_penalty, self.logprobs)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request; padding is never counted.

    input_tokens : prompt tokens that were read for this request
    cached_tokens : prompt tokens whose keys and values another request had left behind
    output_tokens : tokens generated, the end token among them
    """

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """All tokens that passed through the model's window."""
        return self.input_tokens + self.cached_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probability of a generated token before temperature and filters, and of the likeliest tokens."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """The continuation of one request.

    ids : everything generated, the end token or the tokens of a stop text among them
    text : the continuation as text, without end token and stop text
    stop_reason : `stop` (end token or stop text), `max_tokens`, or `model_length` (the window is full; if the prompt
        alone does not fit, nothing was computed and `ids` is empty)
    logprobs : one entry a token where the request asked for them
    seconds : from the start of the batch to this request's last token
    queue_seconds : from arrival to the start of the batch
    """

    ids: list[int]
    text: str
    stop_reason: StopReason
    usage: Usage
    logprobs: list[TokenLogprob] | None = None
    seconds: float = 0.0
    queue_seconds: float = 0.0
