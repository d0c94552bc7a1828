"""LongBench's metrics, its scores of whole sets, its cutting of prompts, and the choices of its second version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from farspan.evals.documents import Scored, benchmark
from farspan.evals.metrics import short_answers
from farspan.evals.metrics.normalize import normalize_squad, normalize_zh
from farspan.evals.metrics.token_f1 import qa_f1, qa_f1_zh
from farspan.evals.tasks.longbench import METRICS, bucket_means, score_one
from farspan.evals.truncate import truncate_ids
from tests.golden.compare import assert_close

EXACT = 1e-12

Case = dict[str, Any]


def check_pair(metric: Callable[[str, str], float]) -> Callable[[Case], None]:
    def check(case: Case) -> None:
        found = metric(case["input"]["prediction"], case["input"]["ground_truth"])
        assert_close(float(found), float(case["expected"]), rtol=EXACT, atol=EXACT)

    return check


def check_text(function: Callable[[str], str]) -> Callable[[Case], None]:
    def check(case: Case) -> None:
        assert_close(function(case["input"]["text"]), case["expected"])

    return check


def check_rouge(name: str) -> Callable[[Case], None]:
    """A ROUGE that cannot be computed is 0 in the scores of a sample; `score_one` is where that happens."""
    dataset = next(one for one in benchmark("longbench").datasets.values() if one.metric == name)

    def check(case: Case) -> None:
        found = score_one(dataset, case["input"]["prediction"], [case["input"]["ground_truth"]])
        assert_close(found, float(case["expected"]), rtol=EXACT, atol=EXACT)

    assert name in METRICS
    return check


def classification(case: Case) -> None:
    given = case["input"]
    found = short_answers.classification_score(given["prediction"], given["ground_truth"], given["all_classes"])
    assert_close(found, float(case["expected"]), rtol=EXACT)


def _scored(case: Case) -> list[Scored]:
    given = case["input"]
    longbench = benchmark("longbench")
    dataset = longbench.datasets[given["dataset"]]
    lengths = given.get("lengths") or [0] * len(given["predictions"])
    rows = (
        {"pred": prediction, "answers": answers, "all_classes": given["all_classes"], "length": length}
        for prediction, answers, length in zip(given["predictions"], given["answers"], lengths, strict=True)
    )
    return [longbench.scored(sample, text, "official") for sample, text in longbench.predictions(dataset, rows)]


def score_dataset(case: Case) -> None:
    table = benchmark("longbench").table(_scored(case), "official")
    assert_close(table.value("dataset", case["input"]["dataset"]), case["expected"], rtol=EXACT)


def score_dataset_e(case: Case) -> None:
    # by buckets, the published scorer takes sets that LongBench-E does not have, too
    found = {level: value for level, (value, _) in bucket_means(_scored(case)).items()}
    assert_close(found, case["expected"], rtol=EXACT)


def truncate_middle_ids(case: Case) -> None:
    given = case["input"]
    assert_close(truncate_ids(range(given["n_tokens"]), given["max_length"], given["rule"]), case["expected"])


def extract_choice_v2(case: Case) -> None:
    found = short_answers.extract_choice_v2(case["input"]["response"])
    assert found == case["expected"], found


ADAPTERS: dict[str, Callable[[Case], None]] = {
    "qa_f1_score": check_pair(qa_f1),
    "qa_f1_zh_score": check_pair(qa_f1_zh),
    "normalize_answer": check_text(normalize_squad),
    "normalize_zh_answer": check_text(normalize_zh),
    "rouge_score": check_rouge("rouge"),
    "rouge_zh_score": check_rouge("rouge_zh"),
    "count_score": check_pair(short_answers.count_score),
    "retrieval_score": check_pair(short_answers.retrieval_score),
    "retrieval_zh_score": check_pair(short_answers.retrieval_zh_score),
    "code_sim_score": check_pair(short_answers.code_sim_score),
    "classification_score": classification,
    "score_dataset": score_dataset,
    "score_dataset_e": score_dataset_e,
    "truncate_middle_ids": truncate_middle_ids,
    "extract_choice_v2": extract_choice_v2,
}
