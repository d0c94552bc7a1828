"""The cache folder of measurements: small JSON files that may be lost at any time."""

from __future__ import annotations

import json
import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder of things worth keeping between processes: FARSPAN_CACHE, or ~/.cache/farspan."""
    return Path(os.environ.get("FARSPAN_CACHE") or Path.home() / ".cache" / "farspan")


def read_json(name: str) -> object:
    """What a file of the folder holds, or None where there is no such file or it is damaged."""
    try:
        return json.loads((cache_folder() / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_json(name: str, content: dict[str, object]) -> None:
    """Keep a measurement; a folder that cannot be written only means measuring again next time."""
    path = cache_folder() / name
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(content, indent=2), encoding="utf-8")
        draft.replace(path)
    except OSError:
        return
