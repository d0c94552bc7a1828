"""Models: loading, and the bundled reference model."""

from farspan.models.loading import REFERENCE, load, model_path
from farspan.models.reference import reference_path, training_file

__all__ = ["REFERENCE", "load", "model_path", "reference_path", "training_file"]
