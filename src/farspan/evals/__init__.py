"""Measures of quality: generated tasks, effective context length, loss by position.

Names are resolved when first used, so that reading a table of tasks loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farspan.evals.core import PROBES as PROBES
    from farspan.evals.core import SUITES as SUITES
    from farspan.evals.core import Probe as Probe
    from farspan.evals.effective import EffectiveLength as EffectiveLength
    from farspan.evals.effective import ScoreRecord as ScoreRecord
    from farspan.evals.effective import compare_effective_lengths as compare_effective_lengths
    from farspan.evals.effective import effective_length as effective_length
    from farspan.evals.evaluation import Evaluation as Evaluation
    from farspan.evals.evaluation import TaskResult as TaskResult
    from farspan.evals.perception import Perception as Perception
    from farspan.evals.perception import local_perception as local_perception
    from farspan.evals.run import evaluate as evaluate
    from farspan.evals.scale_sweep import ScaleSweep as ScaleSweep
    from farspan.evals.scale_sweep import sweep_scales as sweep_scales
    from farspan.evals.schema import LongSample as LongSample
    from farspan.evals.tasks import TASKS as TASKS

_NAMES = {
    "PROBES": "core",
    "Probe": "core",
    "SUITES": "core",
    "EffectiveLength": "effective",
    "ScoreRecord": "effective",
    "compare_effective_lengths": "effective",
    "effective_length": "effective",
    "Perception": "perception",
    "local_perception": "perception",
    "evaluate": "run",
    "Evaluation": "evaluation",
    "TaskResult": "evaluation",
    "LongSample": "schema",
    "ScaleSweep": "scale_sweep",
    "sweep_scales": "scale_sweep",
    "TASKS": "tasks",
}

__all__ = [
    "PROBES",
    "SUITES",
    "TASKS",
    "EffectiveLength",
    "Evaluation",
    "LongSample",
    "Perception",
    "Probe",
    "ScaleSweep",
    "ScoreRecord",
    "TaskResult",
    "compare_effective_lengths",
    "effective_length",
    "evaluate",
    "local_perception",
    "sweep_scales",
]


def __getattr__(name: str) -> object:
    if name in _NAMES:
        return getattr(importlib.import_module(f"farspan.evals.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'farspan.evals' has no attribute '{name}'")
