"""A slot cache computes what a growing cache computes, through views, copies and dropped rows."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from farspan.engine.cache import CacheError, SlotCache, cache_bytes
from farspan.engine.forward import Forward, UnsupportedModel, left_padded
from tests.engine.conftest import CONFIGS, VOCABULARY, make_model


def ids(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCABULARY - 2, (rows, width), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_a_context_read_once_and_copied_gives_the_same_logits(name: str) -> None:
    model = make_model(CONFIGS[name]())
    forward = Forward(model)
    context, questions = ids(1, 70), ids(3, 9, seed=1)
    alone = SlotCache(forward.config, 1, 70)
    forward(context, alone)
    cache = SlotCache(forward.config, 4, 85)
    cache.place(alone, [1, 2, 3], [3, 3, 3])
    view = cache.view(slice(1, 4), 3, 70)
    positions = torch.arange(70, 79).expand(3, 9)
    got = forward(questions, view, None, positions, keep=0)
    whole = torch.cat([context.expand(3, -1), questions], dim=1)
    expected = model(input_ids=whole).logits[:, 70:]
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1.0)


@torch.no_grad()
def test_rows_prefilled_apart_go_on_together(llama: PreTrainedModel) -> None:
    forward = Forward(llama)
    prompts = [ids(1, length, seed=length)[0].tolist() for length in (40, 33, 40)]
    cache = SlotCache(forward.config, 3, 45)
    for row, prompt in enumerate(prompts):
        inputs, mask, positions = left_padded([prompt], torch.device("cpu"))
        forward(inputs, cache.view(slice(row, row + 1), 40 - len(prompt), 0), mask, positions)
    cache.filled(40)
    tokens = ids(3, 1, seed=9)
    mask = torch.ones(3, 41, dtype=torch.long)
    mask[1, :7] = 0
    got = forward(tokens, cache, mask, torch.tensor([[40], [33], [40]]))[:, -1]
    for row, prompt in enumerate(prompts):
        expected = llama(input_ids=torch.tensor([[*prompt, int(tokens[row, 0])]])).logits[0, -1]
        assert torch.allclose(got[row], expected, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_dropping_rows_keeps_the_others(llama: PreTrainedModel) -> None:
    forward = Forward(llama)
    inputs = ids(4, 12)
    cache = SlotCache(forward.config, 4, 20)
    forward(inputs, cache)
    cache.reorder_cache(torch.tensor([3, 1]))  # type: ignore[arg-type]
    tokens = ids(2, 1, seed=5)
    got = forward(tokens, cache)[:, -1]
    expected = llama(input_ids=torch.cat([inputs[[3, 1]], tokens], dim=1)).logits[:, -1]
    assert torch.allclose(got, expected, atol=1e-4, rtol=1e-5)


def test_assigned_states_are_written_into_the_slots_or_refused(llama: PreTrainedModel) -> None:
    cache = SlotCache(llama.config, 2, 10)
    states = torch.randn(2, 2, 4, 16)
    cache.layers[0].update(states, -states)  # type: ignore[union-attr]
    view = cache.view(slice(1, 2), 0, 4)
    view.layers[0].keys = torch.ones(1, 2, 4, 16)  # type: ignore[union-attr]
    assert cache.layers[0].keys is not None  # type: ignore[union-attr]
    assert torch.equal(cache.layers[0].keys[0], states[0])  # type: ignore[union-attr]
    assert bool((cache.layers[0].keys[1] == 1).all())  # type: ignore[union-attr]
    with pytest.raises(CacheError, match="keep their length"):
        view.layers[0].values = torch.ones(1, 2, 3, 16)  # type: ignore[union-attr]


@torch.no_grad()
def test_bytes_are_the_same_for_every_kind_of_cache(llama: PreTrainedModel, mamba: PreTrainedModel) -> None:
    slots, growing = SlotCache(llama.config, 2, 64), DynamicCache(config=llama.config)
    for cache in (slots, growing):
        Forward(llama)(ids(2, 30), cache)
    # 2 rows, 2 layers, keys and values of 2 heads of 16, four bytes each
    assert cache_bytes(slots) == cache_bytes(growing) == 2 * 30 * 2 * 2 * 2 * 16 * 4
    sizes = []
    for length in (16, 48):
        state = Forward(mamba).fresh_cache()
        Forward(mamba)(ids(1, length), state)
        sizes.append(cache_bytes(state))
    assert sizes[0] == sizes[1] > 0


def test_recurrent_models_get_their_own_cache(mamba: PreTrainedModel) -> None:
    assert not SlotCache.fits(mamba.config)
    assert isinstance(Forward(mamba).fresh_cache(), DynamicCache)


def test_models_without_cache_are_refused() -> None:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, vocab_size=9)
    with pytest.raises(UnsupportedModel, match="BertForMaskedLM"):
        Forward(BertForMaskedLM(config))


def test_padding_repeats_no_foreign_token() -> None:
    padded, mask, positions = left_padded([[5, 6, 7], [8]], torch.device("cpu"))
    assert padded.tolist() == [[5, 6, 7], [8, 8, 8]]
    assert mask is not None
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert positions.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert left_padded([[1, 2], [3, 4]], torch.device("cpu"))[1] is None
