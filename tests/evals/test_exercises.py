"""Exercises: what is supervised is what the context says, and nothing is longer than its room."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from farspan.evals.exercises import LAYOUTS, FamilyExercise, KeyValues, WordCorpus
from farspan.models import load
from farspan.training.data.documents import Document

SECRET = "The secret number of {key} is {value}.\n"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load("reference")[1]


def supervised_texts(tokenizer: PreTrainedTokenizerBase, document: Document) -> list[str]:
    runs: list[list[int]] = [[]]
    for token, counted in zip(document.ids, document.supervised, strict=True):
        if counted:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [str(tokenizer.decode(run)) for run in runs if run]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), length=st.integers(48, 600), layout=st.sampled_from(LAYOUTS))
def test_dense_records_answer_from_their_own_context(
    tokenizer: PreTrainedTokenizerBase, seed: int, length: int, layout: str
) -> None:
    document = KeyValues(tokenizer, layouts=[layout]).document(random.Random(seed), length)
    assert len(document.ids) == len(document.supervised) <= length
    record = tokenizer.decode(document.ids[: document.supervised.index(True)]) if any(document.supervised) else ""
    for answer in supervised_texts(tokenizer, document):
        assert answer.strip(" \n") in record or not answer.strip(" \n")


@pytest.mark.parametrize("length", [96, 160, 400])
def test_buried_entries_keep_their_values(tokenizer: PreTrainedTokenizerBase, length: int) -> None:
    source = KeyValues(
        tokenizer,
        layouts=[SECRET],
        keys=["words"],
        values=["long_number"],
        question="Question: what is the secret number of {key}?\nAnswer: ",
        filler=True,
    )
    for seed in range(12):
        document = source.document(random.Random(seed), length)
        assert len(document.ids) <= length
        text = str(tokenizer.decode(document.ids))
        told = dict(re.findall(r"(?<!Answer: )The secret number of (\S+) is (\d+)\.", text))
        asked = re.findall(r"Answer: The secret number of (\S+) is (\d+)\.", text)
        assert asked
        assert all(told[key] == value for key, value in asked)


def test_header_and_question_are_left_out_of_bare_documents(tokenizer: PreTrainedTokenizerBase) -> None:
    def texts(bare: float) -> Sequence[str]:
        source = KeyValues(tokenizer, header="A record.\n", question="Which value has {key}? ", bare=bare)
        return [str(tokenizer.decode(source.document(random.Random(seed), 160).ids)) for seed in range(8)]

    assert all(text.startswith("A record.") and "Which value has" in text for text in texts(0.0))
    assert not any("A record." in text or "Which value has" in text for text in texts(1.0))


def test_equal_seeds_give_equal_documents(tokenizer: PreTrainedTokenizerBase) -> None:
    source = FamilyExercise(tokenizer, "lines", "single", "{answer}>\n")
    first, again = (source.document(random.Random(5), 256) for _ in range(2))
    assert first.ids == again.ids
    assert first.ids != source.document(random.Random(6), 256).ids


def test_words_of_the_tasks_become_single_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from farspan.evals.generate.languages import load_language

    fresh = Tokenizer(models.BPE())
    fresh.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fresh.decoder = decoders.ByteLevel()
    corpus = WordCorpus(None, {"lines": ["single"]}, samples=2, repeats=50)
    fresh.train_from_iterator(corpus.texts(), trainers.BpeTrainer(vocab_size=3000, show_progress=False))
    nouns = load_language("en").nouns
    single = [len(fresh.encode(f" {noun}").ids) == 1 for noun in nouns]
    assert sum(single) > 0.9 * len(nouns)
