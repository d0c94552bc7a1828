"""Fixtures for tests of every room."""

from __future__ import annotations

import pytest

from farspan import recipe
from tests.toys import TOYS


@pytest.fixture
def toy_levers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy levers stand in the table, as if built in; levers of installed packages do not."""
    for name, place in TOYS.items():
        monkeypatch.setitem(recipe.LEVERS, name, place)
    monkeypatch.setattr(recipe, "lever_table", lambda: dict(recipe.LEVERS))
