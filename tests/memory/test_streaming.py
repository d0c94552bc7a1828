"""Sinks and recent tokens at places in the cache: equal to a text that never held what was dropped."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from farspan.errors import LeverNotApplicable
from farspan.memory import StreamingLLM
from farspan.models import load
from farspan.training.data.text import TextFiles
from tests.attention.conftest import tiny_model
from tests.attention.test_any_model import tokens


def one_layer(family: str) -> PreTrainedModel:
    """Keys and values of a first layer follow from a token and its position alone."""
    model = tiny_model(family)
    del model.model.layers[1:]
    model.config.num_hidden_layers = 1
    return model


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
@pytest.mark.parametrize("chunk", [1, 7])
@torch.no_grad()
def test_reading_on_is_reading_what_was_kept(family: str, chunk: int) -> None:
    model, ids = one_layer(family), tokens(1, 150)
    cache = DynamicCache(config=model.config)
    with StreamingLLM(sinks=4, recent=20, positions="cache")(model):
        model(ids[:, :60], past_key_values=cache)
        for begin in range(60, 150, chunk):
            logits = model(ids[:, begin : begin + chunk], past_key_values=cache).logits
            end = min(begin + chunk, 150)
            # one place less than the cache has, and what is read now
            kept = torch.cat([ids[:, :4], ids[:, begin - 19 : end]], 1)
            expected = model(kept).logits[:, -(end - begin) :]
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert cache.get_seq_length() == 150
    assert cache.layers[0].keys.shape[2] == 23


@torch.no_grad()
def test_rows_of_a_batch_close_gaps_of_their_own() -> None:
    model, lever = tiny_model("llama"), StreamingLLM(sinks=3, recent=12, positions="cache")
    ids = tokens(2, 40)
    mask = torch.ones_like(ids)
    mask[1, :9] = 0
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    settings |= {"output_logits": True, "return_dict_in_generate": True}
    with lever(model):
        both = model.generate(ids, attention_mask=mask, **settings)
        for row, start in ((0, 0), (1, 9)):
            alone = model.generate(ids[row : row + 1, start:], **settings)
            for step, reference in zip(both.logits, alone.logits, strict=True):
                torch.testing.assert_close(step[row], reference[0], atol=1e-4, rtol=1e-4)


def loss_beyond(model: PreTrainedModel, ids: Tensor, lever: StreamingLLM | None, start: int) -> float:
    """Mean loss of the tokens from `start` on, read 32 at a time."""
    cache, total = DynamicCache(config=model.config), 0.0
    with lever(model) if lever else nullcontext(), torch.no_grad():
        for begin in range(0, ids.shape[1] - 32, 32):
            logits = model(ids[:, begin : begin + 32], past_key_values=cache).logits[0]
            if begin >= start:
                wanted = ids[0, begin + 1 : begin + 33]
                total += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
    return total / (ids.shape[1] - 32 - start)


@pytest.mark.slow
def test_loss_stays_where_it_was_beyond_the_window() -> None:
    model, tokenizer = load("reference", dtype="float32", device="cpu")
    text = max(TextFiles(tokenizer, split="held_out").token_ids(), key=len)
    ids = torch.tensor([list(text)[: 6 * 512 + 32]], dtype=torch.long)
    lever = StreamingLLM(sinks=4, recent=220, positions="cache")
    near, far, everything = (
        loss_beyond(model, ids[:, : 512 + 32], lever, 256),
        loss_beyond(model, ids, lever, 1024),
        loss_beyond(model, ids, None, 1024),
    )
    assert far < near + 0.5
    assert far < everything - 1.0


def test_models_whose_keys_cannot_be_turned_are_refused() -> None:
    lever = StreamingLLM(positions="cache")
    with pytest.raises(LeverNotApplicable, match="positions=true"):
        lever(tiny_model("deepseek-v3"))
    with pytest.raises(LeverNotApplicable), lever(tiny_model("gemma3")):
        pytest.fail("the body must not run")
