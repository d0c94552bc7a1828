"""Choosing and merging rows: our way keeps its promises, the published way its traps."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.errors import FarspanError
from farspan.evals.tasks.holo_context import (
    STRATEGIES,
    Line,
    char_token_estimate,
    load_context,
    merge_contexts,
    merge_order,
)
from farspan.evals.tasks.holo_sql import QueryError, run_query, tables_read


def lines(table: str, n: int) -> list[Line]:
    colours = ["red" if i % 3 else "blue" for i in range(n)]
    texts = [f"In {table}, id is {i}; colour is {colour}." for i, colour in enumerate(colours)]
    return [Line(text, {"id": i, "colour": colours[i]}) for i, text in enumerate(texts)]


TABLES = {"lamp": lines("lamp", 40), "chair": lines("chair", 60), "note": lines("note", 200)}
QUERY = "SELECT colour, COUNT(*) AS n FROM lamp GROUP BY colour ORDER BY colour"


@settings(max_examples=200, deadline=None)
@given(m=st.integers(0, 40), a=st.integers(0, 40), strategy=st.sampled_from(STRATEGIES), official=st.booleans())
def test_merging_keeps_everything_in_order(m: int, a: int, strategy: str, official: bool) -> None:
    main, aux = [f"m{i}" for i in range(m)], [f"a{i}" for i in range(a)]
    merged, indices = merge_contexts(main, aux, strategy, official)
    assert [merged[index] for index in indices] == main
    assert [text for text in merged if text.startswith("a")] == aux
    assert len(merged) == m + a
    assert indices == sorted(indices)


def test_fixed_strategies_split_what_they_say() -> None:
    def places(strategy: str, official: bool) -> list[int]:
        return [place for place, (matters, _) in enumerate(merge_order(4, 20, strategy, official)) if matters]

    assert places("middle", False) == [10, 11, 12, 13]
    assert places("middle", True) == [2, 3, 4, 5]
    assert places("bimodal", False) == [0, 1, 22, 23]
    assert places("bimodal", True) == [0, 1, 2, 3]
    assert places("begin", False) == [0, 1, 2, 3]
    assert places("end", False) == [20, 21, 22, 23]
    assert places("uniform", False) == [5, 11, 17, 23]


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(60, 2500),
    density=st.floats(0, 1),
    strategy=st.sampled_from(STRATEGIES),
    seed=st.one_of(st.none(), st.integers(0, 5)),
)
def test_our_way_keeps_its_promises(size: int, density: float, strategy: str, seed: int | None) -> None:
    found = load_context(QUERY, TABLES, size, density, merge_strategy=strategy, counter=len, seed=seed)
    assert len(found.text) <= size
    assert len(set(found.lines)) == len(found.lines)
    assert {found.rows[index][0] for index in found.main_indices} <= {"lamp"}
    assert len(found.main_indices) == sum(name == "lamp" for name, _ in found.rows)
    longest = max(len(line.text) + 1 for line in TABLES["lamp"])
    budget = int(size * density)
    assert found.n_main_tokens <= budget
    assert found.n_main_tokens > budget - longest or len(found.main_indices) == 40
    rows = [TABLES["lamp"][index].row for name, index in found.rows if name == "lamp"]
    assert list(found.gold_rows) == run_query(QUERY, {"lamp": rows}, columns={"lamp": ["id", "colour"]})


def test_place_and_other_rows_never_change_the_answer() -> None:
    gold = {
        (strategy, size): load_context(
            QUERY, TABLES, size, info_amount=600, merge_strategy=strategy, counter=len, seed=1
        )
        for strategy in STRATEGIES
        for size in (1000, 3000)
    }
    assert len({str(found.gold_rows) for found in gold.values()}) == 1
    assert len({found.text for found in gold.values()}) > 5
    more = load_context(QUERY, TABLES, 3000, info_amount=1200, counter=len, seed=1)
    assert sum(int(str(row["n"])) for row in more.gold_rows) == len(more.main_indices)
    assert sum(int(str(row["n"])) for row in more.gold_rows) > len(gold["uniform", 1000].main_indices)


def test_tables_that_run_out_are_said_to() -> None:
    found = load_context(QUERY, TABLES, 100_000, info_amount=50_000, counter=len, seed=0)
    assert found.exhausted
    assert len(found.lines) == 300
    everything = load_context("SELECT COUNT(*) AS n FROM lamp, chair, note", TABLES, 900, counter=len, seed=0)
    assert len(everything.main_indices) == len(everything.lines)


def test_the_published_way_has_its_traps() -> None:
    doubled = load_context(QUERY, TABLES, 3000, info_amount=1500, official=True)
    assert doubled.exhausted
    assert len(set(doubled.lines)) < len(doubled.lines)
    thinned = load_context(QUERY, TABLES, 1000, info_density=0.5, official=True)
    assert thinned.n_aux_tokens > 900
    with pytest.raises(FarspanError, match="never ends"):
        load_context("SELECT COUNT(*) AS n FROM lamp, chair, note", TABLES, 900, official=True)


def test_refusals() -> None:
    with pytest.raises(FarspanError, match="position is one of uniform, begin"):
        load_context(QUERY, TABLES, 900, merge_strategy="sideways")
    with pytest.raises(FarspanError, match="more than the context"):
        load_context(QUERY, TABLES, 900, info_amount=1000)
    with pytest.raises(FarspanError, match="from 0 to 1"):
        load_context(QUERY, TABLES, 900, info_density=1.5)
    with pytest.raises(QueryError, match="reads no table"):
        load_context("SELECT 1", TABLES, 900)
    for bad in (
        "DELETE FROM lamp",
        "DROP TABLE lamp",
        "SELECT 1; SELECT 2",
        "SELECT * FROM shelf",
        "PRAGMA user_version",
    ):
        with pytest.raises(QueryError):
            load_context(bad, TABLES, 900)
    with pytest.raises(FarspanError, match="JSON object"):
        Line.read("text", "[1]")
    with pytest.raises(FarspanError, match="JSON object"):
        Line.read("text", "{")
    assert char_token_estimate("") == 1


def test_engines_agree_and_resolve_names() -> None:
    columns = {"lamp": ["id", "colour"], "chair": ["id", "colour"]}
    assert tables_read('SELECT * FROM "Lamp" l JOIN chair ON l.id = chair.id', columns) == {"lamp", "chair"}
    assert tables_read("WITH lit AS (SELECT id FROM lamp) SELECT COUNT(*) FROM lit", columns) == {"lamp"}
    rows = {name: [line.row for line in TABLES[name]] for name in columns}
    for query in (
        QUERY,
        "SELECT l.id AS lamp, c.id AS chair FROM lamp l JOIN chair c ON l.id = c.id WHERE l.colour = 'blue' "
        "ORDER BY l.id",
        "SELECT AVG(CAST(id AS DOUBLE PRECISION)) AS mean, SUM(id) AS total, MAX(colour) AS last FROM chair",
        "SELECT id FROM lamp WHERE id > 100",
    ):
        assert run_query(query, rows, "sqlite") == run_query(query, rows, "duckdb")
    assert run_query("SELECT id FROM lamp", {"lamp": []}, "duckdb", {"lamp": ["id"]}) == []
    for engine in ("sqlite", "duckdb"):
        with pytest.raises(QueryError, match="give one SELECT"):
            run_query("INSERT INTO lamp VALUES (1, 'x')", rows, engine)  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="engine is one of"):
        run_query(QUERY, rows, "postgres")  # type: ignore[arg-type]
