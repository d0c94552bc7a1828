"""The sweep over scales: its figure, what is tried, and that the samples are the same for all."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from farspan.errors import FarspanError, RecipeError
from farspan.evals.scale_sweep import ScaleResult, ScaleSweep, area, sweep_scales
from farspan.models import reference_path
from farspan.positions import LinearInterpolation, get_rope
from farspan.recipe import Recipe


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(reference_path())
    return loaded


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    return LlamaForCausalLM(config).eval()


def result(multiple: float, area: float, short: float = 1.0) -> ScaleResult:
    return ScaleResult(multiple=multiple, recipe="", window=1, accuracy=(short, area), n=(1, 1), area=area)


def test_the_area_is_the_mean_height_over_the_lengths() -> None:
    assert area([100, 200, 400], [1.0, 0.5, 0.5]) == pytest.approx((0.75 * 100 + 0.5 * 200) / 300)
    assert area([10, 20], [0.3, 0.3]) == pytest.approx(0.3)
    with pytest.raises(FarspanError, match="at least two lengths"):
        area([10], [1.0])


def test_of_equals_the_scale_nearest_to_training_is_best_and_short_cost_is_told() -> None:
    found = ScaleSweep(task="t", lengths=(1, 2), results=(result(1, 0.4), result(1.5, 0.6, 0.9), result(2, 0.6, 0.7)))
    assert found.best.multiple == 1.5
    assert found.cost_at_short(found.best) == pytest.approx(0.1)


def test_the_factor_of_the_recipe_is_multiplied(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    before = get_rope(model.config)
    told: list[tuple[int, int]] = []
    found = sweep_scales(
        model,
        tokenizer,
        Recipe.parse("yarn:factor=2,beta_fast=16,pbs"),
        multiples=(1, 2),
        n=1,
        progress=lambda done, whole: told.append((done, whole)),
    )
    assert [one.recipe for one in found.results] == [
        "yarn:factor=2.0,beta_fast=16.0,pbs",
        "yarn:factor=4.0,beta_fast=16.0,pbs",
    ]
    assert [one.window for one in found.results] == [256, 512]
    assert found.lengths == (128, 256, 384, 512)
    assert told == [(1, 2), (2, 2)]
    for one in found.results:
        assert len(one.accuracy) == len(one.n) == 4
        assert one.area == pytest.approx(area(found.lengths, one.accuracy))
    assert torch.equal(get_rope(model.config).inv_freq, before.inv_freq)


def test_a_stretched_checkpoint_is_stretched_further(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    with LinearInterpolation(factor=2)(model):
        found = sweep_scales(model, tokenizer, multiples=(1, 1.5), lengths=(128, 200), n=1)
    assert [one.recipe for one in found.results] == ["", "linear:factor=1.5,compose=true"]
    assert [one.window for one in found.results] == [256, 384]


def test_what_cannot_be_swept_is_one_line(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    cases: list[tuple[type[FarspanError], str, str, dict[str, object]]] = [
        (FarspanError, "each at least 1, not \\[0.5, 1\\]", "linear:factor=2", {"multiples": (0.5, 1)}),
        (FarspanError, "needs multiples", "linear:factor=2", {"multiples": ()}),
        (FarspanError, "at least two lengths", "linear:factor=2", {"lengths": (128,)}),
        (RecipeError, "factor 8 is above max_factor 4", "clex:factor=4,max_factor=4,act=none", {"multiples": (1, 2)}),
    ]
    for error, words, recipe, settings in cases:
        with pytest.raises(error, match=words) as caught:
            sweep_scales(model, tokenizer, Recipe.parse(recipe), n=1, **settings)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
