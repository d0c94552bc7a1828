"""Engines shared by everything in this process that asks for the same model with the same recipe."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farspan.engine.engine import Engine
    from farspan.engine.spec import ModelSpec


class EngineRegistry:
    """Engines by fingerprint; each is loaded once and lives until it is closed here.

    loads : engines loaded so far
    """

    def __init__(self) -> None:
        self.loads = 0
        self._engines: dict[str, Engine] = {}
        self._lock = threading.Lock()

    def get(self, name: str, spec: ModelSpec) -> Engine:
        """The engine of this fingerprint; the first call loads it from `spec`, and calls meanwhile wait for it."""
        from farspan.engine.engine import Engine

        with self._lock:
            if name not in self._engines:
                self._engines[name] = Engine.from_spec(spec)
                self.loads += 1
            return self._engines[name]

    def close(self) -> None:
        """Close all engines and forget them."""
        with self._lock:
            for engine in self._engines.values():
                engine.close()
            self._engines.clear()
