"""Tables and pictures of runs: one self-contained HTML page and a CSV of every figure.

This room draws what it is given, the `RunRecord` of a run or the `RopeView` of a model, and measures nothing.
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
from farspan.report.rope import RopeView, build_rope_page

__all__ = [
    "AblationRow",
    "Cell",
    "Effective",
    "LossPoint",
    "Measurement",
    "ModelInfo",
    "ProfileRow",
    "RecordError",
    "RopeView",
    "RunRecord",
    "TaskMeasure",
    "TrialRecord",
    "WinnerInfo",
    "build_report",
    "build_rope_page",
]
