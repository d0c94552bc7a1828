"""Teaching recipes: what a lever learns of its own, and the model's weights back afterwards."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from farspan.attention import SinkWindow
from farspan.errors import FarspanError
from farspan.positions import E2LLM, Clex, Yarn
from farspan.recipe import Recipe
from farspan.training import FineTune, teach

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 61}


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, max_position_embeddings=32)).eval()


def batches(count: int = 3) -> list[dict[str, torch.Tensor]]:
    rows = [torch.randint(0, 61, (2, 32), generator=torch.Generator().manual_seed(seed)) for seed in range(count)]
    positions, weights = torch.arange(32).expand(2, 32), torch.ones(2, 32)
    return [
        {"input_ids": ids, "labels": ids.clone(), "position_ids": positions, "loss_weights": weights} for ids in rows
    ]


@pytest.mark.parametrize("lever", [Yarn(factor=2), E2LLM(factor=2, max_factor=4), Clex(factor=2, max_factor=4)])
def test_a_taught_recipe_works_after_a_round_trip_and_the_model_is_as_before(
    model: LlamaForCausalLM, lever: Yarn, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe = teach([lever], model, batches(), tmp_path, batch_tokens=64, fine_tune=FineTune(tokens=192))
    assert [part.name for part in recipe] == [lever.name, "fine-tune"]  # type: ignore[union-attr]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    again = Recipe.from_yaml(recipe.to_yaml(tmp_path / "recipe.yaml"))
    ids = torch.arange(40)[None]
    with torch.no_grad():
        with recipe(model):
            logits = model(input_ids=ids).logits
        with again(model):
            assert torch.equal(model(input_ids=ids).logits, logits)
        assert not torch.equal(model(input_ids=ids).logits, logits)


def test_a_lever_that_learns_something_of_its_own_is_taught_alone(model: LlamaForCausalLM, tmp_path: Path) -> None:
    with pytest.raises(FarspanError, match="'clex' is taught alone"):
        teach([Clex(factor=2), SinkWindow()], model, batches(), tmp_path, batch_tokens=64)
