"""The bundled reference model: weights, tokenizer, training file, training log and model card in one folder.

It is small enough for any laptop, was trained by Farspan's own training room, retrieves inside its native window of
512 tokens and falls apart beyond it, so that levers have something to show.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from farspan.errors import ModelNotFound


def reference_path() -> Path:
    """The folder of the bundled checkpoint."""
    folder = Path(str(files(__name__)))
    if not (folder / "config.json").is_file():
        raise ModelNotFound(f"the bundled reference model is missing from {folder}; reinstall farspan")
    return folder


def training_file() -> Path:
    """The YAML file that `farspan train` reproduces the bundled model from."""
    return Path(str(files(__name__))) / "train.yaml"
