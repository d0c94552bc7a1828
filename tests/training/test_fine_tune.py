"""A fine-tune learns, comes off bit for bit, and can be baked."""

import time

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from farspan.errors import FarspanError
from farspan.training import Document, FineTune
from farspan.training.data import pack_rows


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            tie_word_embeddings=True,
        )
    ).eval()


def batches():
    document = Document(list(range(2, 18)), [True] * 16)
    while True:
        yield pack_rows([[(document, 1.0)]] * 4, 16, pad_token_id=0)


def loss_of(model):
    ids = torch.arange(2, 18)[None]
    with torch.no_grad():
        return model(input_ids=ids, labels=ids).loss.item()


def test_learns_and_restores_bit_for_bit(model, tmp_path):
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = loss_of(model)
    lever = FineTune(tokens=64 * 20, learning_rate=1e-2, muon_learning_rate=1e-2).fit(
        model, batches(), tmp_path / "w.safetensors", batch_tokens=64
    )
    assert loss_of(model) == before
    assert lever.tokens == 64 * 20
    with lever(model):
        assert loss_of(model) < before / 2
    assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items())
    lever.bake(model)
    assert loss_of(model) < before / 2


def test_one_clear_line_without_weights(model, tmp_path):
    with pytest.raises(FarspanError, match="no learned weights"), FineTune()(model):
        pass
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(FarspanError, match="cannot read learned weights"):
        FineTune(weights=str(tmp_path / "bad.safetensors")).bake(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_learns_in_steps_that_it_cannot_hold(model, tmp_path, dtype):
    model.to(dtype)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = loss_of(model)
    # A step of 2e-5 is lost beside weights of 0.02 in bfloat16; four hundred of them are not.
    lever = FineTune(tokens=64 * 400, optimizer="adamw", learning_rate=2e-5).fit(
        model, batches(), tmp_path / "w.safetensors", batch_tokens=64
    )
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items())
    with lever(model):
        assert loss_of(model) < before - 0.1


def test_a_deadline_ends_training_with_something_learned(model, tmp_path):
    before = loss_of(model)
    lever = FineTune(tokens=10**9, learning_rate=1e-2, muon_learning_rate=1e-2).fit(
        model, batches(), tmp_path / "w.safetensors", batch_tokens=64, deadline=time.monotonic() + 2.0
    )
    assert lever.tokens < 10**9
    with lever(model):
        assert loss_of(model) < before / 2
