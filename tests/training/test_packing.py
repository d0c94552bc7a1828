"""Rows of documents as tensors, and whole collections packed into rows."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from farspan.training import Document, document_ids, pack
from farspan.training.data import pack_rows

DOCUMENTS = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=30), min_size=1, max_size=12)


@given(DOCUMENTS, st.integers(1, 16), st.sampled_from(["bfd_split", "wrapped"]))
def test_splitting_strategies_lose_no_token(documents, max_length, strategy):
    rows = pack(documents, max_length, strategy)
    assert all(sum(map(len, row)) <= max_length for row in rows)
    packed = sorted(token for row in rows for piece in row for token in piece)
    assert packed == sorted(token for document in documents for token in document)


@given(DOCUMENTS, st.integers(1, 16))
def test_best_fit_cuts_only_tails(documents, max_length):
    pieces = [piece for row in pack(documents, max_length, "bfd") for piece in row]
    assert sorted(pieces) == sorted(document[:max_length] for document in documents)


def test_document_ids_follow_restarting_positions():
    assert document_ids(torch.tensor([[0, 1, 2, 3]])) is None
    assert document_ids(torch.tensor([[0, 1, 0, 1, 2, 0]])).tolist() == [[0, 0, 1, 1, 1, 2]]


def test_a_packed_document_does_not_see_the_one_before_it():
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    ).eval()
    first, second = Document([5, 6, 7, 8], [True] * 4), Document([9, 10, 11], [True] * 3)
    batch = pack_rows([[(first, 1.0), (second, 1.0)]], 8, pad_token_id=0)
    assert batch["labels"][0].tolist() == [-100, 6, 7, 8, -100, 10, 11, -100]
    with torch.no_grad():
        packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        alone = model(input_ids=torch.tensor([[9, 10, 11]]), use_cache=False).logits
    torch.testing.assert_close(packed[:, 4:7], alone, atol=1e-5, rtol=1e-5)
