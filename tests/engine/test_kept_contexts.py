"""Contexts brought to the engine already read: no prefill, equal answers, gone when the model changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.cache_utils import DynamicCache

from farspan.attention import Squeezed, attention_report
from farspan.engine import Engine, ModelSpec, Request
from farspan.engine.cache import CacheError, SlotCache
from farspan.engine.forward import UnsupportedModel
from farspan.engine.prefix import PrefixStore, prefix_key
from farspan.errors import FarspanError
from farspan.recipe import Recipe
from tests.engine.conftest import CONFIGS, make_model, make_tokenizer

CONTEXT = torch.randint(0, 256, (400,), generator=torch.Generator().manual_seed(0)).tolist()
QUESTIONS = [torch.randint(0, 256, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (5, 5, 9, 1)]


def asked(named: bool, new_tokens: int = 6) -> list[Request]:
    return [Request([*CONTEXT, *q], new_tokens, prefix_length=len(CONTEXT) if named else 0) for q in QUESTIONS]


def read(model: PreTrainedModel) -> DynamicCache:
    cache = DynamicCache()
    with torch.no_grad():
        model(torch.tensor([CONTEXT]), past_key_values=cache)
    return cache


@pytest.mark.parametrize("named", [True, False])
def test_a_kept_context_is_not_read_again(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, named: bool
) -> None:
    with Engine(llama, tokenizer) as engine:
        expected = [result.ids for result in engine.generate_batch(asked(True))]
    with Engine(llama, tokenizer, prefix_cache_tokens=0) as engine:
        engine.keep_context(CONTEXT, read(llama))
        results = engine.generate_batch(asked(named))
        assert engine.stats.prefill_tokens == sum(map(len, QUESTIONS))
    assert [result.ids for result in results] == expected
    assert all(result.usage.cached_tokens == len(CONTEXT) for result in results)


def test_a_kept_context_goes_when_the_model_changes(tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model(CONFIGS["llama"]())
    with Engine(model, tokenizer) as engine:
        engine.keep_context(CONTEXT, read(model))
        with torch.no_grad():
            next(iter(model.parameters())).mul_(1.01)
        results = engine.generate_batch(asked(True))
        assert engine.stats.prefill_tokens == len(CONTEXT) + sum(map(len, QUESTIONS))
    with Engine(model, tokenizer) as engine:
        assert [result.ids for result in engine.generate_batch(asked(True))] == [result.ids for result in results]


def test_what_cannot_be_kept_says_so(
    llama: PreTrainedModel, mamba: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    cache = read(llama)
    with Engine(llama, tokenizer) as engine:
        with pytest.raises(CacheError, match="399 tokens"):
            engine.keep_context(CONTEXT[:-1], cache)
        with pytest.raises(CacheError, match="0 layers"):
            engine.keep_context(CONTEXT, DynamicCache())
    with Engine(mamba, tokenizer) as engine, pytest.raises(UnsupportedModel):
        engine.keep_context(CONTEXT, cache)


def test_the_longest_pinned_context_is_found() -> None:
    store = PrefixStore(10)
    kept = SlotCache(CONFIGS["llama"](), 1, 1)
    for length in (3, 5):
        store.pin(prefix_key(CONTEXT, length), kept, length)
    assert [store.pinned_length(CONTEXT[:n]) for n in (3, 4, 5, 6)] == [0, 3, 3, 5]
    assert store.pinned_length([999, *CONTEXT]) == 0
    assert store.get(prefix_key(CONTEXT, 5)) is kept
    store.clear()
    assert store.pinned_length(CONTEXT) == 0


@pytest.fixture(scope="module")
def squeezed(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A recipe file that reads the context at sparsity 0.7."""
    from farspan.models import load

    folder = tmp_path_factory.mktemp("squeezed")
    model, _ = load(model_folder)
    lever = Squeezed(sparsity=0.7, min_length=0).fit(model, CONTEXT, folder / "context", cluster_ratio=0.1)
    return Recipe([lever]).to_yaml(folder / "recipe.yaml")


def test_an_engine_serves_questions_on_a_saved_context(squeezed: Path, model_folder: Path) -> None:
    spec = ModelSpec(path=str(model_folder), levers=str(squeezed))
    answers = []
    for together in (True, False):
        with Engine.from_spec(spec) as engine:
            requests = asked(False)
            batches = [requests] if together else [[request] for request in requests]
            results = [result for batch in batches for result in engine.generate_batch(batch)]
            answers.append([result.ids for result in results])
            assert engine.stats.prefill_tokens == sum(map(len, QUESTIONS))
            stats = attention_report(engine.model)
            assert all(layer.sparse and not layer.fallbacks for layer in stats)
            assert all(layer.density < 0.75 for layer in stats)
    # what a question is batched with does not change its answer
    assert answers[0] == answers[1]


def test_at_sparsity_zero_answers_are_those_without_the_lever(
    squeezed: Path, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    (lever,) = Recipe.from_yaml(squeezed)
    assert isinstance(lever, Squeezed)
    with Engine(llama, tokenizer) as engine:
        expected = [result.ids for result in engine.generate_batch(asked(True))]
    exact = lever.model_copy(update={"sparsity": 0.0})
    with exact(llama), Engine(llama, tokenizer) as engine:
        assert [result.ids for result in engine.generate_batch(asked(True))] == expected
        assert all(layer.sparse for layer in attention_report(llama))


def test_a_recipe_for_another_model_is_refused(squeezed: Path, tmp_path: Path) -> None:
    make_model(CONFIGS["llama"](), seed=3).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(FarspanError, match="another model"):
        Engine.from_spec(ModelSpec(path=str(tmp_path), levers=str(squeezed)))
