"""In-context ranking as an Inspect task: `inspect eval farspan/icr_ranking --model none -T model_path=FOLDER`.

The model is loaded here rather than by Inspect, because the ranking is read from its attention. Documents never enter
the log. Blocks, full attention over the same prompts and bm25 are measured on the same documents in the same order.

Source: arXiv 2510.05396, section 4.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal

from anyio import to_thread
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ModelOutput
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from farspan.errors import FarspanError
from farspan.evals.ranking import best_of_bm25, ranking_passages, ranking_scores, read_ranking_examples

if TYPE_CHECKING:
    from farspan.engine.ranking import InContextRanker, Ranked
    from farspan.training.data.ranking import RankingExample

Method = Literal["blocks", "full", "bm25"]
Mode = Literal["attention", "decode"]

METHODS = ("blocks", "full", "bm25")
MODES = ("attention", "decode")
DOCUMENTS, SAMPLES, SHOWN = 30, 60, 10


@task(name="icr_ranking")
def icr_ranking(
    model_path: str = "reference",
    data: str = "",
    documents: int = 0,
    samples: int = 0,
    seed: int = 0,
    method: Method = "blocks",
    mode: Mode = "attention",
    layer: int | None = None,
    group: int = 100,
    max_document: int | None = None,
    first_stage: int = 0,
) -> Task:
    """Rank documents for a query, scored by precision at 1, MRR@10 and nDCG@10.

    Parameters
    ----------
    model_path : folder or hub name, best of a model that was trained to rank; `method=bm25` loads none
    data : `.jsonl` file of examples (`query`, `documents`, `answer_ids`); empty makes passages
    documents : of each query: the first so many of a file (0 for all), or passages to make (0 for 30)
    samples : queries; 0 for all of a file, or 60 made ones
    seed : of made passages, and of the order in which documents stand in the prompt
    method : `blocks`, `full` attention over the same prompt, or `bm25` without a model
    mode : `attention` reads the scores, `decode` lets the model name one document
    layer : whose attention ranks; the trained one where left out
    group : documents in one prompt at most
    max_document : tokens of a document at most; as many as the positions allow where left out
    first_stage : rank only the best so many of bm25; 0 ranks all

    Raises
    ------
    FarspanError : unknown method or mode, a number below 0, or a file that cannot be used.
    """
    if method not in METHODS:
        raise FarspanError(f"method '{method}' is not known; choose {', '.join(METHODS)}")
    if mode not in MODES:
        raise FarspanError(f"mode '{mode}' is not known; choose {' or '.join(MODES)}")
    for name, number in (("documents", documents), ("samples", samples), ("first_stage", first_stage)):
        if number < 0:
            raise FarspanError(f"{name} is {number}; give 0 or more")
    source = ExampleSource(data, documents, seed)
    count = source.size(samples)
    queries = [source.example(index) for index in range(count)]
    asked = {
        "model_path": model_path,
        "data": data,
        "documents": documents,
        "seed": seed,
        "method": method,
        "mode": mode,
        "layer": layer,
        "group": group,
        "max_document": max_document,
        "first_stage": first_stage,
    }
    rows = [
        Sample(
            id=f"{index}-{example.query_id}" if example.query_id else str(index),
            input=example.query,
            target=list(example.answers),
            metadata={"index": index, "documents": len(example.documents)},
        )
        for index, example in enumerate(queries)
    ]
    return Task(
        dataset=MemoryDataset(rows, name="farspan/icr_ranking"),
        solver=rank_in_context(**asked),  # type: ignore[arg-type]
        scorer=ranking_score(),
        name="icr_ranking",
        metadata={**asked, "text": "official" if data else "generated"},
    )


@solver
def rank_in_context(
    model_path: str,
    data: str,
    documents: int,
    seed: int,
    method: Method,
    mode: Mode,
    layer: int | None,
    group: int,
    max_document: int | None,
    first_stage: int,
) -> Solver:
    """Rank the sample's documents, and keep the first ids and how good the order is; settings as in `icr_ranking`."""
    source = ExampleSource(data, documents, seed)
    ranking = _Ranking(model_path, method, mode, layer, group, max_document, first_stage)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        example = source.example(int(state.metadata["index"]))
        ranked = await to_thread.run_sync(ranking, example)
        name = method if method == "bm25" else model_path
        state.output = ModelOutput.from_content(name, ", ".join(one.doc_id for one in ranked[:SHOWN]))
        state.metadata["ranking_scores"] = ranking_scores(ranked, example.answers)
        return state

    return solve


@scorer(metrics={"*": [mean(), stderr()]})
def ranking_score() -> Scorer:
    """What `rank_in_context` found: `p@1`, `mrr@10` and `ndcg@10`."""

    async def score(state: TaskState, target: Target) -> Score:
        found: dict[str, str | int | float | bool | None] = dict(state.metadata["ranking_scores"])
        return Score(value=found, answer=state.output.completion)

    return score


class ExampleSource:
    """Examples by number, with their documents in the order in which they stand in the prompt.

    data, documents, seed : as in `icr_ranking`
    """

    def __init__(self, data: str, documents: int, seed: int) -> None:
        self.data = data
        self.documents = documents
        self.seed = seed
        self._read: list[RankingExample] | None = None

    def size(self, samples: int) -> int:
        """Number of queries, where `samples` are wanted."""
        if not self.data:
            return samples or SAMPLES
        return min(samples, len(self._file())) if samples else len(self._file())

    def example(self, index: int) -> RankingExample:
        """The example of one number."""
        from farspan.training.data.ranking import RankingExample, sample_documents

        if not self.data:
            return ranking_passages(self.documents or DOCUMENTS, self.seed + index)
        row = self._file()[index]
        # files often name relevant documents first, which full attention could learn from
        chosen = sample_documents(
            row.documents, row.answers, self.documents, seed=self.seed + index, sample=False, fill=False
        )
        return RankingExample(row.query, dict(zip(chosen.ids, chosen.texts, strict=True)), row.answers, row.query_id)

    def _file(self) -> list[RankingExample]:
        if self._read is None:
            self._read = read_ranking_examples(self.data)
        return self._read


class _Ranking:
    """One model, loaded when first asked, that ranks one query at a time."""

    def __init__(
        self,
        model_path: str,
        method: Method,
        mode: Mode,
        layer: int | None,
        group: int,
        max_document: int | None,
        first_stage: int,
    ) -> None:
        self.model_path = model_path
        self.method = method
        self.mode = mode
        self.layer = layer
        self.group = group
        self.max_document = max_document
        self.first_stage = first_stage
        self.lock = threading.Lock()
        self.ranker: InContextRanker | None = None

    def __call__(self, example: RankingExample) -> list[Ranked]:
        from farspan.engine.ranking import Ranked

        texts = dict(example.documents)
        if self.method == "bm25" or self.first_stage:
            best = best_of_bm25(example.query, texts, self.first_stage or None)
            if self.method == "bm25":
                return [Ranked(name, score) for name, score in best.items()]
            # in the prompt's order, so that the first stage tells the model nothing
            texts = {name: text for name, text in texts.items() if name in best}
        with self.lock:
            if self.ranker is None:
                self.ranker = self._load()
            return self.ranker.rank(example.query, texts)

    def _load(self) -> InContextRanker:
        from farspan.engine.ranking import InContextRanker
        from farspan.models import load

        model, tokenizer = load(self.model_path)
        return InContextRanker(
            model,
            tokenizer,
            layer=self.layer,
            mode=self.mode,
            structure="full" if self.method == "full" else "blocks",
            group=self.group,
            max_document=self.max_document,
        )
