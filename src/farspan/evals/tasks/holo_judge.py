"""A judge for rows: a second model splits a reply into reasoning and answer, then labels each right row.

Only the steps are here, not the model: they are given a function that asks it. The prompts are our own.

Source: arXiv 2410.11996, section 3.5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence

from farspan.evals.metrics.rows import MOST_GOLD, WEIGHTS, Value, score_labels

SPLIT = """A model was asked a question about a set of entries and replied as below. Separate its reply into
the reasoning and the final answer. Reply with one JSON object with the keys "reasoning" and "answer", both texts.
Copy, do not correct.

Reply of the model:
{reply}
"""

LABEL = """Compare an answer with the right rows of a table, one by one.

Question: {question}

Answer to be checked:
{answer}

Right rows, each with its number:
{rows}

For every row say "Exact Match" if the answer holds all of its values, "Partial Match" if it holds some that single
the row out, and "No Match" otherwise. Rows of the answer that are not among the right ones do not matter.{empty}
Reply with one JSON object from row numbers to labels.
"""

EMPTY = """ There is no right row: give row 0 the label "Exact Match" if the answer says that there is nothing, else
"No Match"."""


async def judge_rows(
    question: str, output: str, gold: Sequence[Mapping[str, Value]], ask: Callable[[str], Awaitable[str]]
) -> dict[str, float]:
    """Score a reply by asking a judge twice.

    Returns
    -------
    `score`, and `unread`: the share of rows for which the judge gave no known label; these count as not matched.
    """
    split = _object(await ask(SPLIT.format(reply=output)))
    answer = str(split.get("answer") or output)
    rows = {index: dict(row) for index, row in enumerate(gold[:MOST_GOLD])} or {0: {}}
    listed = "\n".join(f"{index}: {json.dumps(row, ensure_ascii=False)}" for index, row in rows.items())
    prompt = LABEL.format(question=question.strip(), answer=answer, rows=listed, empty="" if gold else EMPTY)
    given = _object(await ask(prompt))
    known = {name.lower(): name for name in WEIGHTS}
    labels = [known.get(str(given.get(str(index), "")).strip().lower(), "") for index in rows]
    score = score_labels([label or "No Match" for label in labels])
    return {"score": score, "unread": labels.count("") / len(labels)}


def _object(reply: str) -> dict[str, object]:
    """The first JSON object of a reply; empty if there is none."""
    for match in re.finditer(r"\{", reply):
        try:
            value, _ = json.JSONDecoder().raw_decode(reply, match.start())
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict):
            return {str(name): part for name, part in value.items()}
    return {}


def agreement(scores: Sequence[float], judged: Sequence[float]) -> dict[str, float]:
    """How far scores by rules and by a judge agree: share of equal ones, mean difference, and number."""
    pairs = list(zip(scores, judged, strict=True))
    if not pairs:
        return {"equal": 0.0, "difference": 0.0, "n": 0.0}
    equal = sum(abs(one - other) < 0.05 for one, other in pairs) / len(pairs)
    return {"equal": equal, "difference": sum(other - one for one, other in pairs) / len(pairs), "n": float(len(pairs))}
