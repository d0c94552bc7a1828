"""Published HoloBench data, made up here in its form."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from farspan.errors import FarspanError
from farspan.evals.rows import RowError
from farspan.evals.tasks.family import score_sample
from farspan.evals.tasks.holo_official import read_holobench, read_tables
from farspan.evals.tasks.holobench import HoloBench


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for table, n in (("grapes", 30), ("wine", 200), ("dummy", 400)):
        rows = [{"ID": i, "Grape": f"grape {i % 7}", "Price": 10 + i} for i in range(n)]
        write(
            tmp_path / "soccer_1" / f"{table}.csv",
            [
                {"verbalized_text": f"In {table}, {i} is {row}.", "table_row": json.dumps(row)}
                for i, row in enumerate(rows)
            ],
        )
    common = {"db_id": "soccer_1", "SQL_COMPONENTS_1": 1, "SQL_COMPONENTS_2": 0, "Other Complexity Factors": 0}
    flags = {"Aggregation": "False", "Max/Min": "False", "Join": "False", "Comparison": "False", "Ranking": "False"}
    write(
        tmp_path / "queries" / "scoccer_1.csv",
        [
            {
                "question": "Which wine costs most?",
                "query": 'SELECT ID, Price FROM wine WHERE Grape != "none" ORDER BY Price DESC LIMIT 1',
                "difficulty": "Easy",
                "query_type": "['Max/Min']",
                **common,
                **flags,
                "Max/Min": "True",
            },
            {
                "question": "Which grapes?",
                "query": "SELECT Grape, COUNT(*) AS n FROM grapes GROUP BY Grape ORDER BY n DESC LIMIT 2",
                "difficulty": "Hard",
                "query_type": "['Ranking']",
                **common,
                **flags,
                "Ranking": "True",
            },
        ],
    )
    return tmp_path


def test_contexts_are_built_in_the_published_way(folder: Path) -> None:
    samples = list(HoloBench.read_published(str(folder), "max_min_easy"))
    assert [sample.length for sample in samples] == [4096, 8192, 16384, 32768, 65536]
    sample = samples[0]
    assert sample.metadata["database"] == "soccer_1"
    assert sample.question.startswith("Question: Which wine costs most?")
    gold = sample.metadata["gold_rows"]
    assert isinstance(gold, list)
    shown = [
        json.loads(line.split(" is ", 1)[1].replace("'", '"').rstrip("."))
        for line in sample.text.splitlines()
        if "wine" in line
    ]
    assert gold == [{"ID": max(row["ID"] for row in shown), "Price": max(row["Price"] for row in shown)}]
    assert score_sample(sample, f"Because it is so.\nAnswer: {json.dumps(gold)}")["score"] == 1.0
    assert score_sample(sample, "Answer: No answer.")["score"] == 0.0
    assert not list(HoloBench.read_published(str(folder), "join_easy"))
    (ranked,) = read_holobench(folder, "ranking_hard", (2000,), info_amount=200, official=False)
    assert ranked.metadata["ordered"]
    assert not ranked.metadata["exhausted"]
    assert len(set(ranked.text.splitlines())) == ranked.text.count("\n")
    assert set(read_tables(folder, "soccer_1")) == {"dummy", "grapes", "wine"}


def test_incomplete_copies_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RowError, match="no folder 'queries'"):
        list(HoloBench.read_published(str(tmp_path / "elsewhere"), "join_easy"))
    with pytest.raises(RowError, match="holds no CSV files"):
        read_tables(folder, "wine_1")
    write(folder / "queries" / "wine_1.csv", [{"question": "?", "query": "SELECT 1"}])
    with pytest.raises(RowError, match="has no column 'db_id'"):
        list(HoloBench.read_published(str(folder), "join_easy"))
    write(
        folder / "queries" / "wine_1.csv",
        [{"question": "?", "query": "SELECT 1", "db_id": "wine_1", "difficulty": "Easy", "query_type": "Join"}],
    )
    with pytest.raises(FarspanError, match="list of names"):
        list(HoloBench.read_published(str(folder), "join_easy"))
