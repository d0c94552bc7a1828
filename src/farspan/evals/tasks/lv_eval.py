"""LV-Eval: the same questions at five lengths, 16 to 256 thousand words, with confusing facts and replaced keywords.

`lv_build.py` makes such levels out of one's own questions and documents.

Source: arXiv 2402.05136.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from farspan.evals.documents.base import (
    CONTEXT,
    BenchmarkError,
    Dataset,
    DocumentBenchmark,
    Prompt,
    Reading,
    Row,
    Scored,
    Table,
    list_field,
    sample_of,
    text_field,
)
from farspan.evals.metrics.keyword_f1 import keyword_f1, keyword_f1_zh, rouge_zh_blacklist
from farspan.evals.metrics.token_f1 import qa_f1, qa_f1_zh
from farspan.evals.schema import LongSample
from farspan.evals.sources import DataFile, iter_jsonl, resolve_file

REPO, REVISION = "Infinigence/LVEval", "86a3b0e6f2266281d481bcb46a0bda5b511cffb0"
LEVELS = ("16k", "32k", "64k", "128k", "256k")
EFFECTIVE_SHARE = 0.85

METRIC_NAMES = {
    "keyword_f1": "qa_f1_score_with_gold_ans",
    "keyword_f1_zh": "qa_f1_zh_score_with_gold_ans",
    "f1": "qa_f1_score",
    "f1_zh": "qa_f1_zh_score",
    "rouge_zh": "rouge_zh_score_blacklist",
}
"""What the published scripts call each metric."""


class _Set(NamedTuple):
    hops: str
    language: str
    metric: str
    tokens: int
    confusing: bool


SETS: dict[str, _Set] = {
    "hotpotwikiqa_mixup": _Set("multi", "en", "keyword_f1", 64, True),
    "loogle_SD_mixup": _Set("single", "en", "keyword_f1", 64, False),
    "loogle_CR_mixup": _Set("multi", "en", "keyword_f1", 64, False),
    "loogle_MIR_mixup": _Set("multi", "en", "keyword_f1", 64, False),
    "multifieldqa_en_mixup": _Set("single", "en", "keyword_f1", 64, True),
    "multifieldqa_zh_mixup": _Set("single", "zh", "keyword_f1_zh", 64, True),
    "factrecall_en": _Set("single", "en", "f1", 16, True),
    "factrecall_zh": _Set("single", "zh", "f1_zh", 16, True),
    "cmrc_mixup": _Set("single", "zh", "keyword_f1_zh", 64, False),
    "lic_mixup": _Set("single", "zh", "keyword_f1_zh", 64, True),
    "dureader_mixup": _Set("multi", "zh", "rouge_zh", 64, False),
}


class LVEval(DocumentBenchmark):
    """Eleven sets at five levels, named `<set>_<level>`; a level or a set alone names all of its own."""

    name: ClassVar[str] = "lv_eval"
    title: ClassVar[str] = "LV-Eval"
    truncation: ClassVar[str] = "lveval"
    datasets: ClassVar[Mapping[str, Dataset]] = {
        f"{name}_{level}": Dataset(
            f"{name}_{level}",
            DataFile(REPO, f"{name}.zip", REVISION),
            f"{made.hops} hop",
            made.language,
            made.metric,
            made.tokens,
            member=f"{name}_{level}.jsonl",
            level=level,
        )
        for level in LEVELS
        for name, made in SETS.items()
    }
    default_datasets: ClassVar[tuple[str, ...]] = tuple(f"{name}_{level}" for level in LEVELS[:2] for name in SETS)

    def chosen(self, names: Sequence[str]) -> list[Dataset]:
        """The sets of these names; `16k` is every set of that level, `cmrc_mixup` every level of that set."""
        wide: list[str] = []
        for name in names:
            if name in LEVELS:
                wide += [f"{own}_{name}" for own in SETS]
            elif name in SETS:
                wide += [f"{name}_{level}" for level in LEVELS]
            else:
                wide.append(name)
        return super().chosen(wide)

    def rows(self, dataset: Dataset, data_dir: str | Path | None) -> Iterator[Mapping[str, object]]:
        return iter_jsonl(resolve_file(dataset.file, data_dir), dataset.member)

    def samples(self, dataset: Dataset, rows: Iterator[Mapping[str, object]]) -> Iterator[LongSample]:
        made = SETS[set_of(dataset.name)]
        for index, row in enumerate(rows):
            yield sample_of(
                self.name,
                dataset,
                f"{dataset.name}-{index}",
                context=text_field(row, "context"),
                question=text_field(row, "input"),
                answers=list_field(row, "answers"),
                answer_keywords=text_field(row, "answer_keywords", "") or None,
                length=int(str(row.get("length") or 0)),
                length_unit="chars" if dataset.language == "zh" else "words",
                metadata={
                    "hops": made.hops,
                    "distractor_kind": "confusing facts" if made.confusing else "",
                    "confusing_facts": list_field(row, "confusing_facts"),
                    "place": index,
                },
            )

    def prompt(self, sample: LongSample, reading: Reading) -> Prompt:
        name = set_of(sample.task)
        if name.startswith("factrecall"):
            task, label, asked, cue = _WORDS["fact_zh" if sample.language == "zh" else "fact_en"]
        elif name in _WORDS:
            task, label, asked, cue = _WORDS[name]
        else:
            task, label, asked, cue = _WORDS[sample.language]
        return Prompt(f"{task}\n\n{label}{CONTEXT}\n\n{task}\n\n{asked}{sample.question}\n{cue}")

    def figures(self, sample: LongSample, prediction: str, reading: Reading) -> dict[str, float]:
        """The published metric, and beside it the paper's, the plain F1, and whether the sample has keywords."""
        metric = SETS[set_of(sample.task)].metric
        # the published loop looks at the first answer only
        answer, keywords = sample.answers[0], sample.answer_keywords
        plain = qa_f1_zh if sample.language == "zh" else qa_f1
        if metric == "rouge_zh":
            value = rouge_zh_blacklist(prediction, answer)
            return {"score": value, "paper": value, "plain": plain(prediction, answer)}
        if metric in ("f1", "f1_zh"):
            value = plain(prediction, answer)
            return {"score": value, "paper": value, "plain": value}
        gated = keyword_f1_zh if metric == "keyword_f1_zh" else keyword_f1
        return {
            "score": gated(prediction, answer, keywords),
            "paper": gated(prediction, answer, keywords, "paper"),
            "plain": plain(prediction, answer),
            "keywords": float(bool(keywords)),
        }

    def table(self, scored: Sequence[Scored], reading: Reading) -> Table:
        """Percent to two decimals by set and level, the mean of all sets a level, and the longest level that holds."""
        table = Table()
        for figure, label in (("score", "level"), ("paper", "level, as the paper states the metric")):
            for level in LEVELS:
                of_sets = [row for name in SETS if (row := _cell(scored, f"{name}_{level}", level, figure)) is not None]
                if figure == "score":
                    table.rows += of_sets
                if of_sets:
                    mean = sum(row.value or 0.0 for row in of_sets) / len(of_sets)
                    table.rows.append(Row(label, level, round(mean, 2), sum(row.n for row in of_sets)))
                    if figure == "score" and len(of_sets) < len(SETS):
                        table.notes.append(f"{level}: {len(of_sets)} of {len(SETS)} sets; not the published average")
        held = effective_level({level: table.value("level", level) for level in LEVELS})
        if held is not None:
            table.notes.append(f"longest level with at least {EFFECTIVE_SHARE:.0%} of the score at 16k: {held}")
        lacking = sum(one.figures.get("keywords") == 0.0 and one.sample.language == "en" for one in scored)
        if lacking:
            table.notes.append(f"{lacking} English questions have no keywords: their score is the plain F1")
        return table

    def predictions(self, dataset: Dataset, rows: Iterator[Mapping[str, object]]) -> Iterator[tuple[LongSample, str]]:
        """Rows of `pred`, `answers` and `gold_ans`, as the published script writes them."""
        for row in rows:
            named = {**row, "context": "", "answer_keywords": row.get("gold_ans"), "input": row.get("input") or ""}
            yield next(self.samples(dataset, iter([named]))), text_field(row, "pred", "")


def score_file(
    file_stem: str,
    predictions: Sequence[str],
    answers: Sequence[Sequence[str]],
    answer_keywords: Sequence[str | None],
) -> dict[str, object]:
    """The published score of one file of predictions.

    Returns
    -------
    `{"score": percent to two decimals, "metric": its published name, "per_sample": scores in [0, 1]}`

    Raises
    ------
    BenchmarkError : the name is none of a set at a level.
    """
    bench = LVEval()
    dataset = bench.datasets[f"{set_of(file_stem)}_{file_stem.rpartition('_')[2]}"]
    rows = (
        {"pred": prediction, "answers": list(rights), "gold_ans": keywords}
        for prediction, rights, keywords in zip(predictions, answers, answer_keywords, strict=True)
    )
    each = [bench.figures(sample, said, "official")["score"] for sample, said in bench.predictions(dataset, rows)]
    score = round(100.0 * sum(each) / len(each), 2) if each else None
    return {"score": score, "metric": METRIC_NAMES[dataset.metric], "per_sample": each}


def set_of(name: str) -> str:
    """The set of a file's name, which ends in a level.

    Raises
    ------
    BenchmarkError : it ends in none.
    """
    stem, _, level = name.rpartition("_")
    if level not in LEVELS or stem not in SETS:
        raise BenchmarkError(f"'{name}' is no set of lv_eval with one of its levels {', '.join(LEVELS)}")
    return stem


def effective_level(by_level: Mapping[str, float | None]) -> str | None:
    """The longest level up to which every level keeps 85 % of the score at 16k; None without a score there."""
    first = by_level.get(LEVELS[0])
    held = None
    for level in LEVELS:
        value = by_level.get(level)
        if not first or value is None or value < EFFECTIVE_SHARE * first:
            break
        held = level
    return held


def _cell(scored: Sequence[Scored], name: str, level: str, figure: str) -> Row | None:
    mine = [one.figures.get(figure, 0.0) for one in scored if one.sample.task == name]
    if not mine:
        return None
    return Row(set_of(name), level, round(100.0 * sum(mine) / len(mine), 2), len(mine))


_WORDS: dict[str, tuple[str, str, str, str]] = {
    "en": (
        "Read the passages and answer the question, which is about one of them alone. Write the answer and nothing "
        "else, neither reasons nor evidence.",
        "Article: ",
        "Question: ",
        "Answer:",
    ),
    "hotpotwikiqa_mixup": (
        "Read the passages and answer the question, which is about some of them alone. Write the answer and nothing "
        "else, neither reasons nor evidence.",
        "Article: ",
        "Question: ",
        "Answer:",
    ),
    "multifieldqa_zh_mixup": (
        "请阅读下面的文章并回答问题。问题和答案只与其中一篇文章有关。只写答案,不要写理由和依据。",
        "文章：",
        "问题：",
        "回答：",
    ),
    "zh": ("请根据下面的文章回答问题。问题只与其中一篇文章有关。", "文章：", "问题：", "回答："),
    "fact_en": ("Answer the question from the article.", "Article: ", "Question: ", "Answer:"),
    "fact_zh": ("请根据文章回答问题。", "文章：", "问题：", "回答："),
}
