"""Material and measures of ranking: made passages, files of examples, bm25."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.engine.ranking import Ranked
from farspan.evals.ranking import best_of_bm25, ranking_passages, ranking_scores, read_ranking_examples
from farspan.training.data.ranking import RankingError


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 40), st.integers(0, 10**6))
def test_one_passage_has_the_subject_asked_for(documents: int, seed: int) -> None:
    example = ranking_passages(documents, seed)
    assert example == ranking_passages(documents, seed)
    assert len(example.documents) == documents
    holding = [name for name, text in example.documents.items() if text.startswith(f"{example.query}.")]
    assert tuple(holding) == example.answers


def test_some_passages_mislead_who_counts_words() -> None:
    examples = [ranking_passages(30, seed) for seed in range(20)]
    subjects = [example.query.removeprefix("Subject: ") for example in examples]
    mentions = [
        sum(subject in text for text in example.documents.values()) - 1
        for example, subject in zip(examples, subjects, strict=True)
    ]
    assert sum(mentions) / len(mentions) > 2
    with pytest.raises(RankingError, match="3 or more"):
        ranking_passages(2, 0)


def test_bm25_puts_shared_words_first() -> None:
    texts = {"a": "boats leave at noon", "b": "a red key in the box", "c": "key of the harbour master"}
    best = best_of_bm25("red key", texts)
    assert list(best)[:2] == ["b", "c"]
    assert sorted(best) == ["a", "b", "c"]
    assert list(best.values()) == sorted(best.values(), reverse=True)
    assert list(best_of_bm25("red key", texts, 2)) == ["b", "c"]
    assert len(best_of_bm25("red key", texts, 9)) == 3


def test_measures() -> None:
    ranked = [Ranked(name, 0.0) for name in "abcd"]
    assert ranking_scores(ranked, ["a"]) == {"p@1": 1.0, "mrr@10": 1.0, "ndcg@10": 1.0}
    second = ranking_scores(ranked, ["b"])
    assert second == pytest.approx({"p@1": 0.0, "mrr@10": 0.5, "ndcg@10": 1 / math.log2(3)})
    # of two relevant ones a first stage lost one
    half = ranking_scores(ranked, ["a", "lost"])
    assert half["ndcg@10"] == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert ranking_scores([], ["a"]) == {"p@1": 0.0, "mrr@10": 0.0, "ndcg@10": 0.0}


def test_files_of_examples(tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    row = {"query": "q", "query_id": "7", "documents": ["x", {"doc_id": "d", "text": "y"}], "answer_ids": ["d"]}
    file.write_text(json.dumps(row) + "\n\n" + json.dumps({**row, "query_id": ""}) + "\n")
    first, second = read_ranking_examples(file)
    assert (first.query, first.query_id, first.answers) == ("q", "7", ("d",))
    assert dict(first.documents) == {"0": "x", "d": "y"}
    assert second.query_id == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no ranking example"),
        ("{", "line 1 is no JSON"),
        ("[1]", "line 1 is no object"),
        ('\n{"query": "q", "documents": []}', "line 2: an example needs"),
        ('{"query": "q", "documents": ["x"]}', "line 1 names no relevant"),
        ('{"query": "q", "documents": [{"doc_id": 1, "text": "x"}, {"doc_id": 1, "text": "y"}]}', "stands twice"),
    ],
)
def test_files_that_cannot_be_used(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    file.write_text(text)
    with pytest.raises(RankingError, match=words):
        read_ranking_examples(file)
    with pytest.raises(RankingError, match="cannot read"):
        read_ranking_examples(tmp_path / "none.jsonl")
