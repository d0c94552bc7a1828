"""Ranking under Inspect, with a tiny model loaded from a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import eval as inspect_eval
from inspect_ai.log import EvalLog, read_eval_log

from farspan._registry import icr_ranking
from farspan.engine.ranking import InContextRanker
from farspan.errors import FarspanError
from farspan.evals.ranking import best_of_bm25, ranking_scores
from farspan.evals.ranking_inspect import ExampleSource
from farspan.training.data.ranking import RankingError, RankingExample
from tests.ranking import key_examples, tiny_ranker, word_tokenizer

MEASURES = {"p@1", "mrr@10", "ndcg@10"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranker")
    tiny_ranker().save_pretrained(path)
    word_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def examples() -> list[RankingExample]:
    return key_examples(6, 8, 3)


@pytest.fixture(scope="module")
def file(examples: list[RankingExample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "examples.jsonl"
    rows = [
        {
            "query": example.query,
            "query_id": example.query_id,
            "documents": [{"doc_id": name, "text": text} for name, text in example.documents.items()],
            "answer_ids": list(example.answers),
        }
        for example in examples
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(logs: Path, **settings: Any) -> EvalLog:
    (log,) = inspect_eval(icr_ranking(**settings), model="none", log_dir=str(logs), display="none")
    assert log.status == "success", log.error
    return read_eval_log(log.location)


def means(log: EvalLog) -> dict[str, float]:
    assert log.results is not None
    return {score.name: float(score.metrics["mean"].value) for score in log.results.scores}


def expected(rankings: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(found[name] for found in rankings) / len(rankings) for name in MEASURES}


@pytest.mark.parametrize("method", ["blocks", "full"])
def test_scores_are_those_of_the_ranker(method: Any, folder: Path, file: Path, tmp_path: Path) -> None:
    log = run(tmp_path, model_path=str(folder), data=str(file), method=method, seed=5)
    source = ExampleSource(str(file), 0, 5)
    ranker = InContextRanker(tiny_ranker(), word_tokenizer(), structure=method)
    shuffled = [source.example(index) for index in range(6)]
    rankings = [ranking_scores(ranker.rank(one.query, one.documents), one.answers) for one in shuffled]
    assert means(log) == pytest.approx(expected(rankings))
    assert log.samples is not None
    assert len(log.samples) == 6
    assert all(len(sample.output.completion.split(", ")) == 8 for sample in log.samples)
    # documents hold three words each, and no such text may stand in the log
    texts = [text for one in shuffled for text in one.documents.values()]
    written = log.model_dump_json()
    assert not any(text in written for text in texts)


def test_bm25_needs_no_model_and_a_first_stage_limits_what_is_ranked(folder: Path, file: Path, tmp_path: Path) -> None:
    source = ExampleSource(str(file), 0, 0)
    shuffled = [source.example(index) for index in range(3)]
    log = run(tmp_path, model_path="nowhere", data=str(file), method="bm25", samples=3)
    assert log.samples is not None
    for sample, one in zip(log.samples, shuffled, strict=True):
        assert sample.output.completion == ", ".join(best_of_bm25(one.query, one.documents))
    staged = run(tmp_path, model_path=str(folder), data=str(file), first_stage=3, samples=3)
    assert staged.samples is not None
    for sample, one in zip(staged.samples, shuffled, strict=True):
        assert set(sample.output.completion.split(", ")) == set(best_of_bm25(one.query, one.documents, 3))


def test_documents_of_a_file_stand_in_an_order_of_the_seed(file: Path, examples: list[RankingExample]) -> None:
    orders = [[tuple(ExampleSource(str(file), 0, seed).example(i).documents) for i in range(6)] for seed in (0, 0, 50)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != [tuple(example.documents) for example in examples]
    few = ExampleSource(str(file), 3, 0).example(1)
    assert set(few.documents) == set(list(examples[1].documents)[:3])
    assert few.answers == examples[1].answers


def test_passages_are_made_where_there_is_no_file(tmp_path: Path) -> None:
    log = run(tmp_path, method="bm25", documents=5, samples=4)
    found = means(log)
    assert set(found) == MEASURES
    assert all(0 <= value <= 1 for value in found.values())
    assert log.samples is not None
    assert [sample.metadata["documents"] for sample in log.samples] == [5] * 4
    again = run(tmp_path, method="bm25", documents=5, samples=4)
    assert means(again) == found


@pytest.mark.slow
def test_the_bundled_model_ranks_made_passages_by_decoding_too(tmp_path: Path) -> None:
    log = run(tmp_path, documents=4, samples=2, mode="decode")
    assert set(means(log)) == MEASURES


def test_bad_input_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(FarspanError, match="choose blocks, full, bm25"):
        icr_ranking(method="guess")  # type: ignore[arg-type]
    with pytest.raises(FarspanError, match="choose attention or decode"):
        icr_ranking(mode="guess")  # type: ignore[arg-type]
    with pytest.raises(FarspanError, match="first_stage is -1"):
        icr_ranking(first_stage=-1)
    with pytest.raises(RankingError, match="cannot read"):
        icr_ranking(data=str(tmp_path / "none.jsonl"))
