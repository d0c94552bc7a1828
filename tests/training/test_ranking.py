"""Ranking as text: sampling, blocks and batches, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from farspan.training.data.packing import IGNORE_INDEX
from farspan.training.data.ranking import (
    Blocks,
    RankingError,
    RankingExample,
    collate_packed,
    collate_padded,
    documents_by_id,
    parse_id,
    ranking_blocks,
    read_documents,
    sample_documents,
)
from tests.ranking import word_tokenizer

DOCUMENTS = {f"d{index}": f"text {index}" for index in range(8)}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer()


@settings(max_examples=60, deadline=None)
@given(
    number=st.integers(-1, 12),
    answers=st.lists(st.sampled_from(sorted(DOCUMENTS)), unique=True, max_size=4),
    seed=st.integers(0, 10**6),
    sample=st.booleans(),
    fill=st.booleans(),
)
def test_samples_hold_answers_and_are_reproducible(
    number: int, answers: list[str], seed: int, sample: bool, fill: bool
) -> None:
    chosen = sample_documents(DOCUMENTS, answers, number, seed=seed, sample=sample, fill=fill)
    assert chosen == sample_documents(DOCUMENTS, answers, number, seed=seed, sample=sample, fill=fill)
    wanted = len(DOCUMENTS) if number <= 0 or (number > len(DOCUMENTS) and not fill) else number
    assert len(chosen.ids) == len(chosen.texts) == wanted
    assert len(set(chosen.ids)) == wanted
    found = {chosen.ids[place] for place in chosen.answers}
    assert found <= set(answers)
    if sample:
        assert len(found) == min(len(answers), wanted)
    real = [(name, text) for name, text in zip(chosen.ids, chosen.texts, strict=True) if name in DOCUMENTS]
    assert all(DOCUMENTS[name] == text for name, text in real)
    assert len(real) == min(wanted, len(DOCUMENTS)) or not sample


def test_blocks_are_tokenised_alone_and_end_in_signals(tokenizer: PreTrainedTokenizerFast) -> None:
    blocks = ranking_blocks(tokenizer, "w3", ["w1 w2", "w3"], [1])
    assert len(blocks.prompt) == 4
    assert " ".join(tokenizer.decode(blocks.prompt[1]).split()) == "ID : 0 | CONTENT : w1 w2 | END ID : 0"
    assert tokenizer.convert_ids_to_tokens([blocks.prompt[-1][-1], blocks.completion[0]]) == [":", "["]
    assert tokenizer.decode(blocks.completion).split() == ["[", "1", "]"]
    longer = ranking_blocks(tokenizer, "w3", ["w1 w2", "w3 w4 w5"])
    assert longer.prompt[:2] == blocks.prompt[:2]
    assert longer.prompt[-1] == blocks.prompt[-1]
    assert len(longer.completion) == 1


def test_a_chat_template_stands_around_the_blocks() -> None:
    tokenizer = word_tokenizer()
    turns = "{% for m in messages %}Documents {{ m.content }} END{% endfor %}"
    tokenizer.chat_template = turns + "{% if add_generation_prompt %} Answer {% endif %}"
    blocks = ranking_blocks(tokenizer, "w3", ["w1", "w2", "w4"])
    assert len(blocks.prompt) == 5
    assert tokenizer.decode(blocks.prompt[0]).startswith("Documents")
    assert tokenizer.decode(blocks.prompt[-1]).split()[-5:] == ["END", "Answer", "Final", "Answer", ":"]
    assert " ".join(tokenizer.decode(blocks.prompt[2]).split()) == "ID : 1 | CONTENT : w2 | END ID : 1"


def test_packed_rows_of_unequal_numbers_of_documents() -> None:
    one = Blocks(((1, 2, 3), (4, 5), (6,), (7, 8)), (9, 10), (1,))
    other = Blocks(((1, 2), (4, 5, 6), (7, 8)), (9,), (0,))
    batch = collate_packed([one, other], pad_token_id=0, query_position=20)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [0, 0, 1, 2, 4, 5, 6, 7, 8, 9]]
    assert batch["block_ids"].tolist() == [[0, 0, 0, 1, 1, 2, -1, -1, -1, -1], [-2, -2, 0, 0, 1, 1, 1, -1, -1, -1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3, 20, 21, 22, 23], [0, 0, 0, 1, 2, 3, 4, 20, 21, 22]]
    assert batch["attention_mask"].sum(-1).tolist() == [10, 8]
    assert batch["signal_positions"].tolist() == [[7, 8], [8, 9]]
    assert batch["answer_ids"].tolist() == [[1], [0]]
    supervised = batch["labels"] != IGNORE_INDEX
    assert batch["labels"][supervised].tolist() == [9, 10, 9]


def test_packed_and_padded_layouts_agree() -> None:
    example = Blocks(((1, 2, 3), (4, 5), (6, 7, 8, 9), (10, 11)), (12, 13), (0,))
    packed = collate_packed([example], pad_token_id=0, query_position=32)
    padded = collate_padded([example], pad_token_id=0, query_position=32, multiple=4)
    real = padded["attention_mask"].flatten()
    for name in ("input_ids", "position_ids", "labels"):
        assert torch.equal(packed[name][0], padded[name][0][real])


def test_documents_are_cut_and_nothing_else() -> None:
    example = Blocks((tuple(range(1, 21)), tuple(range(30, 60)), tuple(range(60, 90))), (90, 91), (0,))
    padded = collate_padded([example], pad_token_id=0, query_position=64, multiple=4, max_block=8)
    assert padded["attention_mask"].shape == (1, 3, 32)
    assert padded["attention_mask"][0].sum(-1).tolist() == [20, 30, 32]
    assert padded["input_ids"][0, -2:].tolist() == [90, 91]
    packed = collate_packed([example], pad_token_id=0, query_position=64, max_document=8)
    assert (packed["block_ids"][0] == 1).sum() == 8
    assert packed["input_ids"][0, -2:].tolist() == [90, 91]


def test_what_cannot_be_laid_out_says_so() -> None:
    example = Blocks((tuple(range(20)), tuple(range(30)), (1, 2)), (3,), (0,))
    with pytest.raises(RankingError, match="max_document=12"):
        collate_packed([example], pad_token_id=0, query_position=32)
    with pytest.raises(RankingError, match="packed"):
        collate_padded([example, Blocks(((1,), (2,), (3,), (4,)), (5,), (0,))], pad_token_id=0)


def test_documents_of_all_forms() -> None:
    given = ["plain", {"doc_id": 7, "title": "A title", "text": "and text"}, {"text": "no id"}]
    assert documents_by_id(given) == {"0": "plain", "7": "A title and text", "2": "no id"}
    with pytest.raises(RankingError, match="twice"):
        documents_by_id([{"doc_id": "1", "text": "a"}, "b"])
    with pytest.raises(RankingError, match="neither"):
        documents_by_id([{"title": "no text"}])


def test_documents_are_read_from_files(tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("first\n\nsecond\n")
    assert read_documents(lines) == {"0": "first", "1": "second"}
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"doc_id": "a", "text": "x"}) + "\n" + json.dumps("y") + "\n")
    assert read_documents(rows) == {"a": "x", "1": "y"}
    rows.write_text("{broken\n")
    with pytest.raises(RankingError, match="cannot read"):
        read_documents(rows)
    lines.write_text("\n")
    with pytest.raises(RankingError, match="no document"):
        read_documents(lines)


def test_examples_are_read_from_rows() -> None:
    row = {"query": "q", "query_id": 3, "documents": ["a", {"doc_id": "x", "text": "b"}], "answer_ids": ["x"]}
    assert RankingExample.from_dict(row) == RankingExample("q", {"0": "a", "x": "b"}, ("x",), "3")
    with pytest.raises(RankingError, match="'query'"):
        RankingExample.from_dict({"documents": ["a"]})


@pytest.mark.parametrize(
    ("text", "valid", "found"),
    [
        ("[5]", None, "5"),
        ("The answer is 12.", None, "12"),
        (" 3, 4]", ["4"], None),
        ("none", None, None),
        ("doc7 or 8", None, "8"),
    ],
)
def test_ids_are_parsed_from_answers(text: str, valid: list[str] | None, found: str | None) -> None:
    assert parse_id(text, valid) == found
