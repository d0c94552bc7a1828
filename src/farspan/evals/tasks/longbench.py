"""LongBench and LongBench-E: 21 sets in English, Chinese and code, six categories, automatic metrics throughout.

What is odd in the published scores is in `docs/benchmarks.md`; the second version is `longbench_v2.py`.

Source: arXiv 2308.14508.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from farspan.evals.documents.base import (
    CONTEXT,
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
from farspan.evals.metrics.rouge import rouge_set, rouge_set_zh
from farspan.evals.metrics.short_answers import (
    classification_score,
    code_sim_score,
    count_score,
    first_line,
    retrieval_score,
    retrieval_zh_score,
)
from farspan.evals.metrics.token_f1 import qa_f1, qa_f1_zh
from farspan.evals.schema import LongSample
from farspan.evals.sources import DataFile, iter_jsonl, resolve_file

ARCHIVE = DataFile(
    "zai-org/LongBench",
    "data.zip",
    "5e628be450b7e67fb7ae6e201bd6d8f7056f7672",
    sha256="cb45b11a4133c6bc1d6a44b0f8e701335ff1e543195db1103472e575857f7f64",
    size=113_932_529,
    strict=False,
)
EXTENDED = "_e"
LEVELS = ("0-4k", "4-8k", "8k+")
CATEGORIES = ("single_doc_qa", "multi_doc_qa", "summarization", "few_shot", "synthetic", "code")

Metric = Callable[[str, str], float]

METRICS: dict[str, Metric] = {
    "f1": qa_f1,
    "f1_zh": qa_f1_zh,
    "rouge": lambda prediction, answer: rouge_set(prediction, answer)["rouge-l"].f,
    "rouge_zh": rouge_set_zh,
    "count": count_score,
    "retrieval": retrieval_score,
    "retrieval_zh": retrieval_zh_score,
    "code_sim": code_sim_score,
}

# name: category, language, metric, tokens of an answer, whether LongBench-E has it
_SETS: dict[str, tuple[str, str, str, int, bool]] = {
    "narrativeqa": ("single_doc_qa", "en", "f1", 128, False),
    "qasper": ("single_doc_qa", "en", "f1", 128, True),
    "multifieldqa_en": ("single_doc_qa", "en", "f1", 64, True),
    "multifieldqa_zh": ("single_doc_qa", "zh", "f1_zh", 64, False),
    "hotpotqa": ("multi_doc_qa", "en", "f1", 32, True),
    "2wikimqa": ("multi_doc_qa", "en", "f1", 32, True),
    "musique": ("multi_doc_qa", "en", "f1", 32, False),
    "dureader": ("multi_doc_qa", "zh", "rouge_zh", 128, False),
    "gov_report": ("summarization", "en", "rouge", 512, True),
    "qmsum": ("summarization", "en", "rouge", 512, False),
    "multi_news": ("summarization", "en", "rouge", 512, True),
    "vcsum": ("summarization", "zh", "rouge_zh", 512, False),
    "trec": ("few_shot", "en", "classification", 64, True),
    "triviaqa": ("few_shot", "en", "f1", 32, True),
    "samsum": ("few_shot", "en", "rouge", 128, True),
    "lsht": ("few_shot", "zh", "classification", 64, False),
    "passage_count": ("synthetic", "en", "count", 32, True),
    "passage_retrieval_en": ("synthetic", "en", "retrieval", 32, True),
    "passage_retrieval_zh": ("synthetic", "zh", "retrieval_zh", 32, False),
    "lcc": ("code", "code", "code_sim", 64, True),
    "repobench-p": ("code", "code", "code_sim", 64, True),
}
FEW_SHOT = ("trec", "triviaqa", "samsum", "lsht")

# how the document is introduced, the task told, the question labelled, and the answer begun
_WORDS: dict[str, tuple[str, str, str, str]] = {
    "narrativeqa": (
        "Story",
        "The text is a story or a script. Answer the question about it in as few words as possible, a single phrase "
        "if you can, and explain nothing.",
        "Question",
        "Answer",
    ),
    "qasper": (
        "Article",
        "The text is a scientific article. Answer the question about it with one phrase or sentence. Write "
        '"unanswerable" if the article does not answer it, and "yes" or "no" where the question asks that. Explain '
        "nothing.",
        "Question",
        "Answer",
    ),
    "multifieldqa_en": ("Text", "Answer the question about the text briefly; the answer alone.", "Question", "Answer"),
    "multifieldqa_zh": ("文章", "请根据文章简短地回答问题,只写答案,不要写别的。", "问题", "回答"),
    "passages": ("Passages", "Answer the question from the passages; the answer and no more.", "Question", "Answer"),
    "dureader": ("文章", "请根据文章回答问题。", "问题", "回答"),
    "gov_report": ("Report", "The text is a government report. Summarise it on one page.", "", "Summary"),
    "qmsum": (
        "Transcript",
        "The text is the transcript of a meeting. Answer the query about it in one sentence or more.",
        "Query",
        "Answer",
    ),
    "multi_news": ("News", "The text is several news passages. Summarise them on one page.", "", "Summary"),
    "vcsum": ("会议记录", "以上是一段会议记录,请写一段话总结会议内容。", "", "会议总结"),
}  # fmt: skip


class LongBench(DocumentBenchmark):
    """The 21 sets, and the 13 of LongBench-E under their names with `_e` behind."""

    name: ClassVar[str] = "longbench"
    title: ClassVar[str] = "LongBench"
    truncation: ClassVar[str] = "longbench_v1"
    datasets: ClassVar[Mapping[str, Dataset]] = {
        name + ending: Dataset(
            name + ending,
            ARCHIVE,
            category,
            language,
            metric,
            tokens,
            member=f"{name}{ending}.jsonl",
            chat=name not in FEW_SHOT and category != "code",
        )
        for ending in ("", EXTENDED)
        for name, (category, language, metric, tokens, extended) in _SETS.items()
        if extended or not ending
    }
    default_datasets: ClassVar[tuple[str, ...]] = tuple(_SETS)

    def chosen(self, names: Sequence[str]) -> list[Dataset]:
        """The sets of these names; `e` is all of LongBench-E, and a category or language all sets of it."""
        wide: list[str] = []
        for name in names:
            own = [one for one, made in _SETS.items() if name in made[:2]]
            wide += [one for one in self.datasets if one.endswith(EXTENDED)] if name == "e" else own or [name]
        return super().chosen(wide)

    def rows(self, dataset: Dataset, data_dir: str | Path | None) -> Iterator[Mapping[str, object]]:
        return iter_jsonl(resolve_file(dataset.file, data_dir), dataset.member)

    def samples(self, dataset: Dataset, rows: Iterator[Mapping[str, object]]) -> Iterator[LongSample]:
        for index, row in enumerate(rows):
            length = int(str(row.get("length") or 0))
            yield sample_of(
                self.name,
                dataset,
                str(row.get("_id") or f"{dataset.name}-{index}"),
                context=text_field(row, "context"),
                # the parquet copy of the data calls the question by that name
                question=text_field(row, "input" if "input" in row else "question", ""),
                answers=list_field(row, "answers"),
                all_classes=list_field(row, "all_classes") or None,
                length=length,
                length_unit="chars" if dataset.language == "zh" else "words",
                length_level=length_level(length),
            )

    def prompt(self, sample: LongSample, reading: Reading) -> Prompt:
        name = sample.task.removesuffix(EXTENDED)
        chat = self.datasets[sample.task].chat
        return Prompt(_worded(name, sample.question), chat=chat)

    def figures(self, sample: LongSample, prediction: str, reading: Reading) -> dict[str, float]:
        dataset = self.datasets[sample.task]
        return {"score": score_one(dataset, prediction, sample.answers, sample.all_classes or ())}

    def table(self, scored: Sequence[Scored], reading: Reading) -> Table:
        return aggregate(scored)

    def predictions(self, dataset: Dataset, rows: Iterator[Mapping[str, object]]) -> Iterator[tuple[LongSample, str]]:
        """Rows of `pred`, `answers`, `all_classes` and `length`, as the published script writes them."""
        for index, row in enumerate(rows):
            length = int(str(row.get("length") or 0))
            sample = sample_of(
                self.name,
                dataset,
                f"{dataset.name}-{index}",
                context="",
                question="",
                answers=list_field(row, "answers"),
                all_classes=list_field(row, "all_classes") or None,
                length=length,
                length_level=length_level(length),
            )
            yield sample, text_field(row, "pred", "")


def length_level(length: int) -> str:
    """The bucket of a length in words (Chinese: characters)."""
    return LEVELS[(length >= 4000) + (length >= 8000)]


def score_one(dataset: Dataset, prediction: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """The best score of a prediction over all answers, in [0, 1].

    Raises
    ------
    ValueError : no answer, or a ROUGE over a text without a word.
    """
    if not answers:
        raise ValueError(f"a sample of {dataset.name} has no answer")
    if dataset.name.removesuffix(EXTENDED) in FEW_SHOT:
        prediction = first_line(prediction)
    if dataset.metric == "classification":
        return max(classification_score(prediction, answer, classes) for answer in answers)
    if dataset.metric.startswith("rouge"):
        # an answer that ROUGE cannot take scores 0 and does not hide the others
        return max(_or_zero(METRICS[dataset.metric], prediction, answer) for answer in answers)
    return max(METRICS[dataset.metric](prediction, answer) for answer in answers)


def _or_zero(metric: Metric, prediction: str, answer: str) -> float:
    try:
        return metric(prediction, answer)
    except ValueError:
        return 0.0


def aggregate(scored: Sequence[Scored]) -> Table:
    """Means of sets to two decimals, of categories over their sets, and of the six categories.

    `EN` and `ZH` take the sets of one language and code; `All` is the mean of the categories over all languages. Sets
    of LongBench-E come by their three buckets. A mean over nothing is None and counts nowhere.
    """
    table = Table()
    plain = [one for one in scored if not one.sample.task.endswith(EXTENDED)]
    means: dict[str, float] = {}
    for name in _SETS:
        mine = [one for one in plain if one.sample.task == name]
        if mine:
            means[name] = round(100.0 * sum(one.score for one in mine) / len(mine), 2)
            table.rows.append(Row("dataset", name, means[name], len(mine)))
    every = (("EN", ("en", "code")), ("ZH", ("zh", "code")), ("All", ("en", "zh", "code")))
    for label, languages in every if plain else ():
        if label != "All" and not any(_SETS[name][1] == languages[0] for name in means):
            continue
        of_category = [
            _mean([value for name, value in means.items() if _SETS[name][0] == kind and _SETS[name][1] in languages])
            for kind in CATEGORIES
        ]
        if label == "All":
            table.rows += [
                Row("category", kind, value, sum(_SETS[one.sample.task][0] == kind for one in plain))
                for kind, value in zip(CATEGORIES, of_category, strict=True)
            ]
        table.rows.append(
            Row("overall", label, _mean([value for value in of_category if value is not None]), len(plain))
        )
    if len(means) < len(_SETS) and means:
        table.notes.append(f"{len(means)} of {len(_SETS)} sets: the averages are not those of published tables")
    for name in _SETS:
        mine = [one for one in scored if one.sample.task == name + EXTENDED]
        if mine:
            table.rows += [Row(name + EXTENDED, level, value, n) for level, (value, n) in bucket_means(mine).items()]
    return table


def bucket_means(scored: Sequence[Scored]) -> dict[str, tuple[float | None, int]]:
    """Means in percent to two decimals by bucket of length, and how many samples each has; None over none."""
    found: dict[str, tuple[float | None, int]] = {}
    for level in LEVELS:
        part = [one.score for one in scored if one.sample.metadata["length_level"] == level]
        found[level] = (round(100.0 * sum(part) / len(part), 2) if part else None, len(part))
    return found


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _worded(name: str, question: str) -> str:
    """The prompt of a set: task, document, task again, question, and the start of an answer."""
    if name in ("hotpotqa", "2wikimqa", "musique"):
        name = "passages"
    if name in _WORDS:
        label, task, asked, cue = _WORDS[name]
        colon = "：" if name in ("multifieldqa_zh", "dureader", "vcsum") else ":"
        ask = f"{asked}{colon} {question}\n" if asked else ""
        return f"{task}\n\n{label}{colon} {CONTEXT}\n\n{task}\n\n{ask}{cue}{colon}"
    return {
        "trec": f"Say of what type each question is. Some examples follow.\n\n{CONTEXT}\n{question}",
        "triviaqa": (
            "Answer the question from the passage given; write the answer alone. Some examples follow.\n\n"
            f"{CONTEXT}\n\n{question}"
        ),
        "samsum": f"Sum up the dialogue in a few short sentences. Some examples follow.\n\n{CONTEXT}\n\n{question}",
        "lsht": f"请判断新闻属于哪一类。下面是一些例子。\n\n{CONTEXT}\n{question}",
        "passage_count": (
            "Several paragraphs follow; some of them may be repeated. Read them all and count how many different ones "
            f"there are.\n\n{CONTEXT}\n\nWrite the number of different paragraphs and nothing else, for instance 1 or "
            "12.\n\nNumber:"
        ),
        "passage_retrieval_en": (
            f"Thirty paragraphs and a summary follow. Find the paragraph that was summarised.\n\n{CONTEXT}\n\nSummary: "
            f'{question}\n\nWrite the number of the paragraph in the form "Paragraph 1".\n\nAnswer:'
        ),
        "passage_retrieval_zh": (
            f"下面有若干段落和一段摘要。请找出摘要对应的段落。\n\n{CONTEXT}\n\n摘要：{question}\n\n"
            '请用"段落1"的格式写出段落编号。\n\n回答：'
        ),
        "lcc": f"Go on with the code below.\n{CONTEXT}\nThe next line of code:\n",
        "repobench-p": f"Go on with the code below.\n{CONTEXT}{question}\nThe next line of code:\n",
    }[name]
