"""Rows in replies: every form of a right answer scores full, order and extra rows count as they should."""

from __future__ import annotations

import json
import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.errors import FarspanError
from farspan.evals.metrics.rows import parse_rows, same_value, says_nothing, score_labels, score_rows

GOLD: list[dict[str, str | int | float | None]] = [
    {"product": "Kelbo Lamp", "stock": 1200, "price": 30.5},
    {"product": "Orsa Bowl", "stock": 77, "price": 4.25},
    {"product": "Tarn Cup", "stock": 5, "price": 12.0},
]
COLUMNS = ["product", "stock", "price"]


def as_json(rows: list[dict[str, str | int | float | None]]) -> str:
    return json.dumps(rows)


def as_table(rows: list[dict[str, str | int | float | None]]) -> str:
    lines = ["| product | stock | price |", "|---|---|---|"]
    return "\n".join([*lines, *("| " + " | ".join(str(v) for v in row.values()) + " |" for row in rows)])


def as_prose(rows: list[dict[str, str | int | float | None]]) -> str:
    said = [f"The {row['product']} has a stock of {row['stock']} and costs {row['price']}." for row in rows]
    return " ".join(said)


def as_list(rows: list[dict[str, str | int | float | None]]) -> str:
    return "Here they are:\n" + "\n".join(f"- {row['product']}: {row['stock']}, {row['price']}" for row in rows)


@pytest.mark.parametrize("form", [as_json, as_table, as_prose, as_list])
def test_right_rows_score_full_in_any_form_and_order(form) -> None:  # type: ignore[no-untyped-def]
    for rows in (GOLD, GOLD[::-1]):
        assert score_rows(form(rows), GOLD, COLUMNS, ordered=False)["score"] == 1.0
    assert score_rows(form(GOLD), GOLD, COLUMNS, ordered=True)["score"] == 1.0
    assert score_rows(form(GOLD[:1]), GOLD, COLUMNS, ordered=False)["score"] == pytest.approx(1 / 3)


def test_json_may_stand_behind_reasoning_and_without_its_bracket() -> None:
    reasoning = 'First {"product": "Wrong"} was read.\nAnswer: ' + as_json(GOLD)
    assert score_rows(reasoning, GOLD, COLUMNS, ordered=False)["exact"] == 1.0
    continued = as_json(GOLD)[1:]
    assert score_rows(continued, GOLD, COLUMNS, ordered=False)["exact"] == 1.0
    single = as_json(GOLD[:1])[1:-1]
    assert score_rows(single, GOLD[:1], COLUMNS, ordered=False)["score"] == 1.0


def test_swapped_rows_of_a_ranking_count_half() -> None:
    swapped = [GOLD[1], GOLD[0]]
    figures = score_rows(as_json(swapped), GOLD[:2], COLUMNS, ordered=True)
    assert figures["score"] == 0.75
    # One of the two keeps its place, the other does not.
    three = score_rows(as_json([GOLD[2], GOLD[0], GOLD[1]]), GOLD, COLUMNS, ordered=True)
    assert three["score"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert score_rows(as_json(swapped), GOLD[:2], COLUMNS, ordered=False)["score"] == 1.0


def test_parts_of_rows_count_half() -> None:
    partly = [{"product": "Kelbo Lamp", "stock": 1}, {"stock": 77, "price": 4.25}, {"price": 12.0}]
    assert score_rows(json.dumps(partly), GOLD, COLUMNS, ordered=False)["score"] == pytest.approx(1 / 3)
    assert score_rows('[{"number": 7}]', [{"number": 8}], ["number"], ordered=False)["score"] == 0.0


def test_extra_rows_cost_precision_alone() -> None:
    more = [*GOLD, {"product": "Made Up", "stock": 1, "price": 1.0}]
    figures = score_rows(as_json(more), GOLD, COLUMNS, ordered=False)
    assert (figures["score"], figures["precision"], figures["rows"], figures["exact"]) == (1.0, 0.75, 4.0, 0.0)
    assert figures["f1"] == pytest.approx(2 * 0.75 / 1.75)


@pytest.mark.parametrize("reply", ["", "   ", "\n"])
def test_silence_scores_nothing(reply: str) -> None:
    assert score_rows(reply, GOLD, COLUMNS, ordered=False)["score"] == 0.0
    assert score_rows(reply, [], [], ordered=False)["score"] == 0.0


@pytest.mark.parametrize(
    "reply", ["No answer.", "[]", "]", "There are no such entries.", "没有答案。", "Keine Antwort."]
)
def test_an_empty_result_must_be_said(reply: str) -> None:
    assert says_nothing(reply)
    assert score_rows(reply, [], [], ordered=False)["score"] == 1.0
    assert score_rows(reply, GOLD, COLUMNS, ordered=False)["score"] == 0.0
    assert score_rows(as_json(GOLD), [], [], ordered=False)["score"] == 0.0


def test_values() -> None:
    assert same_value("1,200", 1200)
    assert same_value("1 200", 1200)
    assert same_value(" **1200** ", 1200)
    assert same_value("1200.0", 1200)
    assert not same_value("1201", 1200)
    assert not same_value("1200 pieces", 1200)
    assert same_value("3.33", 10 / 3)
    assert same_value("3.3", 10 / 3)
    assert not same_value("3", 10 / 3)
    assert not same_value("3.4", 10 / 3)
    assert same_value("12345.6", 12345.67)
    assert same_value("-5", -5)
    assert same_value("  Ｋelbo lamp. ", "Kelbo Lamp")
    assert not same_value("Kelbo", "Kelbo Lamp")
    assert same_value("2021-03-04", "2021-03-04")
    assert all(same_value(text, None) for text in ("", "None", "unknown"))


def test_free_text_needs_whole_words_and_numbers() -> None:
    assert score_rows("It is 12.", [{"n": 12}], ["n"], ordered=False)["score"] == 1.0
    assert score_rows("It is 112.", [{"n": 12}], ["n"], ordered=False)["score"] == 0.0
    assert score_rows("There are 1,200 of them.", [{"n": 1200}], ["n"], ordered=False)["score"] == 1.0
    assert score_rows("Kelbos", [{"n": "Kelbo"}], ["n"], ordered=False)["score"] == 0.0
    assert score_rows("产品是青溪镇", [{"n": "青溪镇"}], ["n"], ordered=False)["score"] == 1.0


def test_labels() -> None:
    assert score_labels(["Exact Match", "Partial Match", "No Match", "No Match"]) == 0.375
    with pytest.raises(FarspanError, match="is no label"):
        score_labels(["Exact"])
    with pytest.raises(FarspanError, match="pseudo row"):
        score_labels([])


row = st.fixed_dictionaries(
    {
        "name": st.text("abcdefgh", min_size=3, max_size=8),
        "count": st.integers(-(10**6), 10**6),
        "share": st.floats(-1000, 1000).map(lambda value: round(value, 3)),
    }
)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(row, min_size=1, max_size=12, unique_by=lambda row: row["name"]), seed=st.integers(0, 99))
def test_any_rows_score_full_in_any_order(rows: list[dict[str, str | int | float | None]], seed: int) -> None:
    mixed = list(rows)
    Random(seed).shuffle(mixed)
    figures = score_rows(json.dumps(mixed), rows, ["name", "count", "share"], ordered=False)
    assert (figures["score"], figures["exact"], figures["precision"]) == (1.0, 1.0, 1.0)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_reply_can_be_read(reply: str) -> None:
    rows, _ = parse_rows(reply)
    assert all(isinstance(cell, str) for row in rows for cell in row)
    assert 0.0 <= score_rows(reply, GOLD, COLUMNS, ordered=True)["score"] <= 1.0


@pytest.mark.timing
def test_ten_thousand_rows_take_little_time() -> None:
    rng = Random(0)
    start = time.process_time()
    for _ in range(200):
        gold: list[dict[str, str | int | float | None]] = [
            {"name": f"name {rng.randrange(10**6)}", "count": rng.randrange(10**6)} for _ in range(50)
        ]
        assert score_rows(json.dumps(gold), gold, ["name", "count"], ordered=False)["score"] == 1.0
    assert time.process_time() - start < 2
