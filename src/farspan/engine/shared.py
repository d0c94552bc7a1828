"""Engines shared by everything in this process that asks for the same model with the same recipe."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from farspan.engine.request import Request, Result
    from farspan.engine.spec import ModelSpec


class SharedEngine(Protocol):
    """What is asked of an engine that is shared, whatever kind of model it runs."""

    tokenizer: PreTrainedTokenizerBase

    @property
    def context_length(self) -> int | None: ...

    async def generate(self, request: Request) -> Result: ...

    def close(self) -> None: ...


class EngineRegistry:
    """Engines by fingerprint; each is loaded once and lives until it is closed here.

    loads : engines loaded so far
    """

    def __init__(self) -> None:
        self.loads = 0
        self._engines: dict[str, SharedEngine] = {}
        self._lock = threading.Lock()

    def get(self, name: str, spec: ModelSpec, load: Callable[[], SharedEngine] | None = None) -> SharedEngine:
        """The engine of this fingerprint; the first call loads it from `spec`, and calls meanwhile wait for it.

        `load` replaces the way it is loaded.
        """
        from farspan.engine.engine import Engine

        with self._lock:
            if name not in self._engines:
                self._engines[name] = Engine.from_spec(spec) if load is None else load()
                self.loads += 1
            return self._engines[name]

    def close(self) -> None:
        """Close all engines and forget them."""
        with self._lock:
            for engine in self._engines.values():
                engine.close()
            self._engines.clear()
