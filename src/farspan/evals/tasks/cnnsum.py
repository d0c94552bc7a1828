"""CNNSum: summaries of long excerpts of Chinese novels at four lengths, the task told before the text or behind it.

Beside the score stand the signs of an answer that is none: repetition, another language, copying, commentary cut off.

Source: arXiv 2412.02819.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from farspan.evals.documents.base import (
    CONTEXT,
    Dataset,
    DocumentBenchmark,
    Options,
    Prompt,
    Reading,
    Row,
    Scored,
    Table,
    mean_row,
    sample_of,
    text_field,
)
from farspan.evals.metrics.rouge import rouge_lcs_zh, rouge_set_zh
from farspan.evals.schema import LongSample
from farspan.evals.sources import DataFile, iter_jsonl, resolve_file

REPO = "CxsGHost/CNNSum"
ORDERS = ("IE", "IB")
CUE = "摘要："
EFFECTIVE_SHARE = 0.85
SHORTEST = 20
LOOP_SHARE = 0.5
COPIED_WINDOW = 20
_CJK = ("一", "鿿")
_QUOTES = frozenset('“”‘’「」『』"')

# file on the hub, name in the published script, bytes, sha256, tokens of an answer, level
_SUBSETS = {
    "L": (
        "cnnsum_L_16k.jsonl",
        "cnnsum_L_16k.jsonl",
        12_519_064,
        "f558c17d9134dd2968f5633de8f84ab27c1f1e138b318d847ca7aaa6a9fb4649",
        400,
        "16k",
    ),
    "XL": (
        "cnnsum_XL_32k.jsonl",
        "cnnsum_XL_32k.jsonl",
        25_645_779,
        "b61a3cd7607a7b394c9cc8baf513fc710bc23bdf3bf52c5451415b3d1eb99584",
        400,
        "32k",
    ),
    "2XL": (
        "cnnsum_XXL_64k.jsonl",
        "cnnsum_2XL_64k.jsonl",
        52_682_557,
        "2b90b8da735698306e59f92b02a60240b5378c437a365e3919f3cf0a995ca1ce",
        500,
        "64k",
    ),
    "3XL": (
        "cnnsum_XXXL_128k.jsonl",
        "cnnsum_3XL_128k.jsonl",
        57_516_334,
        "b69b809446242a9da4a5c405b5a2f9d377e6d7579a626c43dc8db04a510d8b30",
        500,
        "128k",
    ),
}


class CNNSumOptions(Options):
    """checked : compare the files with the published hashes."""

    checked: bool = True


class CNNSum(DocumentBenchmark):
    """Four subsets in two orders of the prompt, `L-IE` to `3XL-IB`; a subset alone names both orders."""

    name: ClassVar[str] = "cnnsum"
    title: ClassVar[str] = "CNNSum"
    truncation: ClassVar[str] = "lm_eval_middle"
    datasets: ClassVar[Mapping[str, Dataset]] = {
        f"{subset}-{order}": Dataset(
            f"{subset}-{order}",
            DataFile(REPO, name, sha256=sha256, size=size, other_names=(script_name,)),
            f"instruction at the {'end' if order == 'IE' else 'beginning'}",
            "zh",
            "rouge_zh",
            tokens,
            chat=False,
            level=level,
        )
        for subset, (name, script_name, size, sha256, tokens, level) in _SUBSETS.items()
        for order in ORDERS
    }
    default_datasets: ClassVar[tuple[str, ...]] = tuple(f"{s}-{o}" for s in ("L", "XL") for o in ORDERS)

    options_model: ClassVar[type[Options]] = CNNSumOptions
    options: CNNSumOptions

    def chosen(self, names: Sequence[str]) -> list[Dataset]:
        wide = [own for name in names for own in ([f"{name}-{o}" for o in ORDERS] if name in _SUBSETS else [name])]
        return super().chosen(wide)

    def rows(self, dataset: Dataset, data_dir: str | Path | None) -> Iterator[Mapping[str, object]]:
        file = dataset.file
        if not self.options.checked:
            file = replace(file, strict=False)
        return iter_jsonl(resolve_file(file, data_dir))

    def samples(self, dataset: Dataset, rows: Iterator[Mapping[str, object]]) -> Iterator[LongSample]:
        subset = dataset.name.partition("-")[0]
        for index, row in enumerate(rows):
            context = text_field(row, "context")
            yield sample_of(
                self.name,
                dataset,
                f"{subset}-{index}",
                context=context,
                question="",
                answers=[text_field(row, "summary")],
                answer_kind="free",
                length=len(context),
                length_unit="chars",
                raw={key: value for key, value in row.items() if key not in ("context", "summary")},
                metadata={"order": dataset.name.partition("-")[2]},
            )

    def prompt(self, sample: LongSample, reading: Reading) -> Prompt:
        # a chat model is asked through its template, as the fixed reading would; published runs never use one
        chat = reading == "fixed"
        if sample.metadata["order"] == "IE":
            return Prompt(
                f"下面是一部小说的节选。\n\n{CONTEXT}\n\n请阅读以上节选,写出它的摘要,不要输出其他内容。\n\n{CUE}",
                chat=chat,
            )
        return Prompt(f"请为下面的小说节选写摘要,不要输出其他内容。\n\n{CONTEXT}\n\n{CUE}", chat=chat)

    def figures(self, sample: LongSample, prediction: str, reading: Reading) -> dict[str, float]:
        reference = sample.answers[0]
        if reading == "fixed":
            if not reference:
                raise ValueError("the reference is empty")
            prediction = first_summary(prediction)
        return {
            "score": rouge_zh_score(prediction, reference),
            "lcs": rouge_lcs_zh(prediction, reference),
            "length": len(prediction) / max(len(reference), 1),
            **abnormal_report(prediction, sample.text),
        }

    def table(self, scored: Sequence[Scored], reading: Reading) -> Table:
        """Percent to five decimals by subset and order, the mean of the orders, and how many answers look like none."""
        table = Table()
        levels: dict[str, float] = {}
        for subset in _SUBSETS:
            by_order = {}
            for order in ORDERS:
                mine = [one for one in scored if one.sample.task == f"{subset}-{order}"]
                if mine:
                    by_order[order] = _percent(mine, "score")
                    error = mean_row(subset, order, mine).stderr
                    table.rows.append(Row(subset, order, by_order[order], len(mine), error))
                    chance = chance_level(mine)
                    if chance is not None:
                        table.rows.append(Row(subset, f"{order}, summaries of the next excerpts", chance, len(mine)))
                    table.rows.append(
                        Row(subset, f"{order}, true common subsequence", _percent(mine, "lcs"), len(mine))
                    )
                    table.rows += [
                        Row(subset, f"{order}, {label}", _percent(mine, figure), len(mine))
                        for figure, label in _ABNORMAL.items()
                        if any(figure in one.figures for one in mine)
                    ]
            if len(by_order) == len(ORDERS):
                levels[subset] = sum(by_order.values()) / len(ORDERS)
                n = len([one for one in scored if one.sample.task.startswith(f"{subset}-")])
                table.rows.append(Row("subset", subset, round(levels[subset], 5), n))
                table.rows.append(Row("subset", f"{subset}, IE minus IB", round(by_order["IE"] - by_order["IB"], 5), n))
        held = None
        for subset, value in levels.items():
            if value < EFFECTIVE_SHARE * levels.get("L", 0.0) or "L" not in levels:
                break
            held = _SUBSETS[subset][5]
        if held:
            table.notes.append(f"longest subset with at least {EFFECTIVE_SHARE:.0%} of the score at 16k: {held}")
        return table

    def predictions(self, dataset: Dataset, rows: Iterator[Mapping[str, object]]) -> Iterator[tuple[LongSample, str]]:
        """Rows of `pred` and `answer`, as the published script keeps them."""
        for row in rows:
            named = {"context": "", "summary": row.get("answer", row.get("summary", ""))}
            yield next(self.samples(dataset, iter([named]))), text_field(row, "pred", "")


_ABNORMAL = {
    "length": "length over the reference's",
    "too_short": "too short",
    "loop": "in a loop",
    "other_language": "mostly another language",
    "copied": "copied from the excerpt",
    "dialogue": "marks of dialogue among the characters",
}


def chance_level(scored: Sequence[Scored]) -> float | None:
    """What the summaries of the next excerpts score, in percent: the level that a real answer must clearly beat.

    None for fewer than two excerpts, or where no reference holds a word.
    """
    references = [one.sample.answers[0] for one in scored]
    if len(set(references)) < 2:
        return None
    values = []
    for own, following in zip(references, [*references[1:], references[0]], strict=True):
        try:
            values.append(rouge_zh_score(following, own))
        except ValueError:
            continue
    return round(100.0 * sum(values) / len(values), 5) if values else None


def first_summary(prediction: str) -> str:
    """An answer up to where it sets out again with the cue of the prompt; a cue at its beginning is taken off.

    Models that continue text start another excerpt and summary once they are done.
    """
    return prediction.strip().removeprefix(CUE).partition(CUE)[0].strip()


def rouge_zh_score(prediction: str, reference: str) -> float:
    """F1 of `rouge_set`'s L over Chinese words; 0 for no answer and for one of full stops alone.

    Raises
    ------
    ValueError : the reference holds no word.
    """
    if not prediction or set(prediction) == {"."}:
        return 0.0
    return rouge_set_zh(prediction, reference)


def score_subset(predictions: Sequence[str], references: Sequence[str]) -> dict[str, object]:
    """Scores of one subset in one order: each, and their mean in percent to five decimals."""
    each = [rouge_zh_score(*pair) for pair in zip(predictions, references, strict=True)]
    return {"score": round(100.0 * sum(each) / len(each), 5) if each else None, "per_sample": each}


def abnormal_report(prediction: str, context: str = "") -> dict[str, float]:
    """Signs of an answer that is no summary, each from 0 to 1.

    Returns
    -------
    `empty`, `too_short` (fewer than 20 characters), `repetition` (share of repeated runs of four characters), `loop`
    (more than half are), `non_chinese` (share of letters outside Chinese), `other_language` (more than half are),
    `dialogue` (share of quotation marks among the characters: high where a story is continued instead of told), and
    with a context `copied` (share of runs of 20 characters that are in it).
    """
    runs = [prediction[i : i + 4] for i in range(len(prediction) - 3)]
    repetition = 1.0 - len(set(runs)) / len(runs) if runs else 0.0
    letters = [char for char in prediction if char.isalpha()]
    foreign = sum(not _CJK[0] <= char <= _CJK[1] for char in letters) / len(letters) if letters else 0.0
    found = {
        "empty": float(not prediction.strip()),
        "too_short": float(len(prediction.strip()) < SHORTEST),
        "repetition": repetition,
        "loop": float(repetition > LOOP_SHARE),
        "non_chinese": foreign,
        "other_language": float(foreign > LOOP_SHARE),
        "dialogue": sum(char in _QUOTES for char in prediction) / len(prediction) if prediction else 0.0,
    }
    if context:
        found["copied"] = _copied(prediction, context)
    return found


def _copied(prediction: str, context: str) -> float:
    windows = [prediction[i : i + COPIED_WINDOW] for i in range(len(prediction) - COPIED_WINDOW + 1)]
    if not windows:
        return 0.0
    known = {context[i : i + COPIED_WINDOW] for i in range(len(context) - COPIED_WINDOW + 1)}
    return sum(window in known for window in windows) / len(windows)


def _percent(scored: Sequence[Scored], figure: str) -> float:
    return round(100.0 * sum(one.figures.get(figure, 0.0) for one in scored) / len(scored), 5)
