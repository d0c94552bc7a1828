"""LongBench Pro: 1,500 questions in English and Chinese, 25 tasks at six lengths, answered with lists of short strings.

Summaries are scored half by an embedding model; without one they are scored by words alone, and the run says so.

Source: arXiv 2601.02872.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from farspan.evals.documents.base import (
    CONTEXT,
    BenchmarkError,
    Dataset,
    DocumentBenchmark,
    Options,
    Prompt,
    Reading,
    Row,
    Scored,
    Table,
    list_field,
    sample_of,
    text_field,
)
from farspan.evals.metrics.answer_lines import FAILED, ScoreResult, score_metric
from farspan.evals.metrics.chinese import jieba_tokens
from farspan.evals.metrics.rouge import rouge_set
from farspan.evals.schema import LongSample
from farspan.evals.sources import DataFile, iter_json_array, resolve_file

Embed = Callable[[list[str]], npt.NDArray[np.float64]]

FILE = DataFile(
    "caskcsg/LongBench-Pro",
    "longbench_pro.json",
    "4996884deae51f5e5d23c88da9d857fc54e5fa15",
    sha256="92ff05f6088e212d06c5a731ab86000b69cee6a0900cbbd524a25851e3c30de0",
    size=531_535_940,
)
LEVELS = ("8k", "16k", "32k", "64k", "128k", "256k")
LANGUAGES = {"English": "en", "Chinese": "zh"}
SUMMARY = "Summary"
SUMMARY_PASSES = 0.65
TOKENS = 1024
THINKING_TOKENS = 8192
DIMENSIONS = {
    "token_length": LEVELS,
    "contextual_requirement": ("Full", "Partial"),
    "difficulty": ("Easy", "Moderate", "Hard", "Extreme"),
    "primary_task": (),
    "language": ("Chinese", "English"),
}


class SecondaryTask(NamedTuple):
    """What a task belongs to, how it is scored, and whether its evidence is spread (`Full`) or not."""

    primary: str
    metric: str
    requirement: str


def _tasks() -> dict[str, SecondaryTask]:
    named = {
        "T1. Retrieval & Ranking": (
            ("T1.1 Global Cohesive Retrieval", "NDCG", "Full"),
            ("T1.2 Key-Snippet Retrieval", "NDCG", "Partial"),
        ),
        "T2. Sequencing & Structure Reconstruction": (
            ("T2.1 Global Timeline Reconstruction", "Pairwise_Accuracy", "Full"),
            ("T2.2 Local Causal Chain Sorting", "Pairwise_Accuracy", "Partial"),
        ),
        "T3. Evidence-Grounded QA": (
            ("T3.1 Multi-Doc Integration QA", "Accuracy", "Full"),
            ("T3.2 Single-Hop Fact QA", "Accuracy", "Partial"),
        ),
        "T4. Summarization & Synthesis": (
            ("T4.1 Global-Coverage Constrained Summary", SUMMARY, "Full"),
            ("T4.2 Query-Focused Summary", SUMMARY, "Partial"),
        ),
        "T5. Attribution & Citation Alignment": (
            ("T5.1 Full-Sentence Citation Alignment", "F1_Score", "Full"),
            ("T5.2 Key-Statement Citation Alignment", "F1_Score", "Partial"),
        ),
        "T6. Aggregation & Clustering": (
            ("T6.1 Large-Scale Document Clustering", "SubEM", "Full"),
            ("T6.2 Targeted Subset Cluster Identification", "F1_Score", "Partial"),
            ("T6.3 Global Frequency Analysis", "Pairwise_Accuracy", "Full"),
        ),
        "T7. Consistency & Compliance Checking": (
            ("T7.1 Global Conflict & Inconsistency Localization", "F1_Score", "Full"),
            ("T7.2 Targeted Rule or Condition Violation Detection", "F1_Score", "Partial"),
            ("T7.3 Comprehensive Error & Anomaly Sweep", "F1_Score", "Full"),
        ),
        "T8. Structured & Numeric Reasoning": (
            ("T8.1 Structured Multi-Source Consistency Verification", "SubEM", "Full"),
            ("T8.2 Single-Source Targeted Aggregation", "SubEM", "Partial"),
            ("T8.3 Long-Context Procedural State Tracking", "SubEM", "Full"),
        ),
        "T9. Version & Code Diff Analysis": (
            ("T9.1 Dependency-Aware Multi-Version Impact Analysis", "F1_Score", "Full"),
            ("T9.2 Localized Interface Change Detection", "F1_Score", "Partial"),
        ),
        "T10. Rule Induction & In-Context Learning": (
            ("T10.1 Large-Scale In-Context Rule Induction", "SubEM", "Full"),
            ("T10.2 Targeted Example-Based Rule Induction", "SubEM", "Partial"),
        ),
        "T11. Dialogue Memory & Long-Horizon Tracking": (
            ("T11.1 Long-Range Entity & Commitment Tracking", "Accuracy", "Full"),
            ("T11.2 Short-Range Reference Resolution & State Query", "Accuracy", "Partial"),
        ),
    }
    return {
        name: SecondaryTask(primary, metric, requirement)
        for primary, parts in named.items()
        for name, metric, requirement in parts
    }


SECONDARY_TASKS = _tasks()


class LongBenchProOptions(Options):
    """Switches of LongBench Pro.

    thinking : ask with the question's longer instruction, which wants reasoning first
    embedder : folder or name of a sentence-transformers model for summaries; empty scores them by words alone
    checked : compare the file with the published hash, which reads all of it
    """

    thinking: bool = False
    embedder: str = ""
    checked: bool = True


class LongBenchPro(DocumentBenchmark):
    """One file, cut into sets by length and language: `8k-en` to `256k-zh`; a length or a language names all of its.

    Attributes
    ----------
    embed : texts to vectors, for summaries; None scores them by words alone
    """

    name: ClassVar[str] = "longbench_pro"
    title: ClassVar[str] = "LongBench Pro"
    truncation: ClassVar[str] = "longbench_pro"
    runs: ClassVar[int] = 3
    temperature: ClassVar[float] = 1.0
    datasets: ClassVar[Mapping[str, Dataset]] = {
        f"{level}-{language}": Dataset(f"{level}-{language}", FILE, "lists", language, "by task", TOKENS, level=level)
        for level in LEVELS
        for language in ("en", "zh")
    }

    options_model: ClassVar[type[Options]] = LongBenchProOptions
    options: LongBenchProOptions

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.embed: Embed | None = sentence_embedder(self.options.embedder) if self.options.embedder else None

    def chosen(self, names: Sequence[str]) -> list[Dataset]:
        parts = {name: [own for own in self.datasets if name in own.split("-")] for name in (*LEVELS, "en", "zh")}
        return super().chosen([own for name in names for own in parts.get(name, [name])])

    def rows(self, dataset: Dataset, data_dir: str | Path | None) -> Iterator[Mapping[str, object]]:
        file = replace(FILE, strict=self.options.checked)
        return (
            row
            for row in iter_json_array(resolve_file(file, data_dir))
            if row.get("token_length") == dataset.level and LANGUAGES.get(str(row.get("language"))) == dataset.language
        )

    def samples(self, dataset: Dataset, rows: Iterator[Mapping[str, object]]) -> Iterator[LongSample]:
        which = "question_thinking" if self.options.thinking else "question_nonthinking"
        for row in rows:
            yield sample_of(
                self.name,
                dataset,
                text_field(row, "id"),
                context=text_field(row, "context", ""),
                question=text_field(row, which, ""),
                answers=list_field(row, "answer"),
                max_new_tokens=THINKING_TOKENS if self.options.thinking else TOKENS,
                length_level=text_field(row, "token_length"),
                metadata={
                    name: text_field(row, name)
                    for name in ("secondary_task", "contextual_requirement", "difficulty", "primary_task")
                }
                | {"token_length": text_field(row, "token_length"), "language": text_field(row, "language")},
            )

    def prompt(self, sample: LongSample, reading: Reading) -> Prompt:
        # the questions themselves say how to answer; published runs send nothing else
        return Prompt(f"{CONTEXT}\n\n\n\n{sample.question}".strip())

    def figures(self, sample: LongSample, prediction: str, reading: Reading) -> dict[str, float]:
        found = self.score(sample, prediction)
        tidy = self.score(sample, prediction, tidy=True)
        chosen = tidy if reading == "fixed" else found
        return {"score": chosen.score, "official": found.score, "tidied": tidy.score, "success": float(chosen.success)}

    def score(self, sample: LongSample, prediction: str, *, tidy: bool = False) -> ScoreResult:
        """A prediction's score by its task's metric; see `score_metric`."""
        metric = _metric_of(sample)
        if metric != SUMMARY:
            return score_metric(metric, sample.answers, prediction, tidy=tidy)
        if self.embed is None:
            value = summary_max_rouge_l(sample.answers, prediction, zh=sample.language == "zh")
            return ScoreResult(True, value) if prediction else FAILED
        return summary_score(sample.answers, prediction, zh=sample.language == "zh", embed=self.embed)

    def table(self, scored: Sequence[Scored], reading: Reading) -> Table:
        """Means over runs and samples, by every label of the questions; best of several runs and shares that pass."""
        rows = [
            {**{key: one.sample.metadata[key] for key in DIMENSIONS}, "id": one.sample.id, "bon_idx": one.run}
            | {"metric": one.score}
            for one in scored
        ]
        runs = max((one.run for one in scored), default=1)
        found = aggregate(rows, runs)
        table = Table([Row("overall", "mean", _percent(found["average_overall_metric"]), len({r["id"] for r in rows}))])
        for key in DIMENSIONS:
            groups = found[f"average_{key}_metric"]
            assert isinstance(groups, Mapping)
            table.rows += [
                Row(key, name, _percent(value), sum(row[key] == name for row in rows)) for name, value in groups.items()
            ]
        for run in range(1, runs + 1):
            table.rows += [
                Row("runs", name, _percent(found[name]), len(rows)) for name in (f"BoN-{run}", f"pass@{run}")
            ]
        if self.embed is None and any(_metric_of(one.sample) == SUMMARY for one in scored):
            table.notes.append(
                "summaries are scored by words alone (summary_rouge_only): not the published overall score"
            )
        return table

    def predictions(self, dataset: Dataset, rows: Iterator[Mapping[str, object]]) -> Iterator[tuple[LongSample, str]]:
        """Rows of the questions with `prediction` added, as the published script writes them."""
        for row in rows:
            yield next(self.samples(dataset, iter([{**row, "context": ""}]))), text_field(row, "prediction", "")


def sentence_embedder(name: str) -> Embed:
    """Vectors by a model of sentence-transformers, without an instruction, as in published runs.

    Raises
    ------
    BenchmarkError : the package is not installed, or there is no such model.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise BenchmarkError("an embedder needs the package sentence-transformers, which is not installed") from error
    try:
        model = SentenceTransformer(name, tokenizer_kwargs={"padding_side": "left"})
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"cannot load the embedder {name}: {str(error).splitlines()[0]}") from error
    return lambda texts: np.asarray(model.encode(texts), dtype=np.float64)


def _metric_of(sample: LongSample) -> str:
    return SECONDARY_TASKS[str(sample.metadata["secondary_task"])].metric


def summary_max_rouge_l(answers: Sequence[str], prediction: str, *, zh: bool) -> float:
    """Best F1 of `rouge_set`'s L over the answers, lower case and white space collapsed; 0 where it cannot be taken."""
    text = _one_line(prediction, zh)
    return max((_rouge_or_zero(text, _one_line(answer, zh)) for answer in answers), default=0.0)


def summary_score(answers: Sequence[str], prediction: str, *, zh: bool, embed: Embed) -> ScoreResult:
    """Half the best cosine of vectors, half the best ROUGE; the whole prediction counts, answer tags included."""
    if not prediction:
        return FAILED
    vectors = np.asarray(embed([*answers, prediction]), dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    cosines = vectors[:-1] @ vectors[-1] / (norms[:-1] * norms[-1])
    if not prediction.strip():
        return ScoreResult(True, 0.0)
    value = 0.5 * float(cosines.max()) + 0.5 * summary_max_rouge_l(answers, prediction, zh=zh)
    return ScoreResult(True, value) if 0.0 <= value <= 1.0 else FAILED


def _one_line(text: str, zh: bool) -> str:
    line = " ".join(text.lower().split())
    return " ".join(jieba_tokens(line)) if zh else line


def _rouge_or_zero(prediction: str, answer: str) -> float:
    try:
        return rouge_set(prediction, answer)["rouge-l"].f
    except ValueError:
        return 0.0


def aggregate(rows: Sequence[Mapping[str, object]], runs: int) -> dict[str, object]:
    """The published figures of rows of questions, each with its labels, `bon_idx` from 1, and `metric` in [0, 1].

    Returns
    -------
    `average_overall_metric`, `average_<label>_metric` by value of each label, `inconsistent` (questions without an
    answer in every run), `BoN-i` (best of the first i runs) and `pass@i` (share of questions whose best is perfect, or
    above 0.65 for summaries).
    """
    by_id: dict[str, list[Mapping[str, object]]] = {}
    for row in rows:
        by_id.setdefault(str(row["id"]), []).append(row)
    means = {name: sum(_metric(row) for row in mine) / len(mine) for name, mine in by_id.items()}
    found: dict[str, object] = {
        "average_overall_metric": _mean(list(means.values())),
        "inconsistent": sum(len(mine) != runs for mine in by_id.values()),
    }
    for key, order in DIMENSIONS.items():
        groups: dict[str, list[float]] = {}
        for name, mine in by_id.items():
            groups.setdefault(str(mine[0][key]), []).append(means[name])
        known = [name for name in order if name in groups]
        names = [*known, *sorted(set(groups) - set(known), key=_task_number)]
        found[f"average_{key}_metric"] = {name: _mean(groups[name]) for name in names}
    for run in range(1, runs + 1):
        best = {
            name: max((_metric(row) for row in mine if int(str(row["bon_idx"])) <= run), default=0.0)
            for name, mine in by_id.items()
        }
        passed = [
            value > SUMMARY_PASSES if str(by_id[name][0]["primary_task"]).startswith("T4") else value == 1.0
            for name, value in best.items()
        ]
        found[f"BoN-{run}"] = _mean(list(best.values()))
        found[f"pass@{run}"] = _mean([float(one) for one in passed])
    return found


def _metric(row: Mapping[str, object]) -> float:
    return float(str(row["metric"]))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _task_number(name: str) -> tuple[int, str]:
    digits = "".join(char for char in name.partition(".")[0] if char.isdigit())
    return (int(digits) if digits else 0, name)


def _percent(value: object) -> float | None:
    return None if value is None else round(100.0 * float(str(value)), 2)
