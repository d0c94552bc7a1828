"""A selector that keeps everything must leave every architecture's logits and generations as they were."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, StaticCache

from farspan.attention import attention_report
from tests.attention.conftest import ARCHITECTURES, KeepAll

Build = Callable[[str], PreTrainedModel]
# capped scores and windows that bind are dense by design; with sinks only the layers with a window are
DENSE_REASONS = {"sliding window", "softcap", "mask"}


def tokens(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(3, 97, (rows, length), generator=torch.Generator().manual_seed(seed))


def padded(length: int) -> tuple[Tensor, Tensor]:
    """Three rows, padded on the left by 0, 19 and 33."""
    ids = tokens(3, length)
    mask = torch.ones_like(ids)
    for row, missing in ((1, 19), (2, 33)):
        ids[row, :missing] = 0
        mask[row, :missing] = 0
    return ids, mask


@pytest.fixture(params=sorted(ARCHITECTURES))
def model(request: pytest.FixtureRequest, build: Build) -> PreTrainedModel:
    return build(request.param)


def sparse_and_fallbacks(model: PreTrainedModel) -> tuple[int, set[str]]:
    report = attention_report(model)
    return sum(stats.sparse for stats in report), {reason for stats in report for reason in stats.fallbacks}


def check(model: PreTrainedModel, reasons: set[str] | None = None) -> None:
    """Some layer was sparse unless every layer has a known obstacle, and no fallback has another reason."""
    sparse, fallbacks = sparse_and_fallbacks(model)
    assert fallbacks <= (DENSE_REASONS if reasons is None else reasons)
    assert sparse or fallbacks


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [True, False])
def test_one_row(model: PreTrainedModel, use_cache: bool) -> None:
    ids = tokens(1, 70)
    expected = model(ids, use_cache=use_cache).logits
    with KeepAll(min_length=0)(model):
        actual = model(ids, use_cache=use_cache).logits
        check(model)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_left_padded_batch(model: PreTrainedModel) -> None:
    ids, mask = padded(70)
    expected = model(ids, attention_mask=mask).logits
    with KeepAll(min_length=0)(model):
        actual = model(ids, attention_mask=mask).logits
        check(model)
    real = mask.bool()
    torch.testing.assert_close(actual[real], expected[real], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_right_padded_batch(model: PreTrainedModel) -> None:
    ids, mask = (x.flip(1) for x in padded(70))
    expected = model(ids, attention_mask=mask).logits
    with KeepAll(min_length=0)(model):
        actual = model(ids, attention_mask=mask).logits
    real = mask.bool()
    torch.testing.assert_close(actual[real], expected[real], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("stage", ["prefill", "all"])
@pytest.mark.parametrize("chunk", [None, 17])
def test_greedy_generation(model: PreTrainedModel, stage: str, chunk: int | None) -> None:
    ids, mask = padded(70)
    settings = {"max_new_tokens": 8, "do_sample": False, "prefill_chunk_size": chunk, "eos_token_id": None}
    settings |= {"output_logits": True, "return_dict_in_generate": True}
    expected = model.generate(ids, attention_mask=mask, **settings)
    with KeepAll(min_length=0, stage=stage)(model):
        actual = model.generate(ids, attention_mask=mask, **settings)
        check(model)
    assert torch.equal(actual.sequences, expected.sequences)
    for step, reference in zip(actual.logits, expected.logits, strict=True):
        torch.testing.assert_close(step, reference, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_packed_documents(model: PreTrainedModel) -> None:
    ids = tokens(1, 70)
    positions = torch.cat([torch.arange(30), torch.arange(40)])[None]
    expected = model(ids, position_ids=positions, use_cache=False).logits
    with KeepAll(min_length=0)(model):
        actual = model(ids, position_ids=positions, use_cache=False).logits
        # these two keep no documents apart in transformers, so there is nothing to fall back for
        assert sparse_and_fallbacks(model)[0] == 0 or model.config.model_type in ("gpt_oss", "granitemoehybrid")
        check(model)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_static_cache(model: PreTrainedModel) -> None:
    ids = tokens(1, 40)

    def run() -> list[Tensor]:
        cache = StaticCache(config=model.config, max_cache_len=64)
        calls = [ids, tokens(1, 1, seed=1), tokens(1, 1, seed=2)]
        return [model(call, past_key_values=cache).logits for call in calls]

    expected = run()
    with KeepAll(min_length=0)(model):
        actual = run()
        check(model)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_padded_batch_in_a_static_cache(model: PreTrainedModel) -> None:
    ids, mask = padded(40)
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "cache_implementation": "static"}
    settings |= {"output_logits": True, "return_dict_in_generate": True, "disable_compile": True}
    expected = model.generate(ids, attention_mask=mask, **settings)
    with KeepAll(min_length=0)(model):
        actual = model.generate(ids, attention_mask=mask, **settings)
        check(model)
    assert torch.equal(actual.sequences, expected.sequences)
    for step, reference in zip(actual.logits, expected.logits, strict=True):
        torch.testing.assert_close(step, reference, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_continued_conversation(model: PreTrainedModel) -> None:
    ids, mask = padded(70)
    settings = {"use_cache": True}
    first = model(ids[:, :40], attention_mask=mask[:, :40], **settings)
    expected = model(ids[:, 40:], attention_mask=mask, past_key_values=first.past_key_values, **settings).logits
    with KeepAll(min_length=0)(model):
        first = model(ids[:, :40], attention_mask=mask[:, :40], **settings)
        actual = model(ids[:, 40:], attention_mask=mask, past_key_values=first.past_key_values, **settings).logits
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_gradients(model: PreTrainedModel) -> None:
    ids, mask = padded(40)
    # the first token of a row is predicted from padding, whose attention is anybody's choice
    labels = ids.masked_fill((mask == 0) | (mask.cumsum(-1) == 1), -100)

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        model(ids, attention_mask=mask, labels=labels).loss.backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    expected = gradients()
    with KeepAll(min_length=0)(model):
        actual = gradients()
        check(model)
    assert actual.keys() == expected.keys()
    for name, reference in expected.items():
        size = float(reference.abs().max())
        torch.testing.assert_close(actual[name], reference, atol=1e-4 * size + 1e-7, rtol=1e-3, msg=name)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral", "phi3", "gpt-oss", "gemma3"])
@torch.no_grad()
def test_layers_without_obstacle_are_sparse(build: Build, name: str) -> None:
    model = build(name)
    with KeepAll(min_length=0)(model):
        model(tokens(1, 70))
        by_layer = {stats.layer: (stats.sparse, dict(stats.fallbacks)) for stats in attention_report(model)}
    layer_types = getattr(model.config, "layer_types", None) or ["full_attention"] * len(by_layer)
    for layer, kind in enumerate(layer_types):
        windowed = kind == "sliding_attention"
        assert by_layer[layer] == ((0, {"sliding window": 1}) if windowed else (1, {}))
