"""Stand-ins of the published files of document benchmarks: a few rows each in the published forms, texts our own."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

TEXT = "The mill by the river burned down in 1871. Ada Winter built it again with her brother. " * 6
ZH_TEXT = "小说讲述了林小雨的故事。她离开山村去城市，经历挫折，最后回到家乡办学。" * 6


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_zip(path: Path, member: str, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path
