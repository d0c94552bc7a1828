"""Tiny models of the attention room's tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements of a test are its own."""
    monkeypatch.setenv("FARSPAN_CACHE", str(tmp_path / "cache"))
