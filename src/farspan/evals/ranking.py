"""What in-context ranking is measured on: passages made from a seed or read from a file, bm25, and three measures.

Making passages, the first stage and the measures; ranking itself is the engine's, and Inspect's side stands apart.

Source: arXiv 2510.05396, sections 3.1 and 4, for the measures and the shuffled order of documents.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from farspan.evals.generate.languages import load_language

if TYPE_CHECKING:
    from farspan.engine.ranking import Ranked
    from farspan.training.data.ranking import RankingExample

MISLEADING = 0.15
"""Share of the other passages that mention the subject asked for."""


def ranking_passages(documents: int, seed: int) -> RankingExample:
    """Passages with a subject each, and a query for one of them; equal seeds give equal passages.

    Every passage mentions subjects of two others, some of them the one asked for, so counting words is not enough.

    Raises
    ------
    RankingError : fewer than 3 passages, which cannot mention two others.
    """
    from farspan.training.data.ranking import RankingError, RankingExample

    if documents < 3:
        raise RankingError(f"passages mention two others; {documents} are too few, give 3 or more documents")
    rng = random.Random(seed)
    words = load_language("en")
    subjects: list[str] = []
    while len(subjects) < documents:
        subject = f"{rng.choice(words.adjectives)}-{rng.choice(words.nouns)}"
        if subject not in subjects:
            subjects.append(subject)
    wanted = rng.randrange(documents)
    texts = {}
    for index, subject in enumerate(subjects):
        others = [other for other in subjects if other != subject]
        mentions = rng.sample(others, 2)
        if index != wanted and rng.random() < MISLEADING:
            mentions[rng.randrange(2)] = subjects[wanted]
        verbs = rng.choices(words.verbs, k=2)
        texts[f"p{index}"] = (
            f"Subject: {subject}. It can {verbs[0]} a {rng.choice(words.nouns)}, unlike {mentions[0]}, "
            f"and {verbs[1]} after {mentions[1]}."
        )
    return RankingExample(f"Subject: {subjects[wanted]}", texts, (f"p{wanted}",), str(seed))


def read_ranking_examples(file: str | Path) -> list[RankingExample]:
    """Examples of a `.jsonl` file, one a line: `query`, `documents`, `answer_ids`, and `query_id` where there is one.

    Raises
    ------
    RankingError : the file cannot be read or is empty, or a line is no example or names no relevant document; the
        message says which.
    """
    from farspan.training.data.ranking import RankingError, RankingExample

    path = Path(file)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise RankingError(f"cannot read ranking examples from {path}: {error}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RankingError(f"{path}, line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise RankingError(f"{path}, line {number} is no object with 'query', 'documents' and 'answer_ids'")
        try:
            example = RankingExample.from_dict(row)
        except RankingError as error:
            raise RankingError(f"{path}, line {number}: {error}") from error
        if not example.answers:
            raise RankingError(f"{path}, line {number} names no relevant document; give 'answer_ids'")
        found.append(example)
    if not found:
        raise RankingError(f"{path} holds no ranking example")
    return found


def best_of_bm25(query: str, texts: Mapping[str, str], number: int | None = None) -> dict[str, float]:
    """Scores of the best `number` documents by words in common, the best first; all where left out."""
    import bm25s

    names = list(texts)
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(list(texts.values()), show_progress=False), show_progress=False)
    asked = bm25s.tokenize(query, show_progress=False)
    most = len(names) if number is None else min(number, len(names))
    places, scores = retriever.retrieve(asked, k=most, show_progress=False)
    return {names[place]: float(score) for place, score in zip(places[0].tolist(), scores[0].tolist(), strict=True)}


def ranking_scores(ranked: Sequence[Ranked], answers: Sequence[str]) -> dict[str, float]:
    """`p@1`, `mrr@10` and `ndcg@10` of one ranking; what a first stage left out is lost, not forgotten."""
    from farspan.engine.ranking import ndcg, reciprocal_rank

    return {
        "p@1": float(bool(ranked) and ranked[0].doc_id in answers),
        "mrr@10": reciprocal_rank(ranked, answers),
        "ndcg@10": ndcg(ranked, answers),
    }
