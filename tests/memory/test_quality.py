"""On a model that retrieves: what reads or keeps the right tokens answers nearly as well as the whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from transformers import DynamicCache

from farspan.attention import PermutedBlockSparse, attention_report
from farspan.evals.generate.generators import generator_class
from farspan.memory import RandomEviction, SnapKV, StreamingLLM
from farspan.models import load
from farspan.recipe import Lever

Score = Callable[[Lever | None], float]
QUESTIONS = 8


@pytest.fixture(scope="module")
def score() -> Score:
    """Mean log-probability of the answers' tokens, each needle far before the window of the end."""
    model, tokenizer = load("reference", dtype="float32", device="cpu")
    model.eval()

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids

    family = generator_class("ruler")(encode)
    questions: list[tuple[list[int], list[int]]] = []
    index = 0
    while len(questions) < QUESTIONS:
        sample = family.sample("niah_multikey_1", 480, index, 3, questions_per_context=1)
        index += 1
        if sample.evidence_spans[0].start_char < 0.55 * len(sample.context):
            prompt = sample.context + sample.question + (sample.answer_prefix or "")
            read = encode(prompt)
            questions.append((read, encode(f"{prompt} {sample.answers[0]}")[len(read) :]))

    @torch.no_grad()
    def mean(lever: Lever | None) -> float:
        total = 0.0
        with nullcontext() if lever is None else lever(model):
            for prompt, answer in questions:
                cache = DynamicCache(config=model.config)
                first = model(torch.tensor([prompt]), past_key_values=cache).logits[:, -1:]
                rest = model(torch.tensor([answer]), past_key_values=cache).logits[:, :-1]
                logits = torch.cat([first, rest], 1)[0].log_softmax(-1)
                total += float(logits[torch.arange(len(answer)), torch.tensor(answer)].mean())
            if isinstance(lever, PermutedBlockSparse):
                densities = [stats.density for stats in attention_report(model)]
                assert max(densities) <= 0.5
        return total / QUESTIONS

    return mean


@pytest.mark.slow
def test_votes_beat_recency_and_chance_at_equal_capacity(score: Score) -> None:
    dense = score(None)
    snapkv = score(SnapKV(capacity=160, window=32))
    streaming = score(StreamingLLM(sinks=4, recent=156))
    chance = score(RandomEviction(capacity=160))
    assert dense >= snapkv > max(streaming, chance) + 0.5


@pytest.mark.slow
@pytest.mark.parametrize("scoring", ["mean_pool", "xattention"])
def test_half_of_the_blocks_answer_as_well(score: Score, scoring: str) -> None:
    lever = PermutedBlockSparse(
        block_size=16,
        segment_size=64,
        threshold=0.5,
        scoring=scoring,  # type: ignore[arg-type]
        stride=4,
        min_length=0,
    )
    # nats a token of the answer; what reads recency alone loses several
    assert score(lever) > score(None) - 0.3
