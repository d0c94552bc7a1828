"""The published grid, and published records read as samples."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from farspan.errors import FarspanError
from farspan.evals.generate import TokenCounter
from farspan.evals.tasks.needle_threading import NeedleThreading
from farspan.evals.tasks.needle_threading_paper import paper_grid, quick_grid, read_official
from farspan.evals.tasks.uuid_threads import serialize, uuid_haystack

RECORD = {
    "id": 5,
    "haystack": serialize(uuid_haystack(0, 25)),
    "keys": "247a8333-f7b0-b7d2-cda8-056c3d15eef7",
    "values": "1759edc3-72ae-2244-8b01-63c1cd9d2b7d",
    "question": "Which value has this key?",
    "context_length": 2000,
    "num_kv_pairs": 25,
    "repeat_number": 0,
    "needle_depth": "50",
    "num_needles": 1,
    "needle_placement": "depthwise",
    "conditional_character": "N/A",
    "thread_length": 1,
    "thread_direction": "N/A",
    "num_threads": 0,
}


def test_grid_has_the_published_size_and_leaves_out_the_impossible() -> None:
    cells = Counter(cell.task for cell in paper_grid())
    assert cells["single"] == 12 * 11 * 5
    assert cells["multi"] == cells["conditional"] == 12 * 9 * 2 * 5
    assert cells["thread"] == 12 * 180
    shortest = [cell for cell in paper_grid((2000,), repeats=1) if cell.task == "multi_thread"]
    assert len(shortest) == (20 - 3) * 3
    assert len(quick_grid()) == 4 * 5 * 3


def test_every_cell_of_the_shortest_length_can_be_built(byte_counter: TokenCounter) -> None:
    family = NeedleThreading(byte_counter)
    for cell in paper_grid((2000,), repeats=1):
        sample = family.sample(cell.task, cell.length, cell.index, 0, **cell.knobs)
        assert len(sample.text) == 2001
        assert family.solve(sample) == sample.answers


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
def test_records_are_read_from_every_form(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"Single_Needle.{suffix}"
    if suffix == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist([RECORD]), path)
    else:
        path.write_text(json.dumps([RECORD] if suffix == "json" else RECORD), encoding="utf-8")
    (sample,) = read_official(path)
    assert sample.task == "single"
    assert sample.depth == 50.0
    assert sample.answers == [RECORD["values"]]
    assert sample.metadata["raw"] == {key: value for key, value in RECORD.items() if key != "haystack"}
    assert NeedleThreading.score(sample, f'"{RECORD["values"]}"') == 1.0


def test_lists_of_values_are_read_in_every_spelling(tmp_path: Path) -> None:
    values = ["1759edc3-72ae-2244-8b01-63c1cd9d2b7d", "f728b4fa-4248-5e3a-0a5d-2f346baa9455"]
    path = tmp_path / "Multiple_Needles.json"
    for spelling in (values, json.dumps(values), str(values), ", ".join(values)):
        path.write_text(json.dumps([{**RECORD, "values": spelling}]), encoding="utf-8")
        (sample,) = read_official(path)
        assert sample.answers == values
        assert sample.answer_kind == "all_required"


def test_unusable_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("[{}]", encoding="utf-8")
    with pytest.raises(FarspanError, match="name the task"):
        read_official(path)
    with pytest.raises(FarspanError, match="no field"):
        read_official(path, "single")
    path.write_text("{not json", encoding="utf-8")
    with pytest.raises(FarspanError, match="neither a JSON array"):
        read_official(path, "single")
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(FarspanError, match="no object"):
        read_official(path, "single")
    with pytest.raises(FarspanError, match="cannot read"):
        read_official(tmp_path / "missing.parquet", "single")
