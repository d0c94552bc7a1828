"""Linearize: new layers that learn what the old ones did, on and off, with cache, padding and recipes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, Qwen3Config, Qwen3ForCausalLM

from farspan import Recipe
from farspan.attention.linearize import Linearize
from farspan.errors import FarspanError, LeverNotApplicable
from farspan.models.lightning import LightningAttention

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(3.0)
    return model


def _batches(count: int) -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield {"input_ids": torch.randint(3, 61, (4, 24), generator=generator)}


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(3, 61, (2, 20), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Linearize:
    out = tmp_path_factory.mktemp("linearize") / "layers.safetensors"
    lever = Linearize(keep_every=2, tokens=60 * 96, learning_rate=3e-3)
    return lever.fit(_model(), _batches(60), out, batch_tokens=96)


@torch.no_grad()
def _distance(model: LlamaForCausalLM, lever: Linearize, ids: Tensor) -> float:
    target = F.log_softmax(model(ids).logits, -1)
    with lever(model):
        found = F.log_softmax(model(ids).logits, -1)
    return float(F.kl_div(found, target, log_target=True, reduction="none").sum(-1).mean())


def test_teaching_brings_the_model_nearer_to_what_it_was(taught: Linearize, ids: Tensor, tmp_path: Path) -> None:
    barely = Linearize(keep_every=2, tokens=1).fit(_model(), _batches(2), tmp_path / "x.safetensors", batch_tokens=96)
    assert taught.tokens == 60 * 96
    assert _distance(_model(), taught, ids) < 0.7 * _distance(_model(), barely, ids)


@torch.no_grad()
def test_on_and_off_leaves_the_model_as_found(taught: Linearize, ids: Tensor, tmp_path: Path) -> None:
    model = _model()
    before, names = model(ids).logits, list(model.state_dict())
    path = Recipe([taught]).to_yaml(tmp_path / "recipe.yaml")
    with Recipe.from_yaml(path)(model):
        kinds = [isinstance(layer.self_attn, LightningAttention) for layer in model.model.layers]
        assert kinds == [True, False, True, False]
        assert not torch.equal(model(ids).logits, before)
    assert torch.equal(model(ids).logits, before)
    assert list(model.state_dict()) == names
    assert getattr(model.config, "layer_types", None) is None


def test_fitting_changes_neither_weights_nor_what_is_trained(tmp_path: Path) -> None:
    model = _model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Linearize(keep_every=2, tokens=1).fit(model, _batches(2), tmp_path / "x.safetensors", batch_tokens=96)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@torch.no_grad()
def test_generation_with_and_without_a_cache_agree(taught: Linearize, ids: Tensor) -> None:
    model = _model()
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    settings = {"attention_mask": mask, "do_sample": False, "max_new_tokens": 8, "min_new_tokens": 8}
    with taught(model):
        cached = model.generate(ids, **settings)
        assert torch.equal(cached, model.generate(ids, use_cache=False, **settings))
        padded = model(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
        torch.testing.assert_close(padded[:1, 6:], model(ids[:1, 6:]).logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_block_sparse_levers_work_on_the_layers_that_stay(taught: Linearize, ids: Tensor) -> None:
    model = _model()
    with taught(model):
        expected = model(ids).logits
        with Recipe.parse("sink-window:window=64,sinks=0")(model):
            torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_a_deadline_ends_teaching(tmp_path: Path) -> None:
    lever = Linearize(keep_every=2, tokens=10**6)
    found = lever.fit(_model(), _batches(50), tmp_path / "x.safetensors", batch_tokens=96, deadline=0.0)
    assert found.tokens == 96


def test_other_decoders_with_separate_projections_fit_too(ids: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES)).eval()
    lever = Linearize(keep_every=2, tokens=1).fit(model, _batches(2), tmp_path / "x.safetensors", batch_tokens=96)
    with torch.no_grad(), lever(model):
        assert model(ids).logits.isfinite().all()


def test_what_does_not_fit_is_refused(taught: Linearize, tmp_path: Path) -> None:
    with pytest.raises(FarspanError, match="call fit"):
        Linearize(keep_every=2).switch_on(_model()).__enter__()
    with pytest.raises(FarspanError, match="do not belong"):
        taught.model_copy(update={"keep_every": 4})(_model()).__enter__()
    with pytest.raises(FarspanError, match="cannot read"):
        taught.model_copy(update={"weights": str(tmp_path / "none")})(_model()).__enter__()
    with pytest.raises(LeverNotApplicable, match="smaller keep_every"):
        Linearize().check(LlamaConfig(**SIZES))
    small = OPTConfig(vocab_size=9, hidden_size=16, num_hidden_layers=2, ffn_dim=16, num_attention_heads=2)
    with pytest.raises(LeverNotApplicable, match="has none to replace"):
        Linearize(keep_every=2).fit(OPTForCausalLM(small), [], tmp_path / "x", batch_tokens=1)
