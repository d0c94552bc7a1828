"""Generation with a recipe switched on: batching, prefix reuse, token accounting, and the Inspect provider.

This room owns a loaded model for as long as an engine lives and turns token ids into token ids. It knows nothing of
tasks and scores, and it changes no model: levers are switched on by the caller or by `Engine.from_spec`. Names are
resolved when first used, so that registering the provider loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farspan.engine.engine import Engine as Engine
    from farspan.engine.engine import EngineStats as EngineStats
    from farspan.engine.request import Request as Request
    from farspan.engine.request import RequestError as RequestError
    from farspan.engine.request import Result as Result
    from farspan.engine.request import TokenLogprob as TokenLogprob
    from farspan.engine.request import Usage as Usage
    from farspan.engine.spec import ModelSpec as ModelSpec
    from farspan.engine.spec import fingerprint as fingerprint

_NAMES = {
    "Engine": "engine",
    "EngineStats": "engine",
    "ModelSpec": "spec",
    "Request": "request",
    "RequestError": "request",
    "Result": "request",
    "TokenLogprob": "request",
    "Usage": "request",
    "fingerprint": "spec",
}

__all__ = [
    "Engine",
    "EngineStats",
    "ModelSpec",
    "Request",
    "RequestError",
    "Result",
    "TokenLogprob",
    "Usage",
    "fingerprint",
]


def __getattr__(name: str) -> object:
    if name in _NAMES:
        return getattr(importlib.import_module(f"farspan.engine.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'farspan.engine' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
