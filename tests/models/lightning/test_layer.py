"""The layer and its cache: masks, documents, tokens one by one, and tokens taken back."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from farspan.models.lightning import HybridCache, LightningAttention, StateCacheError, StateLayer, state_layer
from farspan.models.lightning.layer import document_bounds, read_mask


@pytest.fixture
def layer() -> LightningAttention:
    torch.manual_seed(0)
    return LightningAttention.new(24, 3, 8, layer_idx=1, num_layers=4, block_size=8).double()


def _hidden(batch: int, length: int) -> torch.Tensor:
    return torch.randn(batch, length, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_slopes_stay_in_float32_and_out_of_checkpoints(layer: LightningAttention) -> None:
    half = layer.to(torch.bfloat16)
    assert half.slopes(torch.device("cpu")).dtype == torch.float32
    assert set(layer.state_dict()) == {"qkv_proj.weight", "norm.weight", "out_proj.weight", "output_gate.weight"}


def test_chunks_and_single_tokens_through_a_cache_are_the_whole(layer: LightningAttention) -> None:
    x = _hidden(2, 21)
    whole, _ = layer(x)
    cache = DynamicCache()
    parts = [layer(part, past_key_values=cache)[0] for part in x.split([7, 9, 1, 1, 3], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    assert state_layer(cache, 1).get_seq_length() == 21
    assert isinstance(cache.layers[0], DynamicLayer)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_equal_rows_alone(layer: LightningAttention, side: str) -> None:
    x, extra = _hidden(2, 12), _hidden(2, 3)
    mask = torch.ones(2, 12, dtype=torch.bool)
    real = slice(4, 12) if side == "left" else slice(0, 8)
    mask[0] = False
    mask[0, real] = True
    cache, alone = DynamicCache(), DynamicCache()
    both, _ = layer(x, attention_mask=mask, past_key_values=cache)
    own, _ = layer(x[:1, real], past_key_values=alone)
    torch.testing.assert_close(both[:1, real], own)
    later, _ = layer(extra, past_key_values=cache)
    torch.testing.assert_close(later[:1], layer(extra[:1], past_key_values=alone)[0])


def test_a_mask_of_any_form_is_read() -> None:
    keep = torch.tensor([[False, True, True], [True, True, True]])
    square = keep[:, None, None, :] & torch.ones(3, 3).tril().bool()
    added = torch.zeros(2, 1, 3, 3).masked_fill(~square, torch.finfo(torch.float32).min)
    for mask in (keep, keep.long(), square, added):
        tokens, bounds = read_mask(mask, None, 2, 3)
        assert tokens is not None
        assert tokens.tolist() == keep.tolist()
        assert bounds is None
    assert read_mask(None, None, 2, 3) == (None, None)
    assert read_mask(torch.ones(2, 5), None, 2, 3) == (None, None)
    packed = torch.block_diag(torch.ones(2, 2).tril(), torch.ones(1, 1)).bool()[None, None]
    tokens, bounds = read_mask(packed, None, 2, 3)
    assert tokens is None
    assert bounds is not None
    assert bounds.tolist() == [0, 2, 3, 5, 6]


def test_packed_documents_do_not_see_each_other(layer: LightningAttention) -> None:
    x = _hidden(2, 10)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 0, 1, 0, 1]])
    packed, _ = layer(x, position_ids=positions)
    torch.testing.assert_close(packed[:1, 3:], layer(x[:1, 3:])[0])
    torch.testing.assert_close(packed[1:, 6:8], layer(x[1:, 6:8])[0])
    assert document_bounds(torch.arange(10)[None], 2) is None
    bounds = document_bounds(positions, 2)
    assert bounds is not None
    assert bounds.tolist() == [0, 3, 10, 16, 18, 20]


def test_tokens_can_be_taken_back_once_recording_is_on(layer: LightningAttention) -> None:
    x = _hidden(2, 40)
    cache = HybridCache(window=6)
    layer(x[:, :10], past_key_values=cache)
    cache.activate_past_recording()
    for part in x[:, 10:30].split([1, 4, 9, 6], dim=1):
        layer(part, past_key_values=cache)
    cache.crop(-5)
    assert cache.layers[1].get_seq_length() == 25
    reference = DynamicCache()
    layer(x[:, :25], past_key_values=reference)
    torch.testing.assert_close(cache.layers[1].states[0], state_layer(reference, 1).states[0])  # type: ignore[index]
    after, _ = layer(x[:, 25:], past_key_values=cache)
    torch.testing.assert_close(after, layer(x)[0][:, 25:])


def test_what_was_not_recorded_cannot_be_taken_back(layer: LightningAttention) -> None:
    cache = HybridCache(window=2)
    layer(_hidden(1, 10), past_key_values=cache)
    assert not cache.layers[1].is_croppable
    with pytest.raises(StateCacheError, match="activate_past_recording"):
        cache.crop(-1)
    cache.activate_past_recording()
    layer(_hidden(1, 3), past_key_values=cache)
    with pytest.raises(StateCacheError, match="3 are kept"):
        cache.layers[1].crop(-4)


def test_rows_are_reordered_selected_and_repeated(layer: LightningAttention) -> None:
    cache = HybridCache()
    cache.activate_past_recording()
    x = _hidden(3, 5)
    layer(x, past_key_values=cache)
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    cache.batch_select_indices(torch.tensor([0, 2]))
    cache.batch_repeat_interleave(2)
    after, _ = layer(_hidden(4, 2), past_key_values=cache)
    cache.crop(-2)
    again, _ = layer(_hidden(4, 2), past_key_values=cache)
    fresh = DynamicCache()
    layer(x[[2, 2, 0, 0]], past_key_values=fresh)
    expected, _ = layer(_hidden(4, 2), past_key_values=fresh)
    torch.testing.assert_close(after, expected)
    torch.testing.assert_close(again, expected)


def test_a_cache_that_holds_keys_already_is_refused() -> None:
    cache = DynamicCache()
    cache.update(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4), 0)
    with pytest.raises(StateCacheError, match="fresh DynamicCache"):
        state_layer(cache, 0)
    cache.layers.append(DynamicSlidingWindowLayer(sliding_window=4))
    with pytest.raises(StateCacheError, match="DynamicSlidingWindowLayer"):
        state_layer(cache, 1)


def test_a_state_layer_forgets_on_reset() -> None:
    states = StateLayer()
    states.advance((torch.ones(1, 2),), 4)
    states.reset()
    assert states.states is None
    assert states.get_mask_sizes(3) == (3, 0)
    with pytest.raises(StateCacheError, match="not keys"):
        states.update(torch.zeros(1), torch.zeros(1))
