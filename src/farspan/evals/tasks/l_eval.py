"""L-Eval: exams and open questions on 508 long documents, several on each; length-instructed answers and a judge.

Closed sets are scored by what `exam_answers` reads out of an answer, open ones by words in common, each with the number
of words that is wanted told in the prompt. `judge_prompt` and `pairwise_win_rate` are the judge's side.

Source: arXiv 2307.11088.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from farspan.evals.documents.base import (
    CONTEXT,
    Ask,
    BenchmarkError,
    Dataset,
    DocumentBenchmark,
    Options,
    Prompt,
    Reading,
    Row,
    Scored,
    Table,
    heard_verdict,
    list_field,
    sample_of,
    text_field,
)
from farspan.evals.metrics import exam_answers as exams
from farspan.evals.metrics.exam_answers import Verdict
from farspan.evals.metrics.rouge import rouge_google
from farspan.evals.metrics.token_f1 import qa_f1
from farspan.evals.schema import LongSample
from farspan.evals.sources import DataFile, file_sha256, iter_jsonl, resolve_file
from farspan.evals.tasks.l_eval_baseline import PREDICTION_MARK, Baseline, baseline_file
from farspan.evals.tasks.l_eval_exams import compute_exact_match, exact_match_score, exam_figures, true_and_fact
from farspan.evals.tasks.l_eval_words import SYSTEMS, judge_prompt, length_instruction, verdict_of
from farspan.evals.truncate import FittedPrompt, TruncationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPO, REVISION = "L4NLP/LEval", "main"
TOKENS = 512
WORDS_A_PASS = 250
TOPIC_QUESTIONS = 3

CLOSED = ("tpo", "gsm100", "quality", "coursera", "topic_retrieval_longchat", "sci_fi", "codeU")
SUMMARIES = (
    "gov_report_summ",
    "meeting_summ",
    "news_summ",
    "paper_assistant",
    "patent_summ",
    "review_summ",
    "tv_show_summ",
)
QUESTIONS = (
    "financial_qa",
    "legal_contract_qa",
    "multidoc_qa",
    "narrative_qa",
    "natural_question",
    "scientific_qa",
)
SCORED_ROWS = ("exam", "f1", "rouge")
SUBSETS = {"auto": SCORED_ROWS, "llm": ("LLM",), "human": ("human",)}
"""Which rows a set is made of: those scored by words, those a judge reads, those people read."""

_WORLD = "based on the world described in the document."


def _file(name: str, kind: str) -> DataFile:
    """Where the hub has a set, and the names of the authors' repository."""
    return DataFile(
        REPO,
        f"LEval/{'Exam' if kind == 'Closed' else 'Generation'}/{name}.jsonl",
        REVISION,
        other_names=(
            f"{name}.jsonl",
            f"{kind}-ended-tasks/{name}.jsonl",
            f"LEval-data/{kind}-ended-tasks/{name}.jsonl",
        ),
    )


def _metric(name: str) -> str:
    return "exam" if name in CLOSED else "rouge" if name in SUMMARIES else "f1"


class LEvalOptions(Options):
    """Switches of L-Eval.

    subset : rows scored by words (`auto`), those a judge reads (`llm`), those people read (`human`)
    length_instruction : tell open questions how many words the reference has, as published runs do
    baseline : answers to be judged against: a file with rows of `query`, `gt` and a key that holds `_pred`, or the
        folder of an earlier run of this benchmark by the baseline
    """

    subset: Literal["auto", "llm", "human"] = "auto"
    length_instruction: bool = True
    baseline: str = ""


class LEval(DocumentBenchmark):
    """The 20 sets; `closed` and `open` name all of a kind."""

    name: ClassVar[str] = "l_eval"
    title: ClassVar[str] = "L-Eval"
    truncation: ClassVar[str] = "lm_eval_right"
    datasets: ClassVar[Mapping[str, Dataset]] = {
        name: Dataset(
            name,
            _file(name, "Closed" if name in CLOSED else "Open"),
            "closed" if name in CLOSED else "open",
            "en",
            _metric(name),
            TOKENS,
        )
        for name in (*CLOSED, *QUESTIONS, *SUMMARIES)
    }

    options_model: ClassVar[type[Options]] = LEvalOptions
    judge_options: ClassVar[tuple[str, ...]] = ("baseline",)
    judge_says: ClassVar[str] = "share of verdicts for the model against the baseline, ties half; 50 is a draw"
    judge_pools: ClassVar[bool] = True
    options: LEvalOptions

    def chosen(self, names: Sequence[str]) -> list[Dataset]:
        wide = {"closed": CLOSED, "open": (*QUESTIONS, *SUMMARIES)}
        return super().chosen([name for given in names for name in wide.get(given, (given,))])

    def rows(self, dataset: Dataset, data_dir: str | Path | None) -> Iterator[Mapping[str, object]]:
        return iter_jsonl(resolve_file(dataset.file, data_dir))

    def samples(self, dataset: Dataset, rows: Iterator[Mapping[str, object]]) -> Iterator[LongSample]:
        """One sample a question; the questions of a document share it."""
        for number, row in enumerate(rows):
            if str(row.get("evaluation", "")) not in SUBSETS[self.options.subset]:
                continue
            asked, answers = list_field(row, "instructions"), list_field(row, "outputs")
            if len(asked) != len(answers):
                raise BenchmarkError(f"{dataset.name}, row {number} has {len(asked)} questions, {len(answers)} answers")
            if dataset.name == "topic_retrieval_longchat" and len(asked) != TOPIC_QUESTIONS:
                raise BenchmarkError(f"{dataset.name}, row {number} has {len(asked)} questions, not {TOPIC_QUESTIONS}")
            for index, (question, answer) in enumerate(zip(asked, answers, strict=True)):
                yield sample_of(
                    self.name,
                    dataset,
                    f"{dataset.name}-{number}-{index}",
                    context=text_field(row, "input"),
                    question=question,
                    answers=[answer],
                    n_ref_words=len(answer.split()),
                    length=len(text_field(row, "input").split()),
                    metadata={"source": text_field(row, "source", ""), "place": index},
                )

    def prompt(self, sample: LongSample, reading: Reading) -> Prompt:
        name = sample.task
        if name in ("gsm100", "codeU", "topic_retrieval_longchat"):
            return Prompt(f"{CONTEXT}\n\n{sample.question}", SYSTEMS[name])
        if name in CLOSED:
            tail = "Give the answer without explaining it.\nAnswer:"
            user = f"The document is this:\n{CONTEXT}\n\nQuestion: {sample.question}\n{tail}"
            return Prompt(user, SYSTEMS.get(name, SYSTEMS["exam"]))
        wanted = length_instruction(sample.n_ref_words or 1) if self.options.length_instruction else ""
        user = f"The document is this:\n{CONTEXT}\n\nInstruction: {sample.question}\n{wanted}Answer:"
        return Prompt(user, SYSTEMS["open"])

    def followed_by(self, sample: LongSample, prediction: str, reading: Reading) -> Prompt | None:
        if sample.task != "sci_fi":
            return None
        real = "by what you know of the real world. Answer True or False."
        asked = sample.question.replace(_WORLD, real) if _WORLD in sample.question else f"{sample.question}\n{real}"
        # asked alone, so that the document cannot answer for the world
        return Prompt(f"{asked}\nAnswer:", SYSTEMS["world"])

    def joined(self, sample: LongSample, first: str, second: str) -> str:
        return f"{first} {exams.FACT_TAG} {second}]"

    def figures(self, sample: LongSample, prediction: str, reading: Reading) -> dict[str, float]:
        reference = sample.answers[0]
        if sample.task == "sci_fi":
            return true_and_fact(prediction, reference)
        if sample.task in CLOSED:
            return exam_figures(sample.task, prediction, reference, reading)
        words = {"words": float(len(prediction.split())), "reference_words": float(len(reference.split()))}
        if sample.task in SUMMARIES:
            found = rouge_google(prediction, reference)
            parts = {name: found[name].f for name in ("rouge1", "rouge2", "rougeL")}
            return {"score": parts["rougeL"], **parts, **words}
        return {"score": qa_f1(prediction, reference), **words}

    def table(self, scored: Sequence[Scored], reading: Reading) -> Table:
        """Closed sets in percent with their mean; open ones by F1 or ROUGE, with the lengths of answers beside them."""
        table = Table()
        means: dict[str, float] = {}
        for name in self.datasets:
            mine = [one for one in scored if one.sample.task == name]
            if not mine:
                continue
            rows = _set_rows(name, mine)
            table.rows += rows
            means[name] = next(row.value for row in rows if row.value is not None)
        exams_done = [means[name] for name in CLOSED if name in means and name != "topic_retrieval_longchat"]
        if exams_done:
            table.rows.append(Row("overall", "closed", _four(sum(exams_done) / len(exams_done)), len(exams_done)))
            if len(exams_done) < len(CLOSED) - 1:
                table.notes.append(f"{len(exams_done)} of {len(CLOSED) - 1} closed sets: not the published average")
        for label, names in (("F1", QUESTIONS), ("ROUGE", SUMMARIES)):
            found = [means[name] for name in names if name in means]
            if found:
                table.rows.append(Row("overall", f"open, {label}", _four(sum(found) / len(found)), len(found)))
        if self.options.length_instruction and any(one.sample.task not in CLOSED for one in scored):
            table.notes.append("open questions told how many words the reference has; do not compare without that")
        return table

    def predictions(self, dataset: Dataset, rows: Iterator[Mapping[str, object]]) -> Iterator[tuple[LongSample, str]]:
        """Rows of `gt`, `query`, `evaluation` and a key that holds `_pred`, as the published scripts write them."""
        place = 0
        for number, row in enumerate(rows):
            if str(row.get("evaluation", "exam")) not in SUBSETS[self.options.subset]:
                continue
            key = next((name for name in row if PREDICTION_MARK in name), None)
            if key is None:
                raise BenchmarkError(f"{dataset.name}, row {number} has no key with '{PREDICTION_MARK}'")
            sample = sample_of(
                self.name,
                dataset,
                f"{dataset.name}-{number}",
                context="",
                question=text_field(row, "query", ""),
                answers=[text_field(row, "gt")],
                metadata={"place": place % TOPIC_QUESTIONS},
            )
            place += 1
            yield sample, text_field(row, key, "")

    def judges(self, dataset: Dataset) -> bool:
        return dataset.category == "open"

    def check_judge(self, datasets: Sequence[Dataset]) -> None:
        super().check_judge(datasets)
        if not self.options.baseline:
            raise BenchmarkError(
                "l_eval: a judge compares with a baseline's answers; give baseline=FILE, rows of query, gt and a key "
                "that holds _pred, or the folder of a run of the baseline with --out"
            )
        assert self._baseline is not None

    def judge_identity(self) -> Mapping[str, str]:
        return {"baseline": file_sha256(baseline_file(self.options.baseline))} if self.options.baseline else {}

    async def judged(
        self, sample: LongSample, prediction: str, ask: Ask, reading: Reading = "fixed"
    ) -> dict[str, float]:
        """Share of two judgements, in either order, that prefer the prediction to the baseline's answer.

        A judgement that cannot be read or does not come is left out; the other one counts alone.
        """
        other = self._baseline.of(sample)
        if other is None:
            raise BenchmarkError(
                "a judge compares with a baseline; give one that answers every question, such as baseline=FILE with a "
                f"row whose query is {sample.question[:60]!r}"
            )
        reference = sample.answers[0]
        replies = [
            await heard_verdict(ask, judge_prompt(sample.question, reference, *pair))
            for pair in ((prediction, other), (other, prediction))
        ]
        verdicts: list[Verdict] = [
            "error" if reply is None else verdict_of(reply, swapped=swapped)
            for reply, swapped in zip(replies, (False, True), strict=True)
        ]
        silent = replies.count(None)
        found = {
            "verdicts": float(2 - verdicts.count("error")),
            "judge_unreadable": float(verdicts.count("error") - silent),
            "judge_silent": float(silent),
        }
        if found["verdicts"]:
            found["score"] = exams.pairwise_win_rate([verdicts])["m1"]
        return found

    @cached_property
    def _baseline(self) -> Baseline:
        return Baseline(self.options.baseline)

    def official_fit(
        self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, context: str, window: int, new_tokens: int
    ) -> FittedPrompt | None:
        """The document alone is cut, by words from the right, until it has no more tokens than published runs allow."""
        side = "left" if prompt.system == SYSTEMS["codeU"] else "right"
        # published runs of a model with "16k" allow 16,000 tokens, its answer included
        limit = window // 1024 * 1000 - new_tokens
        if limit < 1:
            raise TruncationError(f"published runs leave {new_tokens} tokens for an answer; {window} are too few")
        cut, full, kept = truncate_words(context, tokenizer, limit, side=side)
        return FittedPrompt(prompt.user.replace(CONTEXT, cut), None, full, kept, None)


def truncate_words(document: str, tokenizer: PreTrainedTokenizerBase, limit: int, *, side: str) -> tuple[str, int, int]:
    """A document cut to at most `limit` tokens, its tokens before and after.

    As many words as there are tokens allowed are kept at first, and 250 words fewer with each pass.

    Parameters
    ----------
    side : `right` loses words at the end, `left` at the beginning

    Raises
    ------
    TruncationError : nothing is left.
    """
    full = kept = len(tokenizer(document, verbose=False)["input_ids"])
    fewer = 0
    while kept > limit:
        room = limit - fewer
        if room < 1:
            raise TruncationError(f"no cut of the document brings it under {limit} tokens")
        words = document.split(" ")
        document = " ".join(words[:room] if side == "right" else words[-room:])
        kept = len(tokenizer(document, verbose=False)["input_ids"])
        fewer += WORDS_A_PASS
    return document, full, kept


def _set_rows(name: str, scored: Sequence[Scored]) -> list[Row]:
    """The main row of a set first, then its parts."""

    def mean(part: Sequence[Scored], figure: str = "score") -> float | None:
        return 100.0 * sum(one.figures[figure] for one in part) / len(part) if part else None

    whole = mean(scored)
    parts: list[Row] = []
    if name == "topic_retrieval_longchat":
        by_place = [[one for one in scored if one.sample.metadata["place"] == place] for place in range(3)]
        labels = ("first topic", "second topic", "third topic")
        parts = [Row(name, label, _four(mean(part)), len(part)) for label, part in zip(labels, by_place, strict=True)]
    elif name == "sci_fi" and all("fact" in one.figures for one in scored):
        parts = [Row(name, figure, _four(mean(scored, figure)), len(scored)) for figure in ("loyalty", "fact")]
    elif name in SUMMARIES and all("rouge1" in one.figures for one in scored):
        means = {figure: mean(scored, figure) or 0.0 for figure in ("rouge1", "rouge2", "rougeL")}
        whole = (means["rouge1"] * means["rouge2"] * means["rougeL"]) ** (1 / 3)
        parts = [Row(name, figure, _four(value), len(scored)) for figure, value in means.items()]
    if all("words" in one.figures for one in scored):
        words, right = ((mean(scored, figure) or 0.0) / 100 for figure in ("words", "reference_words"))
        parts += [
            Row(name, "words of an answer", _four(words), len(scored)),
            Row(name, "words more than the reference", _four(words - right), len(scored)),
        ]
    if all("parsed" in one.figures for one in scored):
        parts.append(Row(name, "answers with a readable choice", _four(mean(scored, "parsed")), len(scored)))
    return [Row("dataset", name, _four(whole), len(scored)), *parts]


def _four(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


__all__ = [
    "CLOSED",
    "QUESTIONS",
    "SUMMARIES",
    "LEval",
    "LEvalOptions",
    "compute_exact_match",
    "exact_match_score",
    "truncate_words",
]
