"""LooGLE: questions whose evidence lies in one place or in several distant ones, fill-in questions, and summaries.

Two layouts of the data are read, one object a document and one a question; which it is follows from the keys.

Source: arXiv 2311.04939.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from farspan.evals.documents.base import (
    CONTEXT,
    Ask,
    BenchmarkError,
    Dataset,
    DocumentBenchmark,
    Prompt,
    Reading,
    Row,
    Scored,
    Table,
    grouped,
    heard_verdict,
    sample_of,
    text_field,
)
from farspan.evals.metrics.bleu import bleu_1_4
from farspan.evals.metrics.cloze import cloze_exact_match, cloze_folded_match, cloze_partial_match
from farspan.evals.metrics.meteor import meteor_exact_stem
from farspan.evals.metrics.reorder import reorder_scores
from farspan.evals.metrics.rouge import rouge_set
from farspan.evals.metrics.token_f1 import qa_f1
from farspan.evals.schema import LongSample
from farspan.evals.sources import DataFile, MissingDataError, iter_jsonl, resolve_file

REPO = "bigai-nlco/LooGLE"
OLD_REVISION = "bdc356116a09a6a3d552e28a9f330878915b1696"
ARCHIVE = DataFile(REPO, "data.zip", OLD_REVISION, size=33_000_000)
NOTHING = ("none", "None", "")
TYPES = ("comprehension_and_reasoning", "multiple_information_retrieval", "computation", "timeline_reorder")
OTHER = "other"

# name, tokens of an answer, dependency, name in the newer layout
_SETS = {
    "shortdep_qa": (300, "short", "shortdep_qa"),
    "shortdep_cloze": (50, "short", "shortdep_cloze"),
    "longdep_qa": (500, "long", "longdep_qa"),
    "longdep_summarization": (500, "long", "summarization"),
}
_NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")
_OPTIONS = re.compile(r"^\s*[1-4][.)]", re.MULTILINE)


class LooGLE(DocumentBenchmark):
    """Four sets: short and long questions, fill-in questions, summaries of papers."""

    name: ClassVar[str] = "loogle"
    title: ClassVar[str] = "LooGLE"
    truncation: ClassVar[str] = "loogle"
    judge_says: ClassVar[str] = "answers the judge finds right; for summaries the mean of its marks from 0 to 100"
    datasets: ClassVar[Mapping[str, Dataset]] = {
        name: Dataset(
            name,
            DataFile(REPO, f"{newer}.jsonl", other_names=(f"{name}.jsonl", f"LooGLE-testdata/{name}.jsonl")),
            f"{dependency} dependency",
            "en",
            "cloze" if name == "shortdep_cloze" else "text",
            tokens,
        )
        for name, (tokens, dependency, newer) in _SETS.items()
    }

    def rows(self, dataset: Dataset, data_dir: str | Path | None) -> Iterator[Mapping[str, object]]:
        """Rows of the set's own file, or of the older archive where that is what there is."""
        try:
            return iter_jsonl(resolve_file(dataset.file, data_dir))
        except MissingDataError:
            try:
                archive = resolve_file(ARCHIVE, data_dir)
            except MissingDataError:
                archive = None
            if archive is None:
                raise
        return iter_jsonl(archive, f"{dataset.name}.jsonl")

    def samples(self, dataset: Dataset, rows: Iterator[Mapping[str, object]]) -> Iterator[LongSample]:
        for number, row in enumerate(rows):
            if "qa_pairs" in row:
                yield from self._of_document(dataset, row, number)
            else:
                yield self._of_question(dataset, row, number)

    def _of_document(self, dataset: Dataset, row: Mapping[str, object], number: int) -> Iterator[LongSample]:
        """The older layout, a document with its questions as the text of a Python list."""
        pairs = _literal(row["qa_pairs"], f"{dataset.name}, row {number}")
        if pairs is None:
            yield self._sample(dataset, row, f"{number}", "", text_field(row, "output"), text_field(row, "input"))
            return
        for index, pair in enumerate(pairs):
            yield self._sample(
                dataset,
                row,
                f"{number}-{index}",
                str(pair.get("Q", "")),
                pair.get("A", ""),
                text_field(row, "input"),
                evidence=pair.get("S"),
                kind=str(pair.get("type", "")),
            )

    def _of_question(self, dataset: Dataset, row: Mapping[str, object], number: int) -> LongSample:
        """The newer layout, a question with its document."""
        answer = row.get("answer", "")
        if dataset.metric == "cloze" and isinstance(answer, str):
            answer = ast.literal_eval(answer)
        kind = text_field(row, "type", text_field(row, "task", ""))
        return self._sample(
            dataset,
            row,
            str(row.get("id", number)),
            text_field(row, "question", ""),
            answer,
            text_field(row, "context"),
            evidence=row.get("evidence"),
            kind=kind,
        )

    def _sample(
        self,
        dataset: Dataset,
        row: Mapping[str, object],
        row_id: str,
        question: str,
        answer: object,
        context: str,
        *,
        evidence: object = None,
        kind: str = "",
    ) -> LongSample:
        masks = {str(k): str(v) for k, v in answer.items()} if isinstance(answer, Mapping) else {}
        told = [str(part) for part in evidence] if isinstance(evidence, list) else [str(evidence)] if evidence else []
        known = kind if kind in TYPES else OTHER if kind else ""
        return sample_of(
            self.name,
            dataset,
            f"{dataset.name}-{row_id}",
            context=context,
            question="" if question in NOTHING else question,
            answers=list(masks.values()) if masks else [str(answer)],
            answer_kind="mapping" if masks else "alternatives",
            length=len(context.split()),
            metadata={
                "dependency": _SETS[dataset.name][1],
                "type": known if dataset.name == "longdep_qa" else "",
                "masks": masks,
                "evidence": told,
                "scope": evidence_scope(context, told),
                "title": text_field(row, "title", ""),
            },
        )

    def prompt(self, sample: LongSample, reading: Reading) -> Prompt:
        if sample.task == "longdep_summarization":
            return Prompt(f"Summarise the paper that follows.\n\n{CONTEXT}\n\nSummary:")
        if sample.task == "shortdep_cloze":
            return Prompt(
                "In the question below, each <mask-n> stands for a person, a place or an organisation of the text, "
                "equal masks for the same one. Write what they stand for as a mapping, for instance "
                "{'<mask-0>': 'Ann Lee', '<mask-1>': 'Oslo', '<mask-2>': 'Red Cross'}, and nothing else.\n\n"
                f"{CONTEXT}\n\nQuestion: {sample.question} What are the masked entities?\nAnswer:"
            )
        return Prompt(
            f"Answer the question from the long text that follows.\n{CONTEXT}\nQuestion: {sample.question}\nAnswer: "
        )

    def figures(self, sample: LongSample, prediction: str, reading: Reading) -> dict[str, float]:
        if sample.answer_kind == "mapping":
            return _cloze(sample, prediction, reading)
        # the published scripts put a word where nothing was said
        said, answer = prediction if prediction.strip() else "None", sample.answers[0]
        found = _words(answer, said)
        kind = sample.metadata.get("type")
        if reading == "fixed" and kind == "timeline_reorder":
            order = reorder_scores(answer, prediction)
            return {**found, **{f"reorder_{name}": value for name, value in order.items()}, "score": order["swap"]}
        if reading == "fixed" and kind == "computation":
            found["number_match"] = number_match(answer, prediction)
            return {**found, "score": found["number_match"]}
        if reading == "fixed" and _is_choice(sample):
            match = re.search(r"\b[1-4]\b", prediction)
            return {**found, "score": float(match is not None and match.group() == answer.strip())}
        return found

    def predictions(self, dataset: Dataset, rows: Iterator[Mapping[str, object]]) -> Iterator[tuple[LongSample, str]]:
        """Rows of `qa_pairs`, `llm_output` and `output`, a document each, as the published scripts write them."""
        for number, row in enumerate(rows):
            said, pairs = row.get("llm_output"), _literal(row.get("qa_pairs"), f"{dataset.name}, row {number}")
            right = row.get("output")
            if not isinstance(said, list) or not isinstance(right, list):
                raise BenchmarkError(f"{dataset.name}, row {number} has no lists llm_output and output")
            named = {"input": "", "output": right[0] if right else "", "qa_pairs": pairs or "none"}
            samples = list(self._of_document(dataset, named, number))
            if len(samples) != len(said):
                raise BenchmarkError(f"{dataset.name}, row {number} has {len(samples)} questions, {len(said)} answers")
            yield from zip(samples, map(str, said), strict=True)

    def files(self, dataset: Dataset) -> tuple[DataFile, ...]:
        return dataset.file, ARCHIVE

    def judges(self, dataset: Dataset) -> bool:
        return dataset.metric != "cloze"

    async def judged(
        self, sample: LongSample, prediction: str, ask: Ask, reading: Reading = "fixed"
    ) -> dict[str, float]:
        """Whether a judge finds an answer right, or its marks for a summary.

        A reply that cannot be read is wrong in the fixed reading, and left out in the published one.
        """
        reply = await heard_verdict(ask, judge_prompt(sample.task, sample.question, sample.answers[0], prediction))
        if reply is None:
            return {"verdicts": 0.0, "judge_unreadable": 0.0, "judge_silent": 1.0}
        value = summary_marks(reply) if sample.task == "longdep_summarization" else judged(reply)
        unreadable = {"judge_unreadable": float(value is None), "judge_silent": 0.0}
        if value is None and reading == "official":
            return {"verdicts": 0.0, **unreadable}
        return {"score": float(value or 0.0), "verdicts": 1.0, **unreadable}

    def table(self, scored: Sequence[Scored], reading: Reading) -> Table:
        """Means of every figure by set; masks are counted over all questions together; short, long and their gap."""
        table = Table()
        for name in _SETS:
            mine = [one for one in scored if one.sample.task == name]
            if not mine:
                continue
            if name == "shortdep_cloze":
                table.rows += _cloze_rows(name, mine)
                continue
            figures = dict.fromkeys(
                figure for one in mine for figure in one.figures if not figure.startswith("reorder")
            )
            table.rows += [
                Row(name, figure, _percent([one.figures[figure] for one in part]), len(part))
                for figure in figures
                if (part := [one for one in mine if figure in one.figures])
            ]
        for kind, part in grouped(scored, "type").items():
            table.rows.append(Row("type", kind, _percent([one.score for one in part]), len(part)))
        by_dependency = {
            name: _percent([one.score for one in part]) for name, part in grouped(scored, "dependency").items()
        }
        for name, value in by_dependency.items():
            table.rows.append(Row("dependency", name, value, len(grouped(scored, "dependency")[name])))
        short, far = by_dependency.get("short"), by_dependency.get("long")
        if short is not None and far is not None:
            table.rows.append(Row("dependency", "short minus long", round(short - far, 2), len(scored)))
        unknown = len(grouped(scored, "type").get(OTHER, []))
        if unknown:
            table.notes.append(f"{unknown} long questions have a type that is not known, kept as '{OTHER}'")
        return table


def evidence_scope(context: str, evidence: Sequence[str]) -> float | None:
    """Share of the text from the first piece of evidence to the last; None where fewer than two are found in it.

    White space and case are passed over; many published pieces are paraphrased and cannot be found.
    """
    if not context or len(evidence) < 2:
        return None
    folded = " ".join(context.lower().split())
    places = [folded.find(" ".join(piece.lower().split())) for piece in evidence if piece.strip()]
    found = [place for place in places if place >= 0]
    return (max(found) - min(found)) / len(folded) if len(found) > 1 else None


def rouge_1_2_l_recall(reference: str, hypothesis: str) -> tuple[float, float, float]:
    """Recalls of `rouge_set`'s 1, 2 and L.

    Raises
    ------
    ValueError : one of the texts holds no word.
    """
    found = rouge_set(hypothesis, reference)
    return found["rouge-1"].r, found["rouge-2"].r, found["rouge-l"].r


def number_match(reference: str, prediction: str) -> float:
    """1 if the last number of a prediction is the first of the reference, thousands separators aside."""
    right, given = _NUMBER.findall(reference), _NUMBER.findall(prediction)
    if not right or not given:
        return 0.0
    one, other = (float(text.replace(",", "").rstrip(".")) for text in (right[0], given[-1]))
    return float(abs(one - other) <= 1e-6 * max(abs(one), 1e-12))


def judge_prompt(task: str, question: str, reference: str, prediction: str) -> str:
    """What a judge is asked: whether an answer is right, True or False, or how good a summary is, 0 to 100."""
    if task == "longdep_summarization":
        return (
            "Mark the second summary from 0 to 100 by how complete, consistent, fluent and correct in grammar it is; "
            f"the first is by a person. Reply with the number alone.\n\nFirst: {reference}\n\nSecond: {prediction}"
        )
    return (
        "Do the two answers to the question mean the same? Reply with True or False alone.\n\n"
        f"Question: {question}\nAnswer of a person: {reference}\nOther answer: {prediction}"
    )


def judged(reply: str) -> bool | None:
    """A judge's reply by its first word; None where it is neither."""
    word = (reply.split() or [""])[0].strip(".,!:").lower()
    return {"true": True, "false": False}.get(word)


def summary_marks(reply: str) -> float | None:
    """The marks a judge gives a summary, 0 to 100, as a share; None where the reply has no number."""
    marks = _NUMBER.findall(reply)
    return min(max(float(marks[0].replace(",", "")), 0.0), 100.0) / 100 if marks else None


def _words(answer: str, said: str) -> dict[str, float]:
    one, four = bleu_1_4(answer.replace("\n", " "), said.replace("\n", " "))
    names = ("rouge-1 recall", "rouge-2 recall", "rouge-l recall")
    try:
        recalls = dict(zip(names, rouge_1_2_l_recall(answer, said), strict=True))
    except ValueError:
        recalls = dict.fromkeys(names, 0.0)
    f1 = qa_f1(said, answer)
    return {"score": f1, "f1": f1, "bleu-1": one, "bleu-4": four, **recalls, "meteor": meteor_exact_stem(answer, said)}


def _cloze(sample: LongSample, prediction: str, reading: Reading) -> dict[str, float]:
    masks = sample.metadata["masks"]
    assert isinstance(masks, Mapping)
    whole = reading == "official"
    exact, total = cloze_exact_match(masks, prediction, whole=whole)
    partial, _ = cloze_partial_match(masks, prediction, whole=whole)
    folded, _ = cloze_folded_match(masks, prediction)
    total = max(total, 1)
    return {"score": exact / total, "exact": exact, "partial": partial, "folded": folded, "masks": total}


def _cloze_rows(name: str, scored: Sequence[Scored]) -> list[Row]:
    masks = sum(one.figures.get("masks", 0.0) for one in scored) or 1.0
    return [
        Row(name, label, round(100.0 * sum(one.figures.get(figure, 0.0) for one in scored) / masks, 2), len(scored))
        for figure, label in (("exact", "exact"), ("partial", "partial"), ("folded", "whatever the case"))
    ]


def _is_choice(sample: LongSample) -> bool:
    return sample.answers[0].strip() in tuple("1234") and len(_OPTIONS.findall(sample.question)) > 1


def _percent(values: Sequence[float]) -> float | None:
    return round(100.0 * sum(values) / len(values), 2) if values else None


def _literal(text: object, where: str) -> list[dict[str, object]] | None:
    """The list a text holds, None for no questions; a literal is read and nothing is run."""
    if text in NOTHING or text is None:
        return None
    if isinstance(text, list):
        return text
    try:
        found = ast.literal_eval(str(text))
    except (ValueError, SyntaxError) as error:
        raise BenchmarkError(f"{where}: qa_pairs is no list of questions") from error
    if not isinstance(found, list) or not all(isinstance(pair, dict) for pair in found):
        raise BenchmarkError(f"{where}: qa_pairs is no list of questions")
    return found
