"""Squeezed attention on the reference model: recall at 70 % dropped as with everything, and clusters that matter."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from farspan.attention import PrefixCache, Squeezed, build_prefix_cache, save_prefix
from farspan.attention.clustered_keys import clusters_of
from farspan.engine import Engine, Request
from farspan.evals.generate.count import TokenCounter
from farspan.evals.generate.generators import generator_class
from farspan.models import load

QUESTIONS = 8


def at_random(cache: PrefixCache) -> PrefixCache:
    """The same context in clusters of the same sizes whose members are drawn at random."""
    layers = []
    for layer in cache.layers:
        assert layer.labels is not None
        generator = torch.Generator().manual_seed(0)
        labels = torch.stack([row[torch.randperm(len(row), generator=generator)] for row in layer.labels])
        clusters = clusters_of(layer.keys[:, : labels.shape[1]], labels)
        layers.append(dataclasses.replace(layer, labels=labels, clusters=clusters))
    return dataclasses.replace(cache, layers=tuple(layers), thresholds={})


@pytest.mark.slow
def test_recall_survives_dropping_most_keys_and_needs_real_clusters(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    model, tokenizer = load("reference")
    family = generator_class("lines")(TokenCounter("reference"))
    right = {"dense": 0, "clusters": 0, "random": 0}
    for context in range(3):
        samples = [
            family.sample("single", 480, context * QUESTIONS + index, 0, questions_per_context=QUESTIONS)
            for index in range(QUESTIONS)
        ]
        ids = tokenizer(samples[0].context)["input_ids"]
        cache = build_prefix_cache(model, ids, observation_window=32, cluster_ratio=0.1)
        save_prefix(cache, tmp_path / f"clusters{context}")
        save_prefix(at_random(cache), tmp_path / f"random{context}")
        requests = [
            Request(
                [*ids, *tokenizer(sample.question + sample.answer_prefix, add_special_tokens=False)["input_ids"]],
                6,
                prefix_length=len(ids),
            )
            for sample in samples
        ]
        for name in right:
            sparsity = 0.0 if name == "dense" else 0.7
            folder = tmp_path / f"{'clusters' if name == 'dense' else name}{context}"
            with (
                Squeezed(prefix=str(folder), sparsity=sparsity, min_length=0)(model),
                Engine(model, tokenizer) as engine,
            ):
                answers = [result.text for result in engine.generate_batch(requests)]
            right[name] += sum(sample.answers[0] in text for sample, text in zip(samples, answers, strict=True))
    total = 3 * QUESTIONS
    assert right["dense"] >= 0.9 * total
    assert right["clusters"] >= right["dense"] - 0.02 * total
    assert right["random"] <= right["clusters"] - 0.3 * total
