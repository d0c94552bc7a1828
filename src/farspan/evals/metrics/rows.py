"""Rows of a table in a reply, compared with the right ones: labels, recall, precision, without a judge.

Source: arXiv 2410.11996, section 3.5 (labels and their weights); the rules that replace the judge are our own.
"""

from __future__ import annotations

import json
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Literal

from farspan.errors import FarspanError

Label = Literal["Exact Match", "Partial Match", "No Match"]
WEIGHTS: dict[str, float] = {"Exact Match": 1.0, "Partial Match": 0.5, "No Match": 0.0}
Value = str | int | float | None
PredictedRow = list[str]

MOST_GOLD, MOST_PREDICTED = 50, 400
NOTHING = (
    "no answer",
    "none",
    "nothing",
    "no such",
    "no entries",
    "no rows",
    "there are no",
    "there is no",
    "no results",
    "[]",
    "keine",
    "nichts",
    "ninguno",
    "ninguna",
    "no hay",
    "没有",
    "无",
    "不存在",
)
NULLS = ("", "none", "unknown", "null", "n/a", "unbekannt", "desconocido", "未知")

_STRICT = re.compile(r"[-+]?(?:\d+|\d{1,3}(?:[,'\u202f\u00a0 ]\d{3})+)(?:\.\d+)?")
_ANYWHERE = re.compile(r"[-+]?\d{1,3}(?:[,'\u202f\u00a0]\d{3})+(?:\.\d+)?|[-+]?\d+(?:\.\d+)?")
_EDGES = " \t\r\n.,;:!?\"'`“”‘’«»()[]{}*_#。,;:!?「」"
_BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-ZÄÖÜ])|[。!?]")


def score_labels(labels: Sequence[str]) -> float:
    """Mean weight of labels: 1 for an exact, 0.5 for a partial, 0 for no match.

    Raises
    ------
    FarspanError : no labels, or an unknown one.
    """
    if not labels:
        raise FarspanError("no labels given; empty results have one pseudo row")
    unknown = [label for label in labels if label not in WEIGHTS]
    if unknown:
        raise FarspanError(f"'{unknown[0]}' is no label; there are: {', '.join(WEIGHTS)}")
    return sum(WEIGHTS[label] for label in labels) / len(labels)


def score_rows(
    prediction: str,
    gold_rows: Sequence[Mapping[str, Value]],
    columns: Sequence[str],
    ordered: bool,
    k: int = MOST_GOLD,
) -> dict[str, float]:
    """Compare the rows of a reply with the right ones.

    Parameters
    ----------
    prediction : a reply with JSON objects, a table, a list, or sentences
    gold_rows : the right rows; the first `k` count
    columns : their columns
    ordered : whether the order matters

    Returns
    -------
    `score` is the mean weight of the labels (extra rows cost nothing); `precision` of the predicted rows, `f1`, `rows`
    predicted, and `exact` (all rows right and none too many) stand beside it.
    """
    gold = [[row.get(column) for column in columns] for row in gold_rows[:k]]
    predicted, free = parse_rows(prediction)
    if not gold:
        empty = not predicted and says_nothing(prediction)
        return {**_figures([float(empty)], len(predicted), float(empty)), "exact": float(empty)}
    matches = _match(gold, predicted, free)
    labels = ["No Match"] * len(gold)
    for index, (place, hits) in enumerate(matches):
        if place >= 0:
            labels[index] = _label(gold[index], hits)
    if ordered:
        exact = [index for index, label in enumerate(labels) if label == "Exact Match"]
        kept = _longest_increasing([matches[index][0] for index in exact])
        for position, index in enumerate(exact):
            if position not in kept:
                labels[index] = "Partial Match"
    weights = [WEIGHTS[label] for label in labels]
    everything = all(label == "Exact Match" for label in labels) and len(predicted) == len(gold)
    return {**_figures(weights, len(predicted), sum(weights)), "exact": float(everything)}


def _figures(weights: Sequence[float], predicted: int, right: float) -> dict[str, float]:
    recall = sum(weights) / len(weights)
    precision = min(1.0, right / predicted) if predicted else recall
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"score": recall, "precision": precision, "f1": f1, "rows": float(predicted)}


# -- reading ---------------------------------------------------------------------------------------------------------


def says_nothing(prediction: str) -> bool:
    """Whether a reply says that there is no answer; an empty one says nothing at all."""
    text = unicodedata.normalize("NFKC", prediction).casefold().strip()
    return bool(text) and (text == "]" or any(phrase in text for phrase in NOTHING))


def parse_rows(prediction: str) -> tuple[list[PredictedRow], bool]:
    """The rows of a reply as lists of texts, and whether they are free text.

    The last run of JSON objects or lists counts; without one a table with bars; without one lines or sentences.
    """
    objects = _json_rows(prediction)
    if objects is not None:
        return objects[:MOST_PREDICTED], False
    table = [line for line in prediction.splitlines() if line.count("|") >= 2 or line.strip().startswith("|")]
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table]
    rows = [row for row in rows if not all(set(cell) <= set("-: ") for cell in row)]
    if len(rows) >= 2:
        return rows[1:][:MOST_PREDICTED], False
    lines = [_BULLET.sub("", line).strip() for line in prediction.splitlines() if line.strip()]
    if len(lines) == 1:
        lines = [part.strip() for part in _SENTENCE.split(lines[0]) if part and part.strip()]
    if len(lines) == 1 and says_nothing(prediction):
        lines = []
    return [[line] for line in lines if line.strip(_EDGES)][:MOST_PREDICTED], True


def _json_rows(text: str) -> list[PredictedRow] | None:
    """Rows of the last run of JSON values that are joined by commas and spaces at most."""
    decoder, place = json.JSONDecoder(), 0
    runs: list[tuple[int, list[object]]] = []
    while place < len(text):
        if text[place] not in "[{":
            place += 1
            continue
        try:
            value, end = decoder.raw_decode(text, place)
        except json.JSONDecodeError:
            place += 1
            continue
        if runs and not text[runs[-1][0] : place].strip(" \t\r\n,"):
            runs[-1] = (end, [*runs[-1][1], value])
        else:
            runs.append((end, [value]))
        place = end
    if not runs:
        return None
    values = runs[-1][1]
    if len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    rows = [_flat(value) for value in values]
    return [row for row in rows if row]


def _flat(value: object) -> PredictedRow:
    if isinstance(value, Mapping):
        return [text for part in value.values() for text in _flat(part)]
    if isinstance(value, list):
        return [text for part in value for text in _flat(part)]
    return [""] if value is None else [json.dumps(value) if isinstance(value, bool) else str(value)]


# -- comparing -------------------------------------------------------------------------------------------------------


def same_value(predicted: str, gold: Value) -> bool:
    """Whether a text is a value: equal words, equal whole numbers, close decimals, equal dates."""
    return _same(_read(predicted), _normal(gold) if isinstance(gold, str) else gold)


Cell = tuple[str, "tuple[float, int] | None"]
"""A predicted value as text, and as a number with its decimals."""


def _read(predicted: str) -> Cell:
    return _normal(predicted), _number(predicted)


def _same(predicted: Cell, gold: Value) -> bool:
    """`same_value` on values that are normalised already."""
    text, number = predicted
    if isinstance(gold, str):
        return text == gold
    if gold is None:
        return text in NULLS
    return number is not None and _close(number[0], number[1], gold)


def _close(value: float, decimals: int, gold: float) -> bool:
    if isinstance(gold, int):
        return value == gold
    if abs(value - gold) <= max(0.005, 1e-4 * abs(gold)) + 1e-12:
        return True
    return decimals >= 1 and round(gold, decimals) == value


def _number(text: str) -> tuple[float, int] | None:
    """A number and its decimals; separators of thousands are dropped, units behind it are not looked at."""
    stripped = unicodedata.normalize("NFKC", text).strip(_EDGES.replace("-", ""))
    if not _STRICT.fullmatch(stripped):
        return None
    plain = re.sub(r"[,'\u202f\u00a0 ]", "", stripped)
    return float(plain), len(plain.partition(".")[2])


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_EDGES)


def _inside(line: str, gold: Value) -> bool:
    """Whether a value stands in a line of free text."""
    if gold is None:
        return any(word in line for word in NULLS if word)
    if isinstance(gold, str):
        wanted = _normal(gold)
        if not wanted.isascii():
            return wanted in line
        return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", line) is not None
    for run in _ANYWHERE.findall(line):
        number = _number(run)
        if number is not None and _close(number[0], number[1], gold):
            return True
    return False


def _hits(gold: Sequence[Value], row: Sequence[Cell]) -> list[bool]:
    """Which values of a gold row a predicted one holds; no predicted value counts twice."""
    left, found = list(row), []
    for value in gold:
        place = next((i for i, cell in enumerate(left) if _same(cell, value)), None)
        if place is not None:
            del left[place]
        found.append(place is not None)
    return found


def _match(
    gold: Sequence[Sequence[Value]], predicted: Sequence[PredictedRow], free: bool
) -> list[tuple[int, list[bool]]]:
    """For each gold row a predicted one, used once, and what it holds; best pairs first, ties in order."""
    if free:
        lines = [" ".join(unicodedata.normalize("NFKC", row[0]).casefold().split()) for row in predicted]
        table = [[[_inside(line, value) for value in row] for line in lines] for row in gold]
    else:
        cells = [[_read(text) for text in row] for row in predicted]
        normal = [[_normal(value) if isinstance(value, str) else value for value in row] for row in gold]
        table = [[_hits(row, other) for other in cells] for row in normal]
    pairs = sorted(
        (-sum(hits), -_identifying(gold[g], hits), g, p)
        for g, line in enumerate(table)
        for p, hits in enumerate(line)
        if any(hits)
    )
    matched: list[tuple[int, list[bool]]] = [(-1, [])] * len(gold)
    used: set[int] = set()
    for _, _, g, p in pairs:
        if matched[g][0] < 0 and p not in used:
            matched[g] = (p, table[g][p])
            used.add(p)
    return matched


def _identifying(gold: Sequence[Value], hits: Sequence[bool]) -> int:
    return sum(hit for value, hit in zip(gold, hits, strict=True) if isinstance(value, str))


def _label(gold: Sequence[Value], hits: Sequence[bool]) -> Label:
    if all(hits):
        return "Exact Match"
    return "Partial Match" if _identifying(gold, hits) or 2 * sum(hits) >= len(gold) else "No Match"


def _longest_increasing(places: Sequence[int]) -> set[int]:
    """Positions of a longest increasing subsequence."""
    ends: list[int] = []
    tails: list[int] = []
    before: list[int] = []
    for position, place in enumerate(places):
        at = bisect_left(ends, place)
        before.append(tails[at - 1] if at else -1)
        if at == len(ends):
            ends.append(place)
            tails.append(position)
        else:
            ends[at], tails[at] = place, position
    kept: set[int] = set()
    position = tails[-1] if tails else -1
    while position >= 0:
        kept.add(position)
        position = before[position]
    return kept
