"""The ranker: exchangeable documents, groups, decoding, and one line for what cannot be ranked."""

from __future__ import annotations

import math

import bm25s
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from farspan.engine.ranking import InContextRanker, Ranked, ndcg, reciprocal_rank
from farspan.training.data.ranking import RankingError, RankingExample
from tests.ranking import key_examples, tiny_ranker, word_tokenizer

TEXTS = {"a": "w1 w2 w3", "b": "w4", "c": "w5 w6 w7 w8 w9", "d": "w10 w11"}


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_ranker()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer()


def test_scores_share_one_and_the_model_is_left_as_found(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = torch.arange(2, 20)[None]
    with torch.no_grad():
        before = model(ids).logits
    ranker = InContextRanker(model, tokenizer)
    shares = ranker.scores("w5", list(TEXTS.values()))
    assert sum(shares) == pytest.approx(1.0, abs=1e-5)
    ranked = ranker.rank("w5", TEXTS)
    assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
    by_name = {one.doc_id: one.score for one in ranked}
    for name, share in zip(TEXTS, shares, strict=True):
        assert by_name[name] == pytest.approx(math.log(share * len(TEXTS)), abs=1e-5)
    assert ranker.rank("w5", TEXTS, top_k=2) == ranked[:2]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, before)


def test_lists_and_mappings_rank_alike(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    ranker = InContextRanker(model, tokenizer)
    rows = [{"doc_id": name, "text": text} for name, text in TEXTS.items()]
    assert ranker.rank("w5", rows) == ranker.rank("w5", TEXTS)
    assert {one.doc_id for one in ranker.rank("w5", list(TEXTS.values()))} == {"0", "1", "2", "3"}


def test_full_attention_can_be_compared(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    texts = list(TEXTS.values())
    blocks, full = (
        InContextRanker(model, tokenizer, structure=structure).scores("w5", texts) for structure in ("blocks", "full")
    )
    assert sum(full) == pytest.approx(1.0, abs=1e-5)
    assert blocks != pytest.approx(full, abs=1e-6)
    alone = [
        InContextRanker(model, tokenizer, structure=structure).scores("w5", texts[:1])
        for structure in ("blocks", "full")
    ]
    assert alone[0] == pytest.approx(alone[1])


def test_more_documents_than_a_group_holds(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    (example,) = key_examples(1, 30, 5)
    ranked = InContextRanker(model, tokenizer, group=7).rank(example.query, example.documents)
    assert sorted(one.doc_id for one in ranked) == sorted(example.documents)
    again = InContextRanker(model, tokenizer, group=7).rank(example.query, example.documents)
    assert ranked == again
    whole = InContextRanker(model, tokenizer, group=30).rank(example.query, example.documents)
    assert len(whole) == 30


def test_decoding_puts_the_named_document_first(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranker = InContextRanker(model, tokenizer, mode="decode")
    named = ranker.decode("w5", list(TEXTS.values()))
    assert named is None or 0 <= named < 4
    plain = InContextRanker(model, tokenizer).rank("w5", TEXTS)
    monkeypatch.setattr(ranker, "decode", lambda query, texts: 3)
    ranked = ranker.rank("w5", TEXTS)
    assert ranked[0].doc_id == "d"
    assert ranked[1:] == [one for one in plain if one.doc_id != "d"]
    monkeypatch.setattr(ranker, "decode", lambda query, texts: None)
    assert ranker.rank("w5", TEXTS) == plain


def test_the_best_layer_is_taken(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    ranker = InContextRanker(model, tokenizer, layer=0)
    examples = key_examples(6, 5, 2)
    layer = ranker.best_layer(examples)
    assert layer in (0, 1)
    assert ranker.layer == layer
    quality = []
    for other in (0, 1):
        alone = InContextRanker(model, tokenizer, layer=other)
        quality.append(sum(reciprocal_rank(alone.rank(e.query, e.documents), e.answers) for e in examples))
    assert quality[layer] == max(quality)
    with pytest.raises(RankingError, match="answers"):
        ranker.best_layer([RankingExample("w1", {"a": "w1"})])


def test_what_cannot_be_ranked_says_so(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    ranker = InContextRanker(model, tokenizer)
    with pytest.raises(RankingError, match="no documents"):
        ranker.rank("w1", {})
    with pytest.raises(RankingError, match="twice"):
        ranker.rank("w1", [{"doc_id": "x", "text": "a"}, {"doc_id": "x", "text": "b"}])
    with pytest.raises(RankingError, match="shorten the query"):
        ranker.rank("w1 " * 200, TEXTS)
    with pytest.raises(RankingError, match="layers 0 to 1"):
        InContextRanker(model, tokenizer, layer=5)


def test_a_long_document_is_cut(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    ranker = InContextRanker(model, tokenizer, max_document=20)
    head = "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 w13 w14 w15 "
    assert ranker.scores("w5", [head + "w20", "w3"]) == ranker.scores("w5", [head + "w21 w22", "w3"])


def test_the_best_of_bm25_can_be_ranked_again(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    (example,) = key_examples(1, 20, 7)
    names, texts = list(example.documents), list(example.documents.values())
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(texts, stopwords=None, show_progress=False), show_progress=False)
    places, _ = retriever.retrieve(
        bm25s.tokenize(example.query, stopwords=None, show_progress=False), k=5, show_progress=False
    )
    hits = {names[place]: texts[place] for place in places[0].tolist()}
    ranked = InContextRanker(model, tokenizer).rank(example.query, hits)
    assert {one.doc_id for one in ranked} == set(hits)


def test_measures_of_rankings() -> None:
    ranked = [Ranked(name, 0.0) for name in "abcd"]
    assert reciprocal_rank(ranked, ["c"]) == pytest.approx(1 / 3)
    assert reciprocal_rank(ranked, ["c"], cut=2) == 0.0
    assert ndcg(ranked, ["a", "b"]) == 1.0
    assert ndcg(ranked, ["b"]) == pytest.approx(1 / math.log2(3))
    assert ndcg(ranked, []) == 0.0
