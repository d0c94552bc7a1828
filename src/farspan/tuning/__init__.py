"""The main job: search over recipes under a budget, keep what pays, and prove it."""

from farspan.tuning.run import tune

__all__ = ["tune"]
