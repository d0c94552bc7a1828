"""How fast document metrics are: ROUGE of long Chinese texts against the package `rouge`, and scoring of whole runs.

Pairs of texts of growing length are cut into words once and scored by both sides in turn, so that both see the same
machine; times are processor time. Values must be equal wherever the package has one: above its recursion limit it has
none. Without the package (`pip install rouge==1.0.1`) the other side is a plain table of the same rule, and the result
says so. Results go to `benchmarks/results/metrics.json`.

    python benchmarks/metrics.py
    python benchmarks/metrics.py --words 100 --pairs 2 --out /dev/stdout
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from random import Random

from farspan.evals.documents import benchmark
from farspan.evals.metrics.chinese import jieba_tokens
from farspan.evals.metrics.rouge import rouge_set, rouge_set_zh

WORDS = (
    "渡轮 港口 船长 城市 山村 故事 天空 河流 学校 医院 桥梁 预算 会议 讨论 经济 增长 问题 方法 研究 结果 "
    "数据 模型 语言 长文 摘要 人物 主角 回到 离开 经历 挫折 家乡 春天 秋天 大雪 夜晚 清晨 道路 火车 车站 "
    "朋友 父亲 母亲 老师 学生 书信 消息 决定 发现 相信 记得 忘记 开始 结束 继续 突然 慢慢 终于 因为 所以 "
    "但是 如果 的 了 在 是 和 与 他 她 ， 。 、"
)
VOCABULARY = WORDS.split()

Score = Callable[[str, str], float]


def text_of(rng: Random, words: int) -> str:
    """A text that is cut into about so many words."""
    return "".join(rng.choices(VOCABULARY, k=words))


def plain_table(hypothesis: str, reference: str) -> float:
    """F1 of ROUGE-L on sets, from a table cell by cell, for texts without full stops."""
    given, right = hypothesis.split(" "), reference.split(" ")
    table: dict[tuple[int, int], int] = {}
    for i in range(len(right) + 1):
        for j in range(len(given) + 1):
            if not i or not j:
                table[i, j] = 0
            elif right[i - 1] == given[j - 1]:
                table[i, j] = table[i - 1, j - 1] + 1
            else:
                table[i, j] = max(table[i - 1, j], table[i, j - 1])
    found, i, j = set(), len(right), len(given)
    while i and j:
        if right[i - 1] == given[j - 1]:
            found.add(right[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1, j] > table[i, j - 1]:
            i -= 1
        else:
            j -= 1
    recall, precision = len(found) / len(set(right)), len(found) / len(set(given))
    return 2 * (precision * recall / (precision + recall + 1e-8))


def other_side() -> tuple[str, Score]:
    """The package, or what stands in for it."""
    try:
        name = f"rouge {version('rouge')}"
    except PackageNotFoundError:
        return "a plain table of the same rule, since the package is not installed", plain_table
    from rouge import Rouge

    package = Rouge(metrics=["rouge-l"])
    return name, lambda hypothesis, reference: float(package.get_scores(hypothesis, reference)[0]["rouge-l"]["f"])


def seconds(score: Score, hypothesis: str, reference: str) -> tuple[float, float | None]:
    """Processor time of one score, and the score; None where it needs too deep a recursion."""
    started = time.process_time()
    try:
        value: float | None = score(hypothesis, reference)
    except RecursionError:
        value = None
    return time.process_time() - started, value


def compared(words: int, pairs: int, other: Score) -> dict[str, object]:
    """Both sides in turn on pairs of texts of so many words."""
    rng = Random(words)
    own_times, other_times, apart, without = [], [], 0.0, 0
    for _ in range(pairs):
        hypothesis, reference = (" ".join(jieba_tokens(text_of(rng, words))) for _ in range(2))
        own_time, own = seconds(lambda one, two: rouge_set(one, two)["rouge-l"].f, hypothesis, reference)
        other_time, value = seconds(other, hypothesis, reference)
        own_times.append(own_time)
        other_times.append(other_time)
        without += value is None
        if value is not None and own is not None:
            apart = max(apart, abs(own - value))
    own_median, other_median = statistics.median(own_times), statistics.median(other_times)
    return {
        "words": words,
        "pairs": pairs,
        "farspan_seconds": own_median,
        "other_seconds": other_median,
        "ratio": other_median / own_median,
        "largest_difference": apart,
        "pairs_the_other_has_no_value_for": without,
    }


def whole_runs(count: int) -> dict[str, object]:
    """Processor time of scoring answers of 1,000 words, by set, words found and trouble counted included."""
    rng = Random(0)
    longbench = benchmark("longbench")
    found: dict[str, object] = {}
    for name in ("hotpotqa", "multifieldqa_zh", "gov_report", "vcsum", "lcc"):
        dataset = longbench.datasets[name]
        rows = [
            {"pred": text_of(rng, 1000) if dataset.language == "zh" else " ".join(rng.choices(VOCABULARY, k=1000)),
             "answers": [text_of(rng, 500) if dataset.language == "zh" else " ".join(rng.choices(VOCABULARY, k=500))]}
            for _ in range(count)
        ]  # fmt: skip
        started = time.process_time()
        for sample, prediction in longbench.predictions(dataset, iter(rows)):
            longbench.scored(sample, prediction, "official")
        found[name] = (time.process_time() - started) / count
    return found


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--words", type=int, nargs="+", default=[200, 400, 500, 1000])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "metrics.json")
    settings = parser.parse_args()
    name, other = other_side()
    rouge_set_zh("热身", "热身")
    rows = [compared(words, settings.pairs, other) for words in settings.words]
    rng = Random(1)
    texts = [(text_of(rng, 500), text_of(rng, 500)) for _ in range(settings.rows)]
    started = time.process_time()
    for hypothesis, reference in texts:
        rouge_set_zh(hypothesis, reference)
    each = (time.process_time() - started) / len(texts)
    record = {
        "what": "metrics of document benchmarks",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {"python": platform.python_version(), "jieba": version("jieba")},
        "clock": "processor time, both sides in turn, medians",
        "other": name,
        "rouge_l_of_chinese": rows,
        "seconds_a_summary_of_500_words_cut_into_words_too": each,
        "minutes_for_10000_of_them": each * 10_000 / 60,
        "seconds_an_answer_of_1000_words_by_set": whole_runs(settings.rows),
    }
    with settings.out.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(record, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
