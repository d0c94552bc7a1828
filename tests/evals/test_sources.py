"""Finding and reading published files: folders first, bounded memory, messages that say what to do."""

from __future__ import annotations

import json
import re
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from farspan.evals.documents import benchmark
from farspan.evals.sources import (
    DATA_VARIABLE,
    DataFile,
    DataFileError,
    MissingDataError,
    file_sha256,
    hub_commit,
    iter_json_array,
    iter_jsonl,
    known_sha256,
    resolve_file,
)
from farspan.evals.tasks import DOCUMENTS

FILE = DataFile("org/set", "part/rows.jsonl", revision="abc", size=12_500_000)


def put(path: Path, text: str = '{"a": 1}\n') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_named_folder_comes_before_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_variable = put(tmp_path / "v" / "part" / "rows.jsonl")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "v"))
    assert resolve_file(FILE) == by_variable
    plain = put(tmp_path / "d" / "part" / "rows.jsonl")
    assert resolve_file(FILE, tmp_path / "d") == plain
    by_repository = put(tmp_path / "d" / "org__set" / "part" / "rows.jsonl")
    assert resolve_file(FILE, tmp_path / "d") == by_repository


def test_other_names_are_accepted(tmp_path: Path) -> None:
    found = put(tmp_path / "old.jsonl")
    assert resolve_file(DataFile("org/set", "new.jsonl", other_names=("old.jsonl",)), tmp_path) == found


def test_a_missing_file_says_what_to_download_and_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError) as caught:
        resolve_file(FILE, tmp_path)
    message = str(caught.value)
    for part in ("part/rows.jsonl", "12.5 MB", "org/set", "--revision abc", str(tmp_path), "--data-dir", DATA_VARIABLE):
        assert part in message
    assert "\n" not in message


def test_offline_the_hub_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    with pytest.raises(MissingDataError, match="HF_HUB_OFFLINE"):
        resolve_file(DataFile("no-such-org/no-such-set", "x.jsonl"))


def test_another_hash_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "x.jsonl")
    right = DataFile("org/set", "x.jsonl", sha256=file_sha256(path))
    assert resolve_file(right, tmp_path) == path
    path.write_text("{}\n", encoding="utf-8")
    with pytest.raises(DataFileError, match="is not the published"):
        resolve_file(right, tmp_path)


def test_another_hash_of_a_file_that_may_differ_is_read(tmp_path: Path) -> None:
    path = put(tmp_path / "x.jsonl")
    assert resolve_file(DataFile("org/set", "x.jsonl", sha256="0" * 64, strict=False), tmp_path) == path


def test_hashes_are_read_once_and_again_where_a_file_changed(tmp_path: Path) -> None:
    path = put(tmp_path / "x.jsonl")
    assert known_sha256(path) == known_sha256(path) == file_sha256(path)
    path.write_text('{"b": 22}\n', encoding="utf-8")
    assert known_sha256(path) == file_sha256(path)


def test_the_commit_of_a_file_in_the_cache_of_the_hub_is_told(tmp_path: Path) -> None:
    cached = put(tmp_path / "datasets--org--set" / "snapshots" / "abc123" / "part" / "rows.jsonl")
    assert hub_commit(cached) == "abc123"
    assert hub_commit(tmp_path / "part" / "rows.jsonl") == ""


def test_a_file_under_another_name_is_found_in_the_cache_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    folder = tmp_path / "datasets--org--set"
    cached = put(folder / "snapshots" / "a1" / "old.jsonl")
    put(folder / "refs" / "main", "a1")
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert resolve_file(DataFile("org/set", "new.jsonl", other_names=("old.jsonl",))) == cached


def test_pinned_files_name_whole_commits_and_hashes() -> None:
    for name in DOCUMENTS:
        made = benchmark(name)
        for file in {file for dataset in made.datasets.values() for file in made.files(dataset)}:
            assert file.revision == "main" or re.fullmatch("[0-9a-f]{40}", file.revision), file
            assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256), file


def test_members_of_archives_are_found_by_the_end_of_their_path(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("deep/in/it/rows.jsonl", '{"a": 1}\n\n{"a": 2}\n')
        archive.writestr("deep/other_rows.jsonl", '{"a": 3}\n')
    assert [row["a"] for row in iter_jsonl(tmp_path / "a.zip", "rows.jsonl")] == [1, 2]
    with pytest.raises(DataFileError, match="no members named"):
        list(iter_jsonl(tmp_path / "a.zip", "missing.jsonl"))
    with pytest.raises(DataFileError, match="no readable zip"):
        list(iter_jsonl(put(tmp_path / "b.zip", "no zip"), "rows.jsonl"))


@pytest.mark.parametrize(
    ("text", "message"), [('{"a": 1}\n{"a"\n', "line 2 is no JSON"), ("[1]\n", "line 1 is no object but list")]
)
def test_broken_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataFileError, match=message):
        list(iter_jsonl(put(tmp_path / "x.jsonl", text)))


def test_arrays_are_read_element_by_element(tmp_path: Path) -> None:
    rows = [{"id": index, "context": "long text " * 2000, "share": 0.5} for index in range(200)]
    path = put(tmp_path / "x.json", json.dumps(rows))
    tracemalloc.start()
    assert sum(1 for _ in iter_json_array(path)) == 200
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < path.stat().st_size / 4
    assert next(iter_json_array(path)) == rows[0]
    with pytest.raises(DataFileError, match="no JSON array"):
        list(iter_json_array(put(tmp_path / "y.json", '[{"a": 1}, {"b"')))
