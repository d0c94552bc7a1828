"""Farspan measures how far a language model really reads its context, and makes it read farther, faster and cheaper.

Importing this package loads neither torch nor transformers: rooms and names are resolved when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farspan import attention as attention
    from farspan import engine as engine
    from farspan import evals as evals
    from farspan import positions as positions
    from farspan import profiling as profiling
    from farspan import systems as systems
    from farspan import training as training
    from farspan import tuning as tuning
    from farspan.evals import evaluate as evaluate
    from farspan.models import load as load
    from farspan.recipe import Lever as Lever
    from farspan.recipe import Recipe as Recipe

__version__ = "0.1.0"

_ROOMS = ("attention", "engine", "evals", "models", "positions", "profiling", "report", "systems", "training", "tuning")
_NAMES = {
    "Lever": "farspan.recipe",
    "Recipe": "farspan.recipe",
    "evaluate": "farspan.evals",
    "load": "farspan.models",
}

__all__ = ["Lever", "Recipe", "__version__", "evaluate", "load", *_ROOMS]


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return importlib.import_module(f"farspan.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'farspan' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
