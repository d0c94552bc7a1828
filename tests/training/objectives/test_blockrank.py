"""Training attention to rank: exact under recomputation, refused without answers, and it learns to find."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers import LlamaForCausalLM

from farspan.attention import BlockRank, block_infonce
from farspan.engine.ranking import InContextRanker
from farspan.training.data.ranking import RankingError, RankingExample
from farspan.training.objectives.blockrank import (
    CONFIG_KEY,
    fit_ranker,
    query_position,
    ranking_batches,
    ranking_loss,
    signal_layer,
)
from tests.ranking import key_examples, tiny_ranker, word_tokenizer


def first_batches(examples: list[RankingExample], number: int = 1, **settings: int) -> list[dict[str, torch.Tensor]]:
    given = {"batch_size": 3, "documents": 4, "query_position": 128, **settings}
    return list(itertools.islice(ranking_batches(word_tokenizer(), examples, **given), number))  # type: ignore[arg-type]


def test_recomputed_activations_give_the_same_gradients() -> None:
    (batch,) = first_batches(key_examples(5, 4, 0))
    gradients = []
    for recompute in (False, True):
        model = tiny_ranker().train()
        if recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        with BlockRank()(model):
            loss, parts = ranking_loss(model, batch, layer=1, aux_weight=0.5)
            loss.backward()
        gradients.append([weight.grad for weight in model.parameters()])
        assert float(loss.detach()) == pytest.approx(parts["next_token"] + 0.5 * parts["contrast"], rel=1e-5)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert all(gradient is not None for gradient in gradients[0])


def test_the_auxiliary_loss_is_that_of_the_scores_the_ranker_reads() -> None:
    model, tokenizer = tiny_ranker(), word_tokenizer()
    (example,) = key_examples(1, 4, 3)
    batch = next(
        iter(ranking_batches(tokenizer, [example], batch_size=1, documents=4, query_position=query_position(model)))
    )
    with BlockRank()(model), torch.no_grad():
        _, parts = ranking_loss(model, batch, layer=signal_layer(model))
    # the texts as the batch shows them, read back from its documents
    names = batch["block_ids"][0]
    texts = []
    for document in range(1, 5):
        words = tokenizer.decode(batch["input_ids"][0][names == document]).split("|")[1]
        texts.append(words.replace("CONTENT :", "").strip())
    scores = torch.tensor([InContextRanker(model, tokenizer).scores(example.query, texts)])
    loss, _ = block_infonce(scores, batch["answer_ids"])
    assert float(loss.detach()) == pytest.approx(parts["contrast"], rel=1e-4)


def test_batches_are_reproducible_and_go_round() -> None:
    examples = key_examples(5, 6, 1)
    one, other = (first_batches(examples, 4) for _ in range(2))
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(one, other, strict=True))
    assert not torch.equal(one[0]["input_ids"], first_batches(examples, seed=9)[0]["input_ids"])
    assert all(int((batch["answer_ids"] >= 0).sum()) == 3 for batch in one)


def test_wrong_examples_are_refused() -> None:
    with pytest.raises(RankingError, match="no examples"):
        first_batches([])
    with pytest.raises(RankingError, match="example 'q7' has no relevant"):
        first_batches([RankingExample("w1", {"a": "w1"}, ("b",), "q7")])
    with pytest.raises(RankingError, match="layers 0 to 1"):
        signal_layer(tiny_ranker(), 2)


def test_a_few_steps_write_the_configuration() -> None:
    model = tiny_ranker()
    before = model.lm_head.weight.detach().clone()
    parts = fit_ranker(model, word_tokenizer(), key_examples(8, 4, 0), steps=2, batch_size=2, documents=4, layer=0)
    assert set(parts) == {"next_token", "contrast", "accuracy"}
    assert getattr(model.config, CONFIG_KEY) == {"layer": 0, "query_position": 128}
    assert not torch.equal(model.lm_head.weight, before)
    assert not model.training
    assert signal_layer(model) == 0


def test_adapters_alone_can_be_trained() -> None:
    peft = pytest.importorskip("peft")
    model = tiny_ranker()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    only = peft.LoraConfig(r=4, target_modules=["q_proj", "k_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, only)
    settings = {"steps": 3, "batch_size": 2, "documents": 4, "learning_rate": 1e-2}
    fit_ranker(adapted, word_tokenizer(), key_examples(8, 4, 0), **settings)  # type: ignore[arg-type]
    learned = [weight for name, weight in adapted.named_parameters() if "lora_B" in name]
    assert len(learned) == 4
    assert all(weight.abs().max() > 0 for weight in learned)
    for name, weight in adapted.unload().named_parameters():
        assert torch.equal(weight, before[name])


def trained(aux_weight: float) -> LlamaForCausalLM:
    model = tiny_ranker()
    fit_ranker(
        model,
        word_tokenizer(),
        key_examples(4000, 8, 1),
        steps=600,
        batch_size=16,
        documents=8,
        layer=1,
        aux_weight=aux_weight,
        learning_rate=0.01,
        optimizer="muon",
    )
    return model


def precision(model: LlamaForCausalLM, examples: list[RankingExample]) -> float:
    ranker = InContextRanker(model, word_tokenizer())
    return sum(ranker.rank(e.query, e.documents, 1)[0].doc_id in e.answers for e in examples) / len(examples)


@pytest.mark.slow
def test_attention_learns_to_rank_and_goes_on_with_more_documents() -> None:
    torch.set_num_threads(1)
    few, many = key_examples(60, 8, 999), key_examples(60, 32, 998)
    model = trained(1.0)
    assert precision(model, few) > 0.9
    assert precision(model, many) > precision(model, few) - 0.1
    # reading attention needs no document order, and no decoding
    assert precision(trained(0.0), few) < 0.5
