"""Tables and pictures of runs: one self-contained HTML page and a CSV of every figure.

This room draws what it is given, the `RunRecord` of a run, evaluations side by side, or the `RopeView` of a model, and
measures nothing.
"""

from farspan.report.build import build_report
from farspan.report.evaluation_tables import EvaluationRun
from farspan.report.evaluations import build_evaluation_report, load_evaluation
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
    "EvaluationRun",
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
    "build_evaluation_report",
    "build_report",
    "build_rope_page",
    "load_evaluation",
]
