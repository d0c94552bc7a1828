"""On a model that retrieves: clusters of keys lead to the right ones, clusters at random do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from farspan.attention import PrefixCache, Squeezed, build_prefix_cache, save_prefix
from farspan.attention.clustered_keys import clusters_of
from farspan.evals.generate.generators import generator_class
from farspan.models import load

CONTEXTS, QUESTIONS = 4, 8


def at_random(cache: PrefixCache, seed: int) -> PrefixCache:
    """The same keys in clusters of the same sizes, dealt out at random, with thresholds of their own."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for layer in cache.layers:
        assert layer.labels is not None
        order = torch.rand(layer.labels.shape, generator=generator).argsort(-1)
        labels = layer.labels.gather(-1, order)
        layers.append(replace(layer, labels=labels, clusters=clusters_of(layer.keys[:, : labels.shape[1]], labels)))
    return replace(cache, layers=tuple(layers), thresholds={})


@torch.no_grad()
def right(model: PreTrainedModel, cache: PrefixCache, asked: list[tuple[list[int], list[int]]]) -> int:
    """Answers of which every token is the likeliest one."""
    count = 0
    for question, answer in asked:
        logits: Tensor = model(torch.tensor([question + answer[:-1]]), past_key_values=cache.to_cache()).logits[0]
        count += logits[len(question) - 1 :].argmax(-1).tolist() == answer
    return count


@pytest.mark.slow
def test_clusters_lead_to_the_right_keys(tmp_path: Path) -> None:
    model, tokenizer = load("reference", dtype="float32", device="cpu")

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids

    family = generator_class("lines")(encode)
    found = {"dense": 0, "clusters": 0, "random": 0}
    for context in range(CONTEXTS):
        samples = [
            family.sample("single", 480, context * QUESTIONS + index, 0, questions_per_context=QUESTIONS)
            for index in range(QUESTIONS)
        ]
        asked = []
        for sample in samples:
            prompt = sample.question + (sample.answer_prefix or "")
            question = encode(prompt)
            asked.append((question, encode(prompt + sample.answers[0])[len(question) :]))
        cache = build_prefix_cache(model, encode(samples[0].context), observation_window=32, cluster_ratio=0.1)
        found["dense"] += right(model, cache, asked)
        for name, held in (("clusters", cache), ("random", at_random(cache, context))):
            folder = save_prefix(held, tmp_path / f"{name}{context}")
            with Squeezed(prefix=str(folder), sparsity=0.7, min_length=0)(model):
                found[name] += right(model, held, asked)
    whole = CONTEXTS * QUESTIONS
    assert found["dense"] >= 0.9 * whole
    assert found["clusters"] >= found["dense"] - 0.02 * whole
    assert found["random"] <= found["clusters"] - 0.2 * whole
