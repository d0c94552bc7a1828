"""Files of one's own become tokens once, whole and in order, and training draws from them."""

import json
import random

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from farspan.models import load
from farspan.training.data.store import StoredTexts, StoreError, TokenStore

TEXTS = [f"document {i}: " + "one two three " * i for i in range(30)]


@pytest.fixture(scope="module")
def tokenizer():
    return load("reference")[1]


def write(folder, kind):
    folder.mkdir(exist_ok=True)
    if kind == "jsonl":
        (folder / "a.jsonl").write_text("\n".join(json.dumps({"n": 1, "body": text}) for text in TEXTS))
    elif kind == "json":
        (folder / "a.json").write_text(json.dumps([{"body": text} for text in TEXTS]))
    elif kind == "parquet":
        Dataset.from_dict({"body": TEXTS}).to_parquet(str(folder / "a.parquet"))
    elif kind == "arrow":
        Dataset.from_dict({"body": TEXTS}).save_to_disk(str(folder))
    else:
        for number, text in enumerate(TEXTS):
            (folder / f"{number:02}.txt").write_text(text)
    return folder


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "arrow", "txt"])
def test_every_kind_of_file_gives_the_same_tokens(kind, tokenizer, tmp_path):
    source = StoredTexts(tokenizer, str(write(tmp_path / kind, kind)), field="body", store=str(tmp_path / "store"))
    assert [tokenizer.decode(source.store[i][:-1]) for i in range(len(source.store))] == TEXTS
    assert {int(source.store[i][-1]) for i in range(30)} == {tokenizer.eos_token_id}
    assert source.texts() == TEXTS


def test_a_store_is_made_once_and_again_where_files_change(tokenizer, tmp_path, monkeypatch):
    folder = write(tmp_path / "rows", "jsonl")
    StoredTexts(tokenizer, str(folder), field="body")
    calls = []
    build = TokenStore.build
    monkeypatch.setattr(TokenStore, "build", lambda *args, **kwargs: calls.append(1) or build(*args, **kwargs))
    StoredTexts(tokenizer, str(folder), field="body")
    assert not calls
    (folder / "a.jsonl").write_text(json.dumps({"body": "other"}))
    assert len(StoredTexts(tokenizer, str(folder), field="body").store) == 1
    assert calls == [1]


@given(st.integers(0, 10**6), st.integers(2, 80))
def test_documents_are_pieces_of_the_collection(seed, length):
    source = SOURCE[0]
    document = source.document(random.Random(seed), length)
    assert 0 < len(document.ids) <= length
    assert source.document(random.Random(seed), length).ids == document.ids
    everything = [",".join(map(str, source.store[i].tolist())) for i in range(len(source.store))]
    assert any(",".join(map(str, document.ids)) in whole for whole in everything)


SOURCE = []


@pytest.fixture(autouse=True, scope="module")
def _source(tokenizer, tmp_path_factory):
    SOURCE.append(StoredTexts(tokenizer, str(write(tmp_path_factory.mktemp("hyp") / "t", "txt"))))


def test_held_out_documents_are_never_trained_on(tokenizer, tmp_path):
    folder = str(write(tmp_path / "rows", "jsonl"))
    parts = [
        StoredTexts(tokenizer, folder, field="body", split=s, held_out=0.2).documents for s in ("train", "held_out")
    ]
    assert sorted(parts[0] + parts[1]) == list(range(30))
    assert len(parts[1]) == 6


def test_what_cannot_be_read_is_one_line(tokenizer, tmp_path):
    with pytest.raises(StoreError, match="no file of a known kind"):
        StoredTexts(tokenizer, str(tmp_path))
    folder = write(tmp_path / "rows", "jsonl")
    with pytest.raises(StoreError, match="fields with text: body"):
        StoredTexts(tokenizer, str(folder))
    with pytest.raises(StoreError, match="no documents for split 'held_out'"):
        StoredTexts(tokenizer, str(folder), field="body", split="held_out")
    with pytest.raises(StoreError, match="need a tokenizer"):
        StoredTexts(None, str(folder)).document(random.Random(0), 8)
    (folder / "b.txt").write_text("x")
    with pytest.raises(StoreError, match="several kinds"):
        StoredTexts(tokenizer, str(folder), field="body")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.jsonl").write_text('{"body": ')
    with pytest.raises(StoreError, match="cannot read"):
        StoredTexts(tokenizer, str(broken), field="body")
    (broken / "a.jsonl").write_text('{"body": ""}')
    with pytest.raises(StoreError, match="no text to tokenise"):
        StoredTexts(tokenizer, str(broken), field="body")
    with pytest.raises(StoreError, match="holds no store"):
        TokenStore(tmp_path / "nothing")
