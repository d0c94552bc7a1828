"""Tables and pictures of runs: one self-contained HTML page and a CSV of every figure.

This room draws what is in a `RunRecord` and measures nothing.
"""

from farspan.report.build import build_report
from farspan.report.record import (
    AblationRow,
    Cell,
    Effective,
    LossPoint,
    Measurement,
    ModelInfo,
    ProfileRow,
    RecordError,
    RunRecord,
    TaskMeasure,
    TrialRecord,
    WinnerInfo,
)

__all__ = [
    "AblationRow",
    "Cell",
    "Effective",
    "LossPoint",
    "Measurement",
    "ModelInfo",
    "ProfileRow",
    "RecordError",
    "RunRecord",
    "TaskMeasure",
    "TrialRecord",
    "WinnerInfo",
    "build_report",
]
