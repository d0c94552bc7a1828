"""Choosing the next token of every row of a batch.

The filters are transformers' own, each row has its own generator, and no model is known here.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import cast

import torch
from torch import LongTensor, Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from farspan.engine.request import Request, Sampling, TokenLogprob


class Sampler:
    """Chooses tokens for requests of equal sampling.

    Parameters
    ----------
    requests : one a row
    device : of the logits
    """

    def __init__(self, requests: Sequence[Request], device: torch.device) -> None:
        self.sampling = requests[0].sampling
        self._filters = _filters(self.sampling)
        self._generators: list[torch.Generator] = []
        if not self.sampling.greedy:
            for request in requests:
                seed = secrets.randbits(63) if request.seed is None else request.seed
                self._generators.append(torch.Generator(device).manual_seed(seed % 2**63))
        self._seen: Tensor | None = None
        if self.sampling.repetition_penalty != 1.0:
            width = max(len(request.ids) for request in requests)
            rows = [[request.ids[0]] * (width - len(request.ids)) + list(request.ids) for request in requests]
            self._seen = torch.tensor(rows, dtype=torch.long, device=device)

    def choose(self, logits: Tensor) -> Tensor:
        """Tokens [rows] for logits [rows, vocabulary] in float32."""
        if self._filters:
            logits = self._filters(cast(LongTensor, self._seen), logits)
        if self.sampling.greedy:
            chosen = logits.argmax(-1)
        else:
            weights = logits.softmax(-1)
            chosen = torch.cat(
                [
                    torch.multinomial(row, 1, generator=generator)
                    for row, generator in zip(weights, self._generators, strict=True)
                ]
            )
        if self._seen is not None:
            self._seen = torch.cat([self._seen, chosen[:, None]], dim=1)
        return chosen

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order."""
        if self._generators:
            self._generators = [self._generators[row] for row in rows]
        if self._seen is not None:
            self._seen = self._seen[torch.tensor(rows, device=self._seen.device)]


def _filters(sampling: Sampling) -> LogitsProcessorList:
    filters = LogitsProcessorList()
    if sampling.repetition_penalty != 1.0:
        filters.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
    if not sampling.greedy:
        if sampling.temperature != 1.0:
            filters.append(TemperatureLogitsWarper(float(sampling.temperature)))
        if sampling.top_k > 0:
            filters.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            filters.append(TopPLogitsWarper(float(sampling.top_p)))
        if sampling.min_p > 0.0:
            filters.append(MinPLogitsWarper(float(sampling.min_p)))
    return filters


def token_logprobs(logits: Tensor, chosen: Tensor, alternatives: int) -> list[TokenLogprob]:
    """Log-probabilities of chosen tokens [rows] and of the likeliest ones.

    Parameters
    ----------
    logits : Tensor [rows, vocabulary], unfiltered
    """
    logprobs = logits.log_softmax(-1)
    best = logprobs.topk(min(alternatives, logits.shape[-1]), dim=-1)
    picked = logprobs.gather(-1, chosen[:, None])[:, 0]
    return [
        TokenLogprob(id=token, logprob=value, top=tuple(zip(ids, values, strict=True)))
        for token, value, ids, values in zip(
            chosen.tolist(), picked.tolist(), best.indices.tolist(), best.values.tolist(), strict=True
        )
    ]
